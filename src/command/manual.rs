//! Man pages and shell completions, made from the table of commands and the table of configuration keys.

use std::io::{self, Write};
use std::path::Path;

use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

use crate::config::{self, KeyDefault, Role};
use crate::host::logging::events::KINDS;

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
    let roff = match name {
        "netring-registry.8" => daemon(Role::Registry, &REGISTRY),
        "netring-member.8" => daemon(Role::Member, &MEMBER),
        "netring.yaml.5" => configuration(),
        _ => all_commands(),
    };
    let mut page = Vec::new();
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// What an administrator looks for on the page of a daemon. The lists are names with their meanings.
struct Administration {
    description: &'static str,
    signals: &'static [(&'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
    environment: &'static [(&'static str, &'static str)],
}

const HANGUP: (&str, &str) = (
    "SIGHUP",
    "Reads the configuration again and keeps all counters. systemctl reload and netring reload send it and wait until the \
     new settings are in force. Where it is wrong the faults are logged and the old settings \
     stay in force; keys that wait for a restart are named.",
);
const STATE_DIRECTORY: (&str, &str) =
    ("STATE_DIRECTORY", "Where to keep state, as systemd's StateDirectory= sets it; goes before --state-dir.");
const RUNTIME_DIRECTORY: (&str, &str) = (
    "RUNTIME_DIRECTORY",
    "Where to tell netring reload what became of a reload, as systemd's RuntimeDirectory= sets it. Without it nothing is told.",
);
const JOURNAL_STREAM: (&str, &str) = (
    "JOURNAL_STREAM",
    "Set by systemd: whether stderr is the journal, which then takes each event with its fields; see JOURNAL.",
);
const RELOAD_WORD: (&str, &str) = ("$RUNTIME_DIRECTORY/reload", "What became of the last reload, for netring reload.");
const SERVICE_MANAGER: (&str, &str) = (
    "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS",
    "Set by systemd: readiness, status and watchdog are reported there, and a socket handed over is served in the place \
     of the configured address.",
);

const REGISTRY: Administration = Administration {
    description: "Members register here and ask who else is in the ring. The roster is kept in this process and its state \
                  directory, or in Redis where the configuration names one, which several registries may share. Its \
                  figures for Prometheus are at /metrics, the members as targets at /prometheus/targets.",
    signals: &[HANGUP, ("SIGTERM, SIGINT", "Answers what is under way, keeps the roster, and ends within a second.")],
    files: &[
        ("/etc/netring/registry.yaml", "The configuration, see netring.yaml(5). It may be missing."),
        ("$STATE_DIRECTORY/registry.journal", "The roster, over restarts. Not used with Redis."),
        RELOAD_WORD,
    ],
    environment: &[
        ("LOG_LEVEL", "How much is logged. Every other key has a variable too, see netring.yaml(5)."),
        STATE_DIRECTORY,
        RUNTIME_DIRECTORY,
        ("CREDENTIALS_DIRECTORY", "Where systemd puts the credential redis-password, the password of Redis."),
        SERVICE_MANAGER,
        JOURNAL_STREAM,
    ],
};

const MEMBER: Administration = Administration {
    description: "A member stands for one site. It registers, follows the roster, probes every other member by TCP and \
                  HTTP, and shows at /metrics what it saw. While the registry is away it goes on with the roster it last \
                  had.",
    signals: &[HANGUP, ("SIGTERM, SIGINT", "Leaves the ring and ends within a second.")],
    files: &[
        (
            "/etc/netring/member.yaml",
            "The configuration, see netring.yaml(5). It may be missing where the environment says enough.",
        ),
        ("$STATE_DIRECTORY/instance-id", "The identity of this member, so that a restart is not a new member."),
        ("$STATE_DIRECTORY/roster.json", "The last roster, for a start while the registry is away."),
        ("$STATE_DIRECTORY/left", "Which registry was told that this member leaves, for the next start."),
        RELOAD_WORD,
    ],
    environment: &[
        ("MEMBER_LOCATION", "The site this member stands for."),
        ("REGISTRY_URL", "The registry, such as http://registry.us1.company.com:8756."),
        ("LOG_LEVEL", "How much is logged. Every other key has a variable too, see netring.yaml(5)."),
        STATE_DIRECTORY,
        RUNTIME_DIRECTORY,
        SERVICE_MANAGER,
        JOURNAL_STREAM,
    ],
};

