//! `netring demo` as a newcomer meets it: what it says, what it shows, and how it ends. In a network of its own, so that
//! its ports are free.

pub mod support;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::NETRING;
use support::fabric::{Fabric, Host};
use support::process::Process;
use support::{SOON, Scratch, eventually, holds, http, installed};

/// Everything is to be gone within this of Ctrl-C.
const SECOND: Duration = Duration::from_secs(1);

/// A demo on a host of its own, its output in a file.
struct Demo {
    process: Process,
    _scratch: Scratch,
}

impl Demo {
    fn start(host: &Host, arguments: &[&str]) -> Self {
        let scratch = Scratch::new();
        let process = Process::start(host.command(NETRING).arg("demo").args(arguments), &scratch, "demo");
        Self { process, _scratch: scratch }
    }

    /// Waits for a line with these words and gives it back.
    fn says(&self, limit: Duration, words: &str) -> String {
        eventually(limit, words, || {
            let said = self.process.log();
            said.lines().find(|line| line.contains(words)).map(str::to_owned).ok_or(said.clone())
        })
    }

    /// Its exit code.
    fn ends(&mut self, limit: Duration) -> i32 {
        self.process.wait(limit).code().expect("no signal ended it")
    }
}

/// The seconds in a line's stamp, `[   3.5 s] ...`.
fn stamp(line: &str) -> f64 {
    let seconds = line.strip_prefix('[').and_then(|rest| rest.split_once(" s]"));
    seconds.and_then(|(seconds, _)| seconds.trim().parse().ok()).unwrap_or_else(|| panic!("no stamp: {line}"))
}

#[test]
fn a_demo_without_a_terminal_tells_of_the_ring_and_of_an_outage_line_by_line() {
    let Some(fabric) = Fabric::new(&["demo"]) else { return };
    let host = &fabric.hosts()[0];
    let mut demo = Demo::start(host, &["--duration", "9", "--fail", "eu1-k8s@4"]);
    let whole = demo.says(SOON, "all 5 members reach each other (20 pairs)");
    assert!(stamp(&whole) < 4.0, "{whole}");
    // What it told the newcomer to try.
    let get = |port, path| host.inside(|| http::get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path)).unwrap();
    let introduction = demo.process.log();
    for (port, path) in [(8756, "/health"), (8756, "/members"), (8757, "/health"), (8757, "/metrics")] {
        assert!(introduction.contains(&format!("curl http://localhost:{port}{path}")), "{introduction}");
        assert_eq!(get(port, path).status, 200);
    }
    assert_eq!(get(8756, "/members").json()["members"].as_array().map(Vec::len), Some(5));
    assert_eq!(demo.ends(SOON), 0);

    let said = demo.process.log();
    let stopped = said.lines().find(|line| line.ends_with("killing eu1-k8s, as requested by --fail")).expect(&said);
    assert!((4.0..5.5).contains(&stamp(stopped)), "{stopped}");
    let lost: Vec<&str> = said.lines().filter(|line| line.contains("eu1-k8s is unreachable")).collect();
    for other in ["us1-k8s", "asia1-docker", "us2-office", "eu2-office"] {
        let seen = lost.iter().find(|line| line.contains(other)).unwrap_or_else(|| panic!("not by {other}: {said}"));
        assert!(seen.contains("refused"), "{seen}");
        // Its next turn, and the next look at the table.
        assert!(stamp(seen) - stamp(stopped) < 3.5, "{stopped}\n{seen}");
    }
    let blamed = said.lines().filter(|line| line.contains("is unreachable")).count();
    assert_eq!(blamed, lost.len(), "nobody else is unreachable: {said}");
    assert!(!said.contains('\x1b'), "no colours where there is no terminal");
}

#[test]
fn a_demo_that_cannot_start_says_why_in_one_sentence() {
    let Some(fabric) = Fabric::new(&["demo"]) else { return };
    let host = &fabric.hosts()[0];
    let _other = host.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 9003)).unwrap());
    for (arguments, code, words) in [
        (&["--port", "9000"][..], 69, &["127.0.0.1:9003", "using that port", "--port"][..]),
        (&["--fail", "nowhere@3"], 64, &["--fail", "nowhere", "eu1-k8s"]),
        (&["--fail", "eu1-k8s"], 64, &["--fail", "eu1-k8s@10"]),
        (&["--members", "1"], 64, &["--members", "2"]),
    ] {
        let mut demo = Demo::start(host, arguments);
        assert_eq!(demo.ends(SOON), code, "{arguments:?}: {}", demo.process.log());
        let said = demo.process.log();
        let first = said.lines().next().expect("it says something");
        for word in words {
            assert!(first.contains(word), "{word} is not in {first}");
        }
        assert!(code == 64 || said.lines().count() == 1, "one sentence: {said}");
    }
}

