//! The command line: one table of commands, from which the parser, the help, the manual and shell completions are generated.

mod check;
mod daemon;
mod demo;
mod healthcheck;
mod manual;
mod probe;
mod reload;
mod status;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Role, environment, parse_duration};
use crate::host::logging;
use crate::probe::CheckType;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};

/// The exit code of a command. The numbers above 1 are those of sysexits.h, so that service managers and scripts can tell
/// them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded; so did the probe.
    Ok = 0,
    /// The command ran, but the result is negative: a probe failed.
    Failed = 1,
    /// The command line is wrong (`EX_USAGE`).
    Usage = 64,
    /// Something needed is unavailable: a port in use, a registry or a daemon that does not answer (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// The configuration has errors (`EX_CONFIG`).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The meaning of each exit code, for the manual and `netring --help`.
const EXIT_CODES: &str = "Exit codes:
  0   success; the probe succeeded, the configuration is valid
  1   failure; the probe failed, or the daemon is not healthy
  64  the command line is wrong
  69  unavailable: a port is in use, or the registry or daemon does not answer
  78  the configuration has errors; all of them are listed";

/// The table of commands.
#[must_use]
pub fn table() -> Command {
    Command::new("netring")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Monitors whether every site can reach every other site, how fast, and why not")
        .after_help(format!("Example:\n  netring demo\n\n{EXIT_CODES}"))
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .max_term_width(100)
        .subcommand(daemon(
            "registry",
            "Run the registry, which keeps the roster of members",
            "Configuration file [default: /etc/netring/registry.yaml, if it exists]",
            "Example:\n  netring registry config/registry.yaml\n\nSIGHUP reloads the configuration; SIGTERM stops the registry.",
        ))
        .subcommand(daemon(
            "member",
            "Run a member, which probes all other members and exports the results as metrics",
            "Configuration file [default: /etc/netring/member.yaml, if it exists]",
            "Examples:\n  netring member config/member.yaml\n  MEMBER_LOCATION=eu1-docker REGISTRY_URL=http://registry.us1.company.com:8756 netring \
             member\n\nSIGHUP reloads the configuration; SIGTERM deregisters and stops the member.",
        ))
        .subcommand(
            Command::new("demo")
                .about("Run a whole ring on this machine for a try: one registry and several members on loopback")
                .arg(
                    Arg::new("members")
                        .long("members")
                        .value_name("N")
                        .help("Number of members, 2 to 200")
                        .default_value("5")
                        .value_parser(value_parser!(u16).range(2..=200)),
                )
                .arg(
                    Arg::new("fail")
                        .long("fail")
                        .value_name("LOCATION@SECONDS")
                        .help("Kill the member at LOCATION after SECONDS, without deregistering it; may be repeated")
                        .action(ArgAction::Append)
                        .value_parser(demo::Failing::parse),
                )
                .arg(
                    Arg::new("port")
                        .long("port")
                        .value_name("PORT")
                        .help("Port of the registry; the members use the ports after it")
                        .default_value("8756")
                        .value_parser(value_parser!(u16).range(1024..=65000)),
                )
                .arg(
                    Arg::new("duration")
                        .long("duration")
                        .value_name("SECONDS")
                        .help("Stop after SECONDS; otherwise run until Ctrl-C")
                        .value_parser(value_parser!(u32).range(1..=86_400)),
                )
                .after_help("Example:\n  netring demo --fail eu1-k8s@10"),
        )
        .subcommand(
            Command::new("check")
                .about("Check a configuration file as the daemon would read it, and print the settings or all errors")
                .arg(Arg::new("config").value_name("CONFIG").required(true).value_parser(value_parser!(PathBuf)).help("Configuration file"))
                .arg(flag("registry", "Check it as a registry's file [default: depends on its sections]"))
                .arg(flag("member", "Check it as a member's file"))
                .group(ArgGroup::new("role").args(["registry", "member"]))
                .arg(flag("json", "Print one JSON object"))
                .after_help("Example:\n  netring check config/member.yaml"),
        )
        .subcommand(
            Command::new("probe")
                .about("Make one probe, as a member makes it, and print the time of each phase")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .disable_help_subcommand(true)
                .subcommand(probe_kind(
                    "tcp",
                    "Open and close a TCP connection",
                    Arg::new("target").value_name("HOST:PORT").help("Where to connect; put an IPv6 address in brackets"),
                    "5s",
                    "Example:\n  netring probe tcp localhost:8757",
                ))
                .subcommand(probe_kind(
                    "http",
                    "Send an HTTP GET request and read the response",
                    Arg::new("target").value_name("URL").help("URL to get, such as http://10.1.2.3:8756/health"),
                    "10s",
                    "Example:\n  netring probe http http://localhost:8757/health",
                ))
                .after_help("Example:\n  netring probe tcp localhost:8757"),
        )
        .subcommand(
            Command::new("status")
                .about("List the members on the registry's roster")
                .arg(
                    Arg::new("registry")
                        .long("registry")
                        .value_name("URL")
                        .help("URL of the registry [default: $REGISTRY_URL, else http://localhost:8756]"),
                )
                .arg(flag("json", "Print the list as JSON"))
                .after_help("Example:\n  netring status --registry http://registry.us1.company.com:8756"),
        )
        .subcommand(
            Command::new("healthcheck")
                .about("Query the health of the daemon on this host, for containers and scripts")
                .arg(Arg::new("config").value_name("CONFIG").value_parser(value_parser!(PathBuf)).help(
                    "Configuration file of the daemon, to find its address [default: the file the daemon reads]",
                ))
                .arg(flag("registry", "Expect a registry: the check fails where another program answers"))
                .arg(flag("member", "Expect a member: the check fails where another program answers"))
                .group(ArgGroup::new("role").args(["registry", "member"]))
                .arg(flag("alive", "Fail only where a restart could help: a registry whose store is down is alive"))
                .arg(time_limit("3s"))
                .after_help(
                    "Prints one line, which names the daemon that answered. A CONFIG for a registry or a member alone has the \
                     effect of --registry or --member. Without any of these, the address is that of the member, and either \
                     may answer.\n\nExit code 0: the \
                     daemon serves requests, even if a member reports that it is unwell; 1: it reports that it is not healthy, \
                     does not answer, or is not the expected one. Use it plain for readiness probes and with --alive for \
                     liveness probes: a registry whose store is down still serves the last roster, and a restart would not \
                     help.\n\nExamples:\n  netring healthcheck --registry\n  netring healthcheck --registry --alive",
                ),
        )
        .subcommand(
            Command::new("reload")
                .about("Make a daemon reload its configuration, and report whether the new one is in force")
                .arg(
                    Arg::new("pid")
                        .value_name("PID")
                        .help("Process id of the daemon [default: $MAINPID, which systemd sets]")
                        .value_parser(value_parser!(u32).range(1..=i64::from(i32::MAX))),
                )
                .after_help(
                    "The daemon reports the result in $RUNTIME_DIRECTORY. systemctl reload sets both variables.\n\nExample:\n  \
                     RUNTIME_DIRECTORY=/run/netring-member netring reload 4711",
                ),
        )
        .subcommand(
            Command::new("completions")
                .about("Print a shell completion script")
                .arg(
                    Arg::new("shell")
                        .value_name("SHELL")
                        .required(true)
                        .help("The shell")
                        .value_parser(PossibleValuesParser::new(["bash", "zsh", "fish"])),
                )
                .after_help("Example:\n  netring completions bash > /etc/bash_completion.d/netring"),
        )
        .subcommand(
            Command::new("man")
                .about("Print a manual page, or write all of them to a directory")
                .arg(
                    Arg::new("page")
                        .value_name("PAGE")
                        .help("The page")
                        .default_value("netring.1")
                        .value_parser(PossibleValuesParser::new(manual::PAGES)),
                )
                .arg(
                    Arg::new("dir")
                        .long("dir")
                        .value_name("DIR")
                        .help("Write all pages to DIR")
                        .value_parser(value_parser!(PathBuf))
                        .conflicts_with("page"),
                )
                .after_help("Example:\n  netring man netring.yaml.5 | man -l -"),
        )
}

