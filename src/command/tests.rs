//! The command line as users, scripts and the package build see it.

use std::path::Path;
use std::process::{Command as Process, Output, Stdio};

use clap::error::ErrorKind;

use super::*;
use crate::host::logging::events::KINDS;

/// All commands with `--help`, as typed after `netring`.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &Command, typed: &[String], found: &mut Vec<Vec<String>>) {
        found.push(typed.to_vec());
        for sub in command.get_subcommands() {
            below(sub, &[typed, &[sub.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    below(&table(), &[], &mut found);
    found
}

fn refusal(args: &[&str]) -> clap::Error {
    let args = std::iter::once("netring").chain(args.iter().copied());
    table().term_width(100).try_get_matches_from(args).expect_err("a command line that is not carried out")
}

fn exit_of(args: &[&str]) -> Exit {
    run(std::iter::once("netring").chain(args.iter().copied()).map(OsString::from))
}

/// Compares every help text with its golden file. With `UPDATE_GOLDEN` set, the files are rewritten.
#[test]
fn every_help_is_the_golden_one_and_has_an_example() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help");
    let mut golden_files = Vec::new();
    for command in commands() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = refusal(&args);
        assert_eq!(help.kind(), ErrorKind::DisplayHelp, "{command:?}");
        let found = help.render().to_string();
        let name = format!("{}.txt", [&["netring".to_owned()], &command[..]].concat().join("-"));
        let golden = folder.join(&name);
        golden_files.push(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&golden).unwrap(), found, "{}", golden.display());

        let example = found.lines().skip_while(|line| !line.starts_with("Example")).nth(1);
        let example = example.unwrap_or_else(|| panic!("no example in the help of {command:?}"));
        let program = example.split_whitespace().find(|word| !word.contains('='));
        assert!(example.starts_with("  ") && program == Some("netring"), "{command:?}: {example}");
        assert!(found.lines().all(|line| line.chars().count() <= 100), "{command:?} is wider than 100");
    }
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(golden_files.contains(&name), "{name} does not belong to a command");
    }
}

/// The examples in the help must be valid command lines.
#[test]
fn every_example_of_the_help_can_be_parsed() {
    for command in commands() {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = refusal(&args).render().to_string();
        let examples = help.lines().skip_while(|line| !line.starts_with("Example")).skip(1);
        for example in examples.map_while(|line| line.strip_prefix("  ")) {
            let words = example.split_whitespace().skip_while(|word| *word != "netring");
            let words: Vec<&str> = words.take_while(|word| ![">", "|"].contains(word)).collect();
            assert!(words.len() > 1, "{example}");
            table().try_get_matches_from(words).unwrap_or_else(|e| panic!("{example}: {e}"));
        }
    }
}

#[test]
fn wrong_usage_is_code_64_and_one_clear_message() {
    for (args, says) in [
        (&["regsitry"][..], "unrecognized subcommand 'regsitry'"),
        (&["registry", "a.yaml", "b.yaml"], "unexpected argument 'b.yaml' found"),
        (&["member", "--sate-dir", "x"], "unexpected argument '--sate-dir' found"),
        (&["demo", "--members", "1"], "invalid value '1' for '--members <N>': 1 is not in 2..=200"),
        (&["demo", "--members", "many"], "invalid value 'many' for '--members <N>'"),
        (&["demo", "--port", "80"], "80 is not in 1024..=65000"),
        (&["demo", "--fail", "eu1"], "expected LOCATION@SECONDS, such as eu1-k8s@10"),
        (&["demo", "--duration", "0"], "0 is not in 1..=86400"),
        (&["check"], "required arguments were not provided"),
        (&["check", "--registry", "--member", "x.yaml"], "'--registry' cannot be used with '--member'"),
        (&["probe", "udp", "x:1"], "unrecognized subcommand 'udp'"),
        (&["probe", "tcp"], "required arguments were not provided"),
        (&["probe", "tcp", "x:1", "--timeout", "soon"], "invalid value 'soon' for '--timeout <TIME>'"),
        (&["status", "--registry"], "a value is required for '--registry <URL>'"),
        (&["completions", "tcsh"], "invalid value 'tcsh' for '<SHELL>'"),
        (&["man", "netring.2"], "invalid value 'netring.2' for '[PAGE]'"),
        (&["man", "netring.1", "--dir", "/tmp"], "cannot be used with"),
        (&["--verbose"], "unexpected argument '--verbose' found"),
    ] {
        assert_eq!(exit_of(args), Exit::Usage, "{args:?}");
        let error = refusal(args);
        let text = error.render().to_string();
        assert!(error.use_stderr() && text.starts_with("error: ") && text.contains(says), "{args:?}: {text}");
        assert_eq!(text.matches("error: ").count(), 1, "{text}");
    }
    for bare in [&[][..], &["probe"]] {
        assert_eq!(exit_of(bare), Exit::Usage, "{bare:?} alone shows the help, on stderr");
    }
}