/// A ring of so many: all are in it and know each other, and all are gone within `limit` of Ctrl-C. That it becomes whole
/// is held of a small one above; a big one in a debug build may be more than a busy machine can carry.
fn a_ring_assembles_and_ends(members: usize, limit: Duration) {
    let Some(fabric) = Fabric::new(&["demo"]) else { return };
    let host = &fabric.hosts()[0];
    let started = monotonic();
    let mut demo = Demo::start(host, &["--members", &members.to_string()]);
    let get = |port, path| host.inside(|| http::get(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), path));
    eventually(SOON, "all are on the roster", || {
        let listed = get(8756, "/members")?.json()["members"].as_array().map(Vec::len);
        holds(listed == Some(members), listed)
    });
    let last = 8756 + u16::try_from(members).expect("members have a port each");
    for port in [8757, last] {
        eventually(SOON, "the first and the last know all the others", || {
            let known = get(port, "/health")?.json()["members_count"].as_u64();
            holds(known == Some(members as u64 - 1), known)
        });
    }
    println!("{members} members know each other after {:?}", (monotonic() - started));
    let asked = monotonic();
    demo.process.signal(libc::SIGINT);
    assert_eq!(demo.ends(limit), 0);
    println!("{members} members were gone after {:?}", (monotonic() - asked));
}

#[test]
fn ctrl_c_ends_a_ring_of_sixty_within_a_second() {
    a_ring_assembles_and_ends(60, SECOND);
}

#[test]
fn ctrl_c_ends_a_ring_of_two_hundred_soon() {
    // A release build takes a third of a second. A debug build is busy with so many on every core, and is given longer.
    a_ring_assembles_and_ends(200, 4 * SECOND);
}

#[test]
fn in_a_terminal_a_live_table_appears_and_ctrl_c_leaves_the_terminal_as_it_was() {
    let Some(fabric) = Fabric::new(&["demo"]) else { return };
    if !installed(&["script"]) {
        return;
    }
    let scratch = Scratch::new();
    // The shell outlives Ctrl-C and looks at the terminal before and after.
    let session = scratch.file(
        "session",
        &format!(
            "trap : INT; stty cols 120 rows 40; before=$(stty -g)\n{NETRING} demo --fail eu1-k8s@4\n\
             echo \"exit $?\"; [ \"$before\" = \"$(stty -g)\" ] && echo as it was\n"
        ),
    );
    let mut command: Command = fabric.hosts()[0].command("script");
    command.args(["--quiet", "--flush", "--command", &format!("sh {}", session.display()), "/dev/null"]);
    let (mut process, mut keyboard) = Process::start_with_keyboard(&mut command, &scratch, "terminal");
    let shows = |process: &Process, words: &str| {
        eventually(SOON, words, || holds(process.log().contains(words), process.log()));
    };
    // A table of five by five: source, target and round-trip time.
    for words in [
        "from / to",
        "all 5 members reach each other",
        "ms\x1b[0m",
        "killing eu1-k8s",
        "killed\x1b[0m",
        "refused\x1b[0m",
    ] {
        shows(&process, words);
    }
    keyboard.write_all(b"\x03").unwrap();
    let asked = monotonic();
    shows(&process, "exit 0");
    let took = monotonic() - asked;
    assert!(took < SECOND, "it took {took:?}");
    shows(&process, "as it was");
    drop(keyboard);
    assert!(process.wait(SOON).success());

    let shown = process.log();
    let redrawn = shown.matches("\x1b[7A\x1b[J").count();
    assert!(redrawn > 5, "the table is drawn in place of the last one: {redrawn} times\n{shown}");
    let colours =
        shown.matches("\x1b[2m").count() + shown.matches("\x1b[31m").count() + shown.matches("\x1b[32m").count();
    assert_eq!(colours, shown.matches("\x1b[0m").count(), "each colour is ended");
    for lasting in ["\x1b[?25l", "\x1b[?1049h", "\x1b[?7l"] {
        assert!(!shown.contains(lasting), "nothing is set that would outlast it: {lasting:?}");
    }
}
