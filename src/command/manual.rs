//! Man pages and shell completions, made from the table of commands and the table of configuration keys.

use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::config::{self, KeyDefault};

use super::{EXIT_CODES, Exit, complain, table};

/// The pages there are.
pub(super) const PAGES: [&str; 4] = ["netring.1", "netring-registry.8", "netring-member.8", "netring.yaml.5"];

/// Prints the completion script for `shell`.
pub(super) fn completions(shell: &str, out: &mut dyn Write) -> io::Result<Exit> {
    let shell: clap_complete::Shell = shell.parse().expect("the command line accepts known shells only");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut table(), "netring", &mut script);
    out.write_all(&script).map(|()| Exit::Ok)
}

/// Prints one manual page.
pub(super) fn page(name: &str, out: &mut dyn Write) -> io::Result<Exit> {
    out.write_all(&render(name)?).map(|()| Exit::Ok)
}

/// Writes every page to `dir`, each in a file of its name.
pub(super) fn write_all(dir: &Path) -> Exit {
    for name in PAGES {
        let path = dir.join(name);
        if let Err(error) = render(name).and_then(|page| std::fs::write(&path, page)) {
            complain(format_args!("cannot write {}: {error}", path.display()));
            return Exit::Failed;
        }
    }
    Exit::Ok
}

fn render(name: &str) -> io::Result<Vec<u8>> {
    let mut page = Vec::new();
    match name {
        "netring-registry.8" => daemon("registry").render(&mut page)?,
        "netring-member.8" => daemon("member").render(&mut page)?,
        "netring.yaml.5" => configuration(&mut page)?,
        _ => all_commands(&mut page)?,
    }
    Ok(page)
}

/// The page of a daemon, in the section for system administration.
fn daemon(name: &'static str) -> Man {
    let mut all = table();
    all.build();
    let command = all.find_subcommand(name).expect("the daemons are in the table").clone();
    Man::new(command).title(format!("netring-{name}")).section("8").source(source())
}

/// The page of the program: the table itself, then each command with its options.
fn all_commands(page: &mut Vec<u8>) -> io::Result<()> {
    let mut all = table();
    all.build();
    let man = Man::new(all.clone()).section("1").source(source());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_subcommands_section(page)?;
    for (name, command) in leaves(&all, "netring") {
        Roff::new().control("SH", [name.to_uppercase().as_str()]).to_writer(page)?;
        let man = Man::new(command);
        man.render_description_section(page)?;
        man.render_options_section(page)?;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for line in EXIT_CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap_or((line, ""));
        roff.control("TP", []).text([bold(code)]).text([roman(meaning.trim())]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("netring-registry(8), netring-member(8), netring.yaml(5)")]);
    roff.to_writer(page)
}

/// Every command that does something, under its full name.
fn leaves(command: &Command, path: &str) -> Vec<(String, Command)> {
    let subcommands: Vec<&Command> = command.get_subcommands().collect();
    if subcommands.is_empty() {
        return vec![(path.to_owned(), command.clone())];
    }
    subcommands.into_iter().flat_map(|sub| leaves(sub, &format!("{path} {}", sub.get_name()))).collect()
}

/// The page of the configuration: every key with its meaning, range, default and variable.
fn configuration(page: &mut Vec<u8>) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("TH", ["netring.yaml", "5", "", &source()]);
    roff.control("SH", ["NAME"]).text([roman("netring.yaml - configuration of netring's registry and members")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "YAML. The registry reads /etc/netring/registry.yaml and its section \"registry\", a member /etc/netring/member.yaml \
         and its section \"member\", unless another file is named; both read the section \"log\". A key that is not listed \
         here is an error. A variable of the environment stands above the file; an empty one counts as unset.",
    )]);
    roff.control("PP", []).text([roman(
        "Times are whole or decimal seconds, or text such as 250ms, 5s, 2m, 1h. \"netring check FILE\" prints what is in \
         force and where each value comes from.",
    )]);
    roff.control("SH", ["KEYS"]);
    for key in config::keys() {
        let default = match key.default {
            KeyDefault::Required => "none, it must be set".to_owned(),
            KeyDefault::Unset => "unset".to_owned(),
            KeyDefault::Value(value) => value.to_owned(),
        };
        roff.control("TP", []).text([bold(key.path)]);
        roff.text([roman(format!("{} Expects {}.", key.doc, key.expects))]);
        roff.control("br", []);
        roff.text([roman("Default: "), italic(default), roman(". Environment: "), bold(key.environment), roman(".")]);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("netring(1), netring-registry(8), netring-member(8)")]);
    roff.to_writer(page)
}

fn source() -> String {
    format!("netring {}", env!("CARGO_PKG_VERSION"))
}
