//! `netring reload` against real daemons: it returns when the new configuration is in force, and says so where it is not.

pub mod support;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, NETRING, Registry};
use support::process::Process;
use support::{SOON, Scratch, eventually, holds};

const IN_FORCE: &str = "netring_config_last_reload_successful";
const SINCE: &str = "netring_config_last_reload_success_timestamp_seconds";

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn reload(daemon: &Daemon) -> (Option<i32>, String) {
    said(&daemon.reload().output().expect("netring can be run"))
}

/// The last status it has sent, and whether READY came after it.
fn last_status(daemon: &Daemon) -> (String, bool) {
    let messages = daemon.notifications();
    let at = messages.iter().rposition(|message| message.starts_with("STATUS=")).expect("a status was sent");
    (messages[at].clone(), messages[at..].iter().any(|message| message.lines().any(|line| line == "READY=1")))
}

#[test]
fn a_daemon_answers_whether_its_new_configuration_is_in_force() {
    let registry_to_be = Registry { member_ttl: 300, ..Registry::new() };
    let registry = registry_to_be.start();
    let member_to_be = Member::new("us1", registry.server);
    let member = member_to_be.start();
    let elsewhere = support::socket();
    let moved = [
        (&registry, registry_to_be.yaml(), Registry { server: elsewhere, ..registry_to_be.clone() }.yaml()),
        (&member, member_to_be.yaml(), Member { server: elsewhere, ..member_to_be.clone() }.yaml()),
    ];
    for ((daemon, good, moved), section) in moved.into_iter().zip(["registry", "member"]) {
        let start = daemon.metrics().value(SINCE, &[]).unwrap();
        assert_eq!(daemon.metrics().value(IN_FORCE, &[]), Some(1.0));
        assert_eq!(reload(daemon), (Some(0), "the new configuration is in force\n".into()));

        daemon.configure(&moved);
        let waiting =
            format!("the new configuration is in force, except for changes that need a restart: {section}.server\n");
        assert_eq!(reload(daemon), (Some(0), waiting));

        daemon.configure(&good.replace(&format!("{section}:\n"), &format!("{section}:\n  colour: red\n")));
        let (code, text) = reload(daemon);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.starts_with("netring: new configuration refused, the old one stays in force: "), "{text}");
        assert!(text.contains(&format!("config.yaml:2:3: {section}.colour: expected one of ")), "{text}");
        // What the service manager was told had been sent before the answer was given, and is read a moment later.
        eventually(SOON, "the status tells of the refusal, and the reload is over", || {
            let (status, ready) = last_status(daemon);
            holds(status.contains("new configuration refused") && ready, status)
        });
        daemon.wait_for_value(IN_FORCE, &[], 0.0);
        assert!(daemon.log().contains("colour"), "the journal has it too");

        daemon.configure(&good);
        assert_eq!(reload(daemon).0, Some(0));
        daemon.wait_for_value(IN_FORCE, &[], 1.0);
        assert!(daemon.metrics().value(SINCE, &[]).unwrap() >= start);
        eventually(SOON, "the status is as it was", || {
            let (status, ready) = last_status(daemon);
            holds(!status.contains("refused") && ready, status)
        });
    }
}