fn daemon(name: &'static str, about: &'static str, config: &'static str, after: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .arg(Arg::new("config").value_name("CONFIG").help(config).value_parser(value_parser!(PathBuf)))
        .arg(
            Arg::new("state-dir")
                .long("state-dir")
                .value_name("DIR")
                .help("Directory for state that survives a restart [default: $STATE_DIRECTORY; if unset, state is only in memory]")
                .value_parser(value_parser!(PathBuf)),
        )
        .after_help(after)
}

fn probe_kind(
    name: &'static str,
    about: &'static str,
    target: Arg,
    limit: &'static str,
    after: &'static str,
) -> Command {
    Command::new(name)
        .about(about)
        .arg(target.required(true))
        .arg(time_limit(limit))
        .arg(flag("json", "Print one JSON object"))
        .after_help(after)
}

fn time_limit(default: &'static str) -> Arg {
    Arg::new("timeout")
        .long("timeout")
        .value_name("TIME")
        .help("Time limit, such as 250ms or 5s")
        .default_value(default)
        .value_parser(parse_duration)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// Parses the command line and runs the command.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Exit {
    let matches = match table().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // clap prints help and version to stdout and errors to stderr. A closed pipe is not an error.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let path = |matches: &ArgMatches, name: &str| matches.get_one::<PathBuf>(name).cloned();
    let out: &mut dyn Write = &mut UntilClosed(io::stdout().lock());
    match matches.subcommand() {
        Some(("registry", m)) => daemon::registry(path(m, "config").as_deref(), path(m, "state-dir").as_deref()),
        Some(("member", m)) => daemon::member(path(m, "config").as_deref(), path(m, "state-dir").as_deref()),
        Some(("demo", m)) => demo::run(&demo::Options {
            members: *m.get_one("members").expect("has a default"),
            failing: m.get_many("fail").map(|all| all.cloned().collect()).unwrap_or_default(),
            port: *m.get_one("port").expect("has a default"),
            duration: m.get_one("duration").map(|&seconds: &u32| Duration::from_secs(seconds.into())),
        }),
        Some(("check", m)) => {
            let config = path(m, "config").expect("is required");
            written(check::run(role(m), &config, m.get_flag("json"), &environment(), out))
        }
        Some(("probe", m)) => {
            let (kind, m) = m.subcommand().expect("is required");
            let args = probe::Args {
                check_type: if kind == "http" { CheckType::Http } else { CheckType::Tcp },
                target: m.get_one::<String>("target").expect("is required").clone(),
                timeout: m.get_one("timeout").copied(),
                json: m.get_flag("json"),
            };
            probe::run(&args, out, &mut io::stderr())
        }
        Some(("status", m)) => status::run(m.get_one("registry").map(String::as_str), m.get_flag("json"), out),
        Some(("healthcheck", m)) => {
            let limit = *m.get_one("timeout").expect("has a default");
            written(healthcheck::run(
                role(m),
                path(m, "config").as_deref(),
                m.get_flag("alive"),
                limit,
                &environment(),
                out,
            ))
        }
        Some(("reload", m)) => written(reload::run(m.get_one("pid").copied(), out)),
        Some(("completions", m)) => {
            written(manual::completions(m.get_one::<String>("shell").expect("is required"), out))
        }
        Some(("man", m)) => match path(m, "dir") {
            Some(dir) => manual::write_all(&dir),
            None => written(manual::page(m.get_one::<String>("page").expect("has a default"), out)),
        },
        _ => unreachable!("a subcommand is required, and all are listed here"),
    }
}

