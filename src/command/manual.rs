//! Man pages and shell completions, generated from the table of commands and the table of configuration keys.

use std::io::{self, Write};
use std::path::Path;

use clap::{Arg, Command};
use roff::{Inline, Roff, bold, italic, roman};

use crate::config::{self, KeyDefault, Role};
use crate::host::logging::events::KINDS;

use super::{EXIT_CODES, Exit, complain, table};

/// The names of the pages.
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

/// Writes each page to a file of its name in `dir`.
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

/// The text of a daemon's page. The lists are names with their meanings.
struct Administration {
    description: &'static str,
    signals: &'static [(&'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
    environment: &'static [(&'static str, &'static str)],
}

const HANGUP: (&str, &str) = (
    "SIGHUP",
    "Reloads the configuration; all counters are kept. systemctl reload and netring reload send this signal and wait until \
     the new settings are in force. If the configuration has errors, they are logged and the old settings stay in force. Keys \
     that only take effect after a restart are listed in the log.",
);
const STATE_DIRECTORY: (&str, &str) = (
    "STATE_DIRECTORY",
    "The directory for state that survives a restart; set by systemd for StateDirectory=. Overrides --state-dir.",
);
const RUNTIME_DIRECTORY: (&str, &str) = (
    "RUNTIME_DIRECTORY",
    "The directory in which the daemon records the result of a reload for netring reload; set by systemd for \
     RuntimeDirectory=. If unset, netring reload cannot be used.",
);
const JOURNAL_STREAM: (&str, &str) = (
    "JOURNAL_STREAM",
    "Set by systemd if stderr is connected to the journal. Each event is then written to the journal with its fields; see \
     JOURNAL.",
);
const RELOAD_RECORD: (&str, &str) = ("$RUNTIME_DIRECTORY/reload", "The result of the last reload, for netring reload.");
const SERVICE_MANAGER: (&str, &str) = (
    "NOTIFY_SOCKET, WATCHDOG_USEC, LISTEN_FDS",
    "Set by systemd. The daemon sends readiness, status and watchdog notifications, and listens on a socket passed by \
     systemd instead of the configured address.",
);

const REGISTRY: Administration = Administration {
    description: "Members register with the registry and get the roster of all members from it. The registry keeps the roster \
                  in memory and in its state directory, or in Redis if the configuration names one; several registries can \
                  share one Redis. /metrics has the registry's own metrics; /prometheus/targets lists the members for \
                  Prometheus's HTTP service discovery.",
    signals: &[
        HANGUP,
        ("SIGTERM, SIGINT", "Answers the requests in progress, saves the roster, and exits within a second."),
    ],
    files: &[
        ("/etc/netring/registry.yaml", "The configuration, see netring.yaml(5). Optional."),
        ("$STATE_DIRECTORY/registry.journal", "The roster. Not used with Redis."),
        RELOAD_RECORD,
    ],
    environment: &[
        ("LOG_LEVEL", "Which events are logged. Every other key has a variable too, see netring.yaml(5)."),
        STATE_DIRECTORY,
        RUNTIME_DIRECTORY,
        (
            "CREDENTIALS_DIRECTORY",
            "Set by systemd: the directory with the credential redis-password, the password of Redis.",
        ),
        SERVICE_MANAGER,
        JOURNAL_STREAM,
    ],
};