/// The page of a daemon, in the section for system administration.
fn daemon(role: Role, administration: &Administration) -> Roff {
    let name = role.section();
    let all = built();
    let command = all.find_subcommand(name).expect("the daemons are in the table");
    let mut roff = headed(&format!("netring-{name}"), "8", &about(command));
    roff.control("SH", ["SYNOPSIS"]).text(synopsis(command));
    roff.control("SH", ["DESCRIPTION"]).text([roman(administration.description)]);
    roff.control("SH", ["OPTIONS"]);
    options(&mut roff, command);
    for (heading, list) in [
        ("SIGNALS", administration.signals),
        ("FILES", administration.files),
        ("ENVIRONMENT", administration.environment),
    ] {
        roff.control("SH", [heading]);
        for (name, meaning) in list {
            item(&mut roff, vec![bold(*name)], meaning);
        }
    }
    journal(&mut roff, role);
    exit_status(&mut roff);
    roff.control("SH", ["EXAMPLES"]);
    examples(&mut roff, command);
    see_also(&mut roff, &format!("netring-{name}(8)"));
    roff
}

/// What the daemon of this role tells the journal.
fn journal(roff: &mut Roff, role: Role) {
    roff.control("SH", ["JOURNAL"]).text([roman(
        "Where stderr is the journal, the facts of an event are fields of its entry: NETRING_LOCATION and NETRING_INSTANCE for \
         who it is about, at a member also NETRING_TARGET_LOCATION, NETRING_TARGET and NETRING_CHECK for what was probed; \
         NETRING_REASON says why. Events worth an alert have a NETRING_EVENT and a MESSAGE_ID, which stay the same whatever \
         else changes; journalctl -x explains them. In text and JSON the field is event.",
    )]);
    let of_role = || KINDS.iter().filter(|kind| kind.by.contains(&role));
    for kind in of_role() {
        item(roff, vec![bold(kind.name), roman(" "), roman(kind.id)], &format!("{} {}", kind.meaning, kind.advice));
    }
    roff.control("PP", []).text([roman("All of one kind, such as:")]);
    roff.control("PP", []).control("EX", []);
    for kind in of_role().take(1) {
        roff.text([roman(format!("journalctl -x MESSAGE_ID={}", kind.id))]);
    }
    roff.control("EE", []);
}

/// The page of the program: each command with its options. The daemons have pages of their own.
fn all_commands() -> Roff {
    let all = built();
    let mut roff = headed("netring", "1", &about(&all));
    roff.control("SH", ["SYNOPSIS"]).text([bold("netring"), roman(" "), italic("COMMAND"), roman(" [OPTIONS]")]);
    roff.control("SH", ["DESCRIPTION"]).text([roman(
        "One registry knows who is in the ring; one member at each site probes all the others and exports Prometheus \
         metrics. Both daemons and the tools for people are commands of this program. Each takes --help.",
    )]);
    roff.control("SH", ["COMMANDS"]);
    for command in leaves(&all) {
        let name = command.get_name();
        roff.control("SS", [command.get_bin_name().unwrap_or(name)]).text(synopsis(command));
        roff.control("PP", [])
            .text([roman(format!("{}.", command.get_about().map(ToString::to_string).unwrap_or_default()))]);
        if matches!(name, "registry" | "member") {
            roff.text([roman("See "), bold(format!("netring-{name}")), roman("(8).")]);
            continue;
        }
        options(&mut roff, command);
        examples(&mut roff, command);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    item(&mut roff, vec![bold("REGISTRY_URL")], "The registry that netring status asks, unless --registry names one.");
    exit_status(&mut roff);
    see_also(&mut roff, "netring(1)");
    roff
}

/// The table, complete with the names and options that every command gets.
fn built() -> Command {
    let mut all = table();
    all.build();
    all
}

/// A page's title and NAME section, which whatis(1) reads.
fn headed(name: &str, section: &str, about: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("TH", [name, section, "", &format!("netring {}", env!("CARGO_PKG_VERSION"))]);
    // Names and addresses are there to be copied, so no word is broken.
    roff.control("nh", []).control("ad", ["l"]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    roff
}

/// What a command is for, to stand after its name: with a small letter and no full stop.
fn about(command: &Command) -> String {
    let text = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Every command that does something itself.
fn leaves(command: &Command) -> Vec<&Command> {
    if command.has_subcommands() { command.get_subcommands().flat_map(leaves).collect() } else { vec![command] }
}

/// The arguments worth a word: `--help` is everywhere.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_id() != "help")
}

/// How an argument is written: `--timeout TIME`, `--json`, `CONFIG`.
fn written_as(arg: &Arg) -> Vec<Inline> {
    let takes_value = arg.get_num_args().is_some_and(|number| number.takes_values());
    let value = arg.get_value_names().filter(|_| takes_value).map(|names| italic(names.join(" ")));
    let option = arg.get_long().map(|long| bold(format!("--{long}")));
    match (option, value) {
        (Some(option), Some(value)) => vec![option, roman(" "), value],
        (option, value) => option.into_iter().chain(value).collect(),
    }
}

fn synopsis(command: &Command) -> Vec<Inline> {
    let mut line = vec![bold(command.get_bin_name().unwrap_or_else(|| command.get_name()))];
    for arg in arguments(command) {
        let (before, after) = if arg.is_required_set() { (" ", "") } else { (" [", "]") };
        line.push(roman(before));
        line.extend(written_as(arg));
        line.push(roman(after));
    }
    line
}

fn options(roff: &mut Roff, command: &Command) {
    for arg in arguments(command) {
        let mut help = format!("{}.", arg.get_help().map(ToString::to_string).unwrap_or_default());
        if arg.get_num_args().is_some_and(|number| number.takes_values()) {
            let joined = |words: Vec<String>| words.join(", ");
            let choices = joined(arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect());
            let defaults = joined(arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect());
            if !choices.is_empty() {
                help += &format!(" One of {choices}.");
            }
            if !defaults.is_empty() {
                help += &format!(" Default: {defaults}.");
            }
        }
        item(roff, written_as(arg), &help);
    }
}

/// The examples of a command's help: its indented lines, as they are.
fn examples(roff: &mut Roff, command: &Command) {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    roff.control("PP", []).control("EX", []);
    for example in after.lines().filter_map(|line| line.strip_prefix("  ")) {
        roff.text([roman(example)]);
    }
    roff.control("EE", []);
}

fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for line in EXIT_CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once(' ').unwrap_or((line, ""));
        item(roff, vec![bold(code)], meaning.trim());
    }
}