/// The role that `--registry` or `--member` names.
fn role(matches: &ArgMatches) -> Option<Role> {
    match matches.get_one::<clap::Id>("role").map(clap::Id::as_str) {
        Some("registry") => Some(Role::Registry),
        Some("member") => Some(Role::Member),
        _ => None,
    }
}

/// Standard output, whose reader may stop reading, as in `netring check netring.yaml | head -1`. What is written after that is
/// discarded, so that the exit code of a command does not depend on who reads its output.
struct UntilClosed<W>(W);

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.0.write(buf) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(buf.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// The exit code of a command that printed its answer.
fn written(result: io::Result<Exit>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(error) => {
            complain(format_args!("cannot write to stdout: {error}"));
            Exit::Failed
        }
    }
}

/// Prints an error on stderr, for people at a terminal. If stderr is the journal, each line gets the priority of an error by
/// its prefix (sd-daemon(3)).
fn complain(what: impl std::fmt::Display) {
    let priority = if logging::stderr_is_journal() { "<3>" } else { "" };
    let lines: Vec<String> = format!("netring: {what}").lines().map(|line| format!("{priority}{line}")).collect();
    // Not by eprintln!, which panics where stderr is closed. The exit code still tells the outcome.
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// An error with all its causes, as one line: `cannot open state directory: permission denied`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