const MEMBER: Administration = Administration {
    description: "A member represents one site. It registers with the registry, follows the roster, probes every other member \
                  by TCP and HTTP, and exports the results at /metrics. While the registry is unavailable, it keeps probing \
                  the members of the last roster.",
    signals: &[HANGUP, ("SIGTERM, SIGINT", "Deregisters from the registry and exits within a second.")],
    files: &[
        (
            "/etc/netring/member.yaml",
            "The configuration, see netring.yaml(5). Optional if the environment sets the required keys.",
        ),
        ("$STATE_DIRECTORY/instance-id", "The identity of this member, which it keeps after a restart."),
        ("$STATE_DIRECTORY/roster.json", "The last roster, for a start while the registry is unavailable."),
        ("$STATE_DIRECTORY/left", "The registry from which this member has deregistered, for the next start."),
        RELOAD_RECORD,
    ],
    environment: &[
        ("MEMBER_LOCATION", "The site that this member represents."),
        ("REGISTRY_URL", "The URL of the registry, such as http://registry.us1.company.com:8756."),
        ("LOG_LEVEL", "Which events are logged. Every other key has a variable too, see netring.yaml(5)."),
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

/// The section on the journal: the fields, and the kinds of event that this role logs.
fn journal(roff: &mut Roff, role: Role) {
    roff.control("SH", ["JOURNAL"]).text([roman(
        "If stderr is connected to the journal, the details of an event are fields of its entry: NETRING_LOCATION and \
         NETRING_INSTANCE name the member, NETRING_TARGET_LOCATION, NETRING_TARGET and NETRING_CHECK the check that a member \
         made, and NETRING_REASON the cause. Events that are worth an alert also have NETRING_EVENT and MESSAGE_ID, which do \
         not change between versions; journalctl -x explains these events. In the text and JSON formats, the field event \
         corresponds to NETRING_EVENT.",
    )]);
    let of_role = || KINDS.iter().filter(|kind| kind.by.contains(&role));
    for kind in of_role() {
        item(roff, vec![bold(kind.name), roman(" "), roman(kind.id)], &format!("{} {}", kind.meaning, kind.advice));
    }
    roff.control("PP", []).text([roman("To find all events of one kind:")]);
    roff.control("PP", []).control("EX", []);
    for kind in of_role().take(1) {
        roff.text([roman(format!("journalctl -x MESSAGE_ID={}", kind.id))]);
    }
    roff.control("EE", []);
}

/// The page of the program: each command with its options. The daemons have their own pages.
fn all_commands() -> Roff {
    let all = built();
    let mut roff = headed("netring", "1", &about(&all));
    roff.control("SH", ["SYNOPSIS"]).text([bold("netring"), roman(" "), italic("COMMAND"), roman(" [OPTIONS]")]);
    roff.control("SH", ["DESCRIPTION"]).text([roman(
        "netring monitors the connectivity between sites. One registry keeps the roster of members; one member at each site \
         probes all the others and exports Prometheus metrics. Both daemons and the command line tools are commands of this \
         program. Each command has the option --help.",
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
    item(&mut roff, vec![bold("REGISTRY_URL")], "The URL of the registry for netring status; --registry overrides it.");
    exit_status(&mut roff);
    see_also(&mut roff, "netring(1)");
    roff
}

/// The table of commands, including the names and options that clap adds to every command.
fn built() -> Command {
    let mut all = table();
    all.build();
    all
}

/// The title of a page and its NAME section, which whatis(1) reads.
fn headed(name: &str, section: &str, about: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("TH", [name, section, "", &format!("netring {}", env!("CARGO_PKG_VERSION"))]);
    // No hyphenation, so that names and addresses can be copied.
    roff.control("nh", []).control("ad", ["l"]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    roff
}

/// The purpose of a command, as it follows the name in the NAME section: beginning with a small letter.
fn about(command: &Command) -> String {
    let text = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// Every command without subcommands.
fn leaves(command: &Command) -> Vec<&Command> {
    if command.has_subcommands() { command.get_subcommands().flat_map(leaves).collect() } else { vec![command] }
}

/// The arguments to describe: all but `--help`, which every command has.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| arg.get_id() != "help")
}

/// An argument as it is written on the command line: `--timeout TIME`, `--json`, `CONFIG`.
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

/// The examples of a command: the indented lines at the end of its help.
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

/// A name, with its meaning below.
fn item(roff: &mut Roff, name: Vec<Inline>, meaning: &str) {
    roff.control("TP", []).text(name).text([roman(meaning)]);
}

/// The page of the configuration: every key with its meaning, range, default and variable.
fn configuration() -> Roff {
    let mut roff = headed("netring.yaml", "5", "configuration of netring's registry and members");
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "The configuration files are YAML. The registry reads the section \"registry\" of /etc/netring/registry.yaml, a member \
         the section \"member\" of /etc/netring/member.yaml; both read the section \"log\". The command line can name another \
         file. A key that is not listed here is an error. Environment variables override the file; an empty variable counts \
         as unset. The former name of a renamed key is still read, with a warning, unless the new name is also set.",
    )]);
    roff.control("PP", []).text([roman(
        "Times are whole or decimal seconds, or text such as 250ms, 5s, 2m, 1h; sizes are bytes, or text such as 16KiB. \
         \"netring check FILE\" prints the settings and where each value comes from. A setting that is valid but unlikely to be \
         intended is a warning there and in the log.",
    )]);
    roff.control("SH", ["KEYS"]);
    for key in &config::keys() {
        setting(&mut roff, key);
    }
    see_also(&mut roff, "netring.yaml(5)");
    roff
}

/// One key with its meaning, range, default and variables.
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
    fn the_former_names_of_a_key_are_listed() {
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