#[test]
fn help_and_version_exit_with_code_0() {
    for args in [&["--version"][..], &["--help"], &["demo", "--help"], &["probe", "http", "-h"]] {
        assert_eq!(exit_of(args), Exit::Ok, "{args:?}");
    }
    assert_eq!(refusal(&["--version"]).render().to_string(), concat!("netring ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn the_help_names_every_exit_code() {
    for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Unavailable, Exit::Config] {
        let code = exit as u8;
        assert!(EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))), "{code}");
    }
}

/// The output of a program that gets a text on stdin; `None`, after printing a skip, if it is not installed.
fn judged(program: &str, args: &[&str], input: &[u8]) -> Option<Output> {
    let pipes = || Stdio::piped();
    let child = Process::new(program).args(args).stdin(pipes()).stdout(pipes()).stderr(pipes()).spawn();
    let Ok(mut child) = child else {
        println!("SKIP {}: {program} is not installed", std::thread::current().name().unwrap_or("test"));
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        Some(child.wait_with_output().unwrap())
    })
}

fn assert_completions(shell: &str, name_of_a_command: &str) {
    let mut script = Vec::new();
    assert_eq!(manual::completions(shell, &mut script).unwrap(), Exit::Ok);
    let text = String::from_utf8(script.clone()).unwrap();
    for command in commands().concat() {
        assert!(text.contains(&command), "{shell}: no {command}");
    }
    assert!(text.contains(name_of_a_command), "{shell}");
    let Some(verdict) = judged(shell, &["-n"], &script) else { return };
    assert!(verdict.status.success() && verdict.stderr.is_empty(), "{shell}: {verdict:?}");
}

#[test]
fn completions_for_bash_are_a_bash_script() {
    assert_completions("bash", "complete -F _netring");
}

#[test]
fn completions_for_zsh_are_a_zsh_script() {
    assert_completions("zsh", "#compdef netring");
}

#[test]
fn completions_for_fish_are_a_fish_script() {
    assert_completions("fish", "complete -c netring");
}

fn page(name: &str) -> String {
    let mut page = Vec::new();
    assert_eq!(manual::page(name, &mut page).unwrap(), Exit::Ok);
    String::from_utf8(page).unwrap()
}

#[test]
fn manual_pages_have_the_sections_an_administrator_looks_for() {
    let daemon = "NAME SYNOPSIS DESCRIPTION OPTIONS SIGNALS FILES ENVIRONMENT JOURNAL EXIT_STATUS EXAMPLES SEE_ALSO";
    for (name, sections) in [
        ("netring.1", "NAME SYNOPSIS DESCRIPTION COMMANDS ENVIRONMENT EXIT_STATUS SEE_ALSO"),
        ("netring-registry.8", daemon),
        ("netring-member.8", daemon),
        ("netring.yaml.5", "NAME DESCRIPTION KEYS SEE_ALSO"),
    ] {
        let page = page(name);
        let found: Vec<_> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        let found = found.join(" ").replace("\"EXIT STATUS\"", "EXIT_STATUS").replace("\"SEE ALSO\"", "SEE_ALSO");
        assert_eq!(found, sections, "{name}");
        let (title, section) = name.rsplit_once('.').unwrap();
        assert!(page.contains(&format!(".TH {title} {section} ")), "{name} is titled by its name and section");
    }
    for kind in &KINDS {
        for role in Role::ALL {
            let page = page(&format!("netring-{}.8", role.section()));
            assert_eq!(page.contains(kind.id), kind.by.contains(&role), "{} on the page of {role:?}", kind.name);
        }
    }
    let all = page("netring.1");
    for command in commands() {
        assert!(all.contains(&command.join(" ")), "netring.1 leaves out {command:?}");
    }
}

#[test]
fn manual_pages_are_rendered_without_a_warning() {
    for name in manual::PAGES {
        let Some(verdict) = judged("groff", &["-ww", "-man", "-Tutf8"], page(name).as_bytes()) else { return };
        assert!(verdict.status.success() && verdict.stderr.is_empty(), "{name}: {verdict:?}");
    }
}

#[test]
fn all_pages_are_written_to_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(manual::write_all(directory.path()), Exit::Ok);
    for name in manual::PAGES {
        assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), page(name));
    }
    assert_eq!(manual::write_all(&directory.path().join("missing")), Exit::Failed);
}