fn see_also(roff: &mut Roff, this: &str) {
    let others = ["netring(1)", "netring.yaml(5)", "netring-member(8)", "netring-registry(8)"];
    let others: Vec<&str> = others.into_iter().filter(|page| *page != this).collect();
    roff.control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]);
}

/// A name with its meaning below it.
fn item(roff: &mut Roff, name: Vec<Inline>, meaning: &str) {
    roff.control("TP", []).text(name).text([roman(meaning)]);
}

/// The page of the configuration: every key with its meaning, range, default and variable.
fn configuration() -> Roff {
    let mut roff = headed("netring.yaml", "5", "configuration of netring's registry and members");
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "YAML. The registry reads /etc/netring/registry.yaml and its section \"registry\", a member /etc/netring/member.yaml \
         and its section \"member\", unless another file is named; both read the section \"log\". A key that is not listed \
         here is an error. An environment variable overrides the file; an empty one counts as unset. Where a key \
         has been renamed its former name stands beside it: that is still read, with a warning, unless both are there.",
    )]);
    roff.control("PP", []).text([roman(
        "Times are whole or decimal seconds, or text such as 250ms, 5s, 2m, 1h; sizes are bytes, or text such as 16KiB. \
         \"netring check FILE\" prints what is in force and where each value comes from. What is valid but unlikely to be \
         meant is a warning there and in the log.",
    )]);
    roff.control("SH", ["KEYS"]);
    for key in &config::keys() {
        setting(&mut roff, key);
    }
    see_also(&mut roff, "netring.yaml(5)");
    roff
}

/// One key with all there is to know about it.
fn setting(roff: &mut Roff, key: &config::Key) {
    let default = match key.default {
        KeyDefault::Required => "none, it must be set".to_owned(),
        KeyDefault::Unset => "unset".to_owned(),
        KeyDefault::Value("") => "an empty list".to_owned(),
        KeyDefault::Value(value) => value.to_owned(),
    };
    roff.control("TP", []).text([bold(key.path)]);
    roff.text([roman(format!("{} Expects {}.", key.doc, key.expects))]);
    roff.control("br", []);
    let environment = bold(key.environment.as_str());
    roff.text([roman("Default: "), italic(default), roman(". Environment: "), environment, roman(".")]);
    if !key.formerly.is_empty() {
        let names = key.formerly.iter().copied().chain(key.former_environment.iter().map(String::as_str));
        roff.control("br", []).text([roman("Formerly: "), bold(names.collect::<Vec<_>>().join(", ")), roman(".")]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_former_names_of_a_key_stand_beside_it() {
        let mut key = config::keys().remove(0);
        let page = |key: &config::Key| {
            let mut roff = Roff::new();
            setting(&mut roff, key);
            roff.to_roff()
        };
        assert!(!page(&key).contains("Formerly"));
        key.formerly = &["registry.redis.server"];
        key.former_environment = vec!["NETRING_REGISTRY_REDIS_SERVER".into()];
        let text = page(&key);
        assert!(
            text.ends_with(".br\nFormerly: \\fBregistry.redis.server, NETRING_REGISTRY_REDIS_SERVER\\fR.\n"),
            "{text}"
        );
    }
}