#[test]
fn whoever_asks_is_told_of_the_file_as_it_was_then_however_many_ask() {
    let described = Registry::new();
    let registry = described.start();
    let wrong = described.yaml().replace("member_ttl: 3", "member_ttl: 0");
    for turn in 0..6 {
        let (text, code) = if turn % 2 == 0 { (&wrong, 78) } else { (&described.yaml(), 0) };
        // One of somebody else's may be under way at any time, with the file as it was before.
        registry.signal(libc::SIGHUP);
        registry.configure(text);
        let asked: Vec<_> =
            (0..5).map(|_| registry.reload().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
        for child in asked {
            let answer = said(&child.wait_with_output().unwrap());
            assert_eq!(answer.0, Some(code), "turn {turn}: {}", answer.1);
        }
    }
}

#[test]
fn a_daemon_that_still_starts_answers_when_it_runs() {
    let scratch = Scratch::new();
    let config = scratch.file("config.yaml", &Registry::new().yaml());
    let run = scratch.path().join("run");
    std::fs::create_dir(&run).unwrap();
    for _ in 0..5 {
        // What an earlier daemon left is not taken for the word of this one.
        std::fs::write(run.join("reload"), r#"{"pid":1,"begun":7,"ended":9,"last":{"refused":{"why":"old"}}}"#)
            .unwrap();
        let mut daemon = Process::start(
            Command::new(NETRING).arg("registry").arg(&config).env("RUNTIME_DIRECTORY", &run),
            &scratch,
            "registry",
        );
        let mut command = Command::new(NETRING);
        command.args(["reload", &daemon.id().to_string()]).env("RUNTIME_DIRECTORY", &run).env_remove("MAINPID");
        assert_eq!(said(&command.output().unwrap()), (Some(0), "the new configuration is in force\n".into()));
        assert!(daemon.ended().is_none(), "{}", daemon.log());
    }
}

#[test]
fn where_nobody_answers_one_sentence_says_why() {
    let scratch = Scratch::new();
    let run = scratch.path().display().to_string();
    let mut stranger = Process::start(Command::new("sleep").arg("60"), &scratch, "sleep");
    let mut dead = Process::start(&mut Command::new("true"), &scratch, "true");
    let _ = dead.wait(SOON);
    let (stranger_id, dead_id) = (stranger.id().to_string(), dead.id().to_string());
    let cases: [(Option<&str>, Option<&str>, String); 5] = [
        (None, Some(&run), "expected the process id of the daemon, as PID or in $MAINPID, got nothing".into()),
        (Some("soon"), Some(&run), "expected the process id of the daemon, as PID or in $MAINPID, got \"soon\"".into()),
        (Some("1"), None, "expected the runtime directory of the daemon in $RUNTIME_DIRECTORY, such as".into()),
        (Some(&dead_id), Some(&run), format!("there is no process {dead_id}\n")),
        (Some(&stranger_id), Some(&run), format!("there is no reload record of process {stranger_id} in {run}")),
    ];
    for (pid, directory, says) in cases {
        let mut command = Command::new(NETRING);
        command.arg("reload").env_remove("MAINPID").env_remove("RUNTIME_DIRECTORY");
        command.envs(pid.map(|pid| ("MAINPID", pid))).envs(directory.map(|dir| ("RUNTIME_DIRECTORY", dir)));
        let (code, text) = said(&command.output().unwrap());
        assert_eq!(code, Some(69), "{text}");
        assert!(text.starts_with(&format!("netring: cannot reload: {says}")) && text.lines().count() == 1, "{text}");
    }
    assert!(stranger.ended().is_none(), "a stranger is sent no signal");
}

#[test]
fn a_daemon_that_dies_meanwhile_is_not_waited_for() {
    let registry = Registry::new().start();
    // Stopped, it takes no signal but the last one.
    registry.signal(libc::SIGSTOP);
    let asking = registry.reload().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let id = registry.id();
    drop(registry);
    let start = monotonic();
    let (code, text) = said(&asking.wait_with_output().unwrap());
    assert_eq!((code, text), (Some(69), format!("netring: cannot reload: there is no process {id}\n")));
    assert!(monotonic() - start < SOON);
}

#[test]
fn a_reload_that_had_begun_before_is_not_taken_for_the_one_asked_for() {
    let scratch = Scratch::new();
    let mut command = Command::new("sh");
    // A daemon whose word is written here.
    let mut daemon = Process::start(command.args(["-c", "trap '' HUP; exec sleep 60"]), &scratch, "daemon");
    let word = |numbers: &str, last: &str| {
        let text = format!(r#"{{"pid":{},{numbers},"last":{last}}}"#, daemon.id());
        std::fs::rename(scratch.file("new", &text), scratch.path().join("reload")).expect("a file can be renamed");
    };
    word(r#""begun":1,"ended":0"#, "null");
    let mut command = Command::new(NETRING);
    command.args(["reload", &daemon.id().to_string()]).env("RUNTIME_DIRECTORY", scratch.path());
    // The signal may come before the shell ignores it.
    std::thread::sleep(Duration::from_millis(300));
    let mut asking = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    word(r#""begun":1,"ended":1"#, r#"{"refused":{"why":"the file as it was"}}"#);
    std::thread::sleep(Duration::from_millis(300));
    assert!(asking.try_wait().unwrap().is_none(), "that one began before");
    word(r#""begun":2,"ended":2"#, r#"{"in_force":{"waiting":[]}}"#);
    assert_eq!(said(&asking.wait_with_output().unwrap()).0, Some(0));
    assert!(daemon.ended().is_none());
}

#[test]
fn a_registry_that_hangs_delays_no_move_to_another_one() {
    let hung = Registry::new().start();
    let other = Registry::new().start();
    let described = Member::new("us1", hung.server);
    let member = described.start();
    member.wait_for_value("netring_registry_up", &[], 1.0);
    hung.signal(libc::SIGSTOP);
    // Something is asked of it every second; now it waits for an answer.
    std::thread::sleep(Duration::from_millis(1500));

    member.configure(&Member { location: "us9".into(), registry: other.server, ..described }.yaml());
    let start = monotonic();
    assert_eq!(reload(&member).0, Some(0), "{}", member.log());
    eventually(Duration::from_secs(1), "the other registry lists it", || {
        let listed = other.get("/members").text();
        holds(listed.contains("us9"), listed)
    });
    let took = monotonic() - start;
    assert!(took < Duration::from_secs(3), "its request may take five seconds, and the move took {took:?}");
    member.wait_for_value("netring_registry_up", &[], 1.0);
    assert_eq!(member.log_lines(&["registry lost"]), Vec::<String>::new(), "breaking off is no loss");
    hung.signal(libc::SIGCONT);
}
