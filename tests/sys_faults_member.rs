//! A member in bad company: a registry that refuses, hangs or forgets again and again, a configuration that changes under
//! way, a socket that somebody else opened, and an end that comes before the beginning is over.

pub mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, NETRING, Registry, Ring};
use support::metrics::Metrics;
use support::process::Process;
use support::{SOON, Scratch, eventually, holds, http, port, socket};

/// Long enough for no lease to end by itself.
const LASTING: u32 = 300;

fn lasting() -> Registry {
    Registry { member_ttl: LASTING, ..Registry::new() }
}

/// What the registry's roster says.
fn roster(registry: SocketAddr) -> Vec<serde_json::Value> {
    let listed = http::get(registry, "/members").expect("a registry answers").json();
    listed["members"].as_array().expect("a list of members").clone()
}

/// Waits until the roster has exactly these identities, in the order of the alphabet.
#[track_caller]
fn wait_for_roster(limit: Duration, registry: SocketAddr, wanted: &[&str]) {
    eventually(limit, &format!("{registry} lists {wanted:?}"), || {
        let listed = roster(registry);
        let mut ids: Vec<&str> = listed.iter().filter_map(|member| member["instance_id"].as_str()).collect();
        ids.sort_unstable();
        holds(ids == wanted, ids)
    });
}

/// Waits until the registry lists one member, and that at this address.
#[track_caller]
fn wait_for_address(registry: SocketAddr, address: SocketAddr) {
    eventually(SOON, &format!("the one member is listed at {address}"), || {
        let listed = roster(registry);
        let right = |member: &serde_json::Value| {
            member["ip"] == address.ip().to_string() && member["port"] == u64::from(address.port())
        };
        holds(listed.len() == 1 && right(&listed[0]), listed)
    });
}

/// Waits until this many lines of the log hold these words, and fails where there are more.
#[track_caller]
fn wait_for_lines(daemon: &Daemon, words: &[&str], wanted: usize) {
    eventually(SOON, &format!("{wanted} lines with {words:?}"), || {
        let lines = daemon.log_lines(words).len();
        assert!(lines <= wanted, "{lines} lines with {words:?} instead of {wanted}:\n{}", daemon.log());
        holds(lines == wanted, daemon.log())
    });
}

fn checks_of(metrics: &Metrics, location: &str) -> f64 {
    metrics.sum("netring_checks_total", &[("target_location", location), ("check_type", "tcp")])
}

/// A server of the test's own that treats every connection alike, until it is dropped and its port free.
struct Stand {
    ending: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Stand {
    /// `serve` is handed each connection and its number, from 0.
    fn at(address: SocketAddr, serve: fn(usize, TcpStream)) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        listener.set_nonblocking(true).expect("a listener can be made not to block");
        let (ending, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (end, count) = (Arc::clone(&ending), Arc::clone(&served));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).expect("a connection can be made to block");
                        stream.set_read_timeout(Some(SOON)).expect("a time limit can be set");
                        serve(count.load(Ordering::SeqCst), stream);
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                    Err(e) => panic!("cannot accept at {address}: {e}"),
                }
            }
        });
        Self { ending, served, thread: Some(thread) }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A gateway whose backend is gone.
fn refuse(_: usize, mut stream: TcpStream) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request);
    let body = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body><h1>502</h1></body>\n</html>\n";
    let head = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length";
    let _ = write!(stream, "{head}: {}\r\n\r\n{body}", body.len());
}

/// How many registrations the dying registry has broken off.
static BROKEN_OFF: AtomicUsize = AtomicUsize::new(0);

/// Breaks off four registrations and has nobody on its roster meanwhile; later takes every request and never answers.
fn break_off_then_hang(_: usize, mut stream: TcpStream) {
    if BROKEN_OFF.load(Ordering::SeqCst) >= 4 {
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        return;
    }
    let mut request = [0; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    if request[..length].starts_with(b"POST /register") {
        BROKEN_OFF.fetch_add(1, Ordering::SeqCst);
    } else {
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 15";
        let _ = write!(stream, "{head}\r\n\r\n{{\"members\": []}}");
    }
}

#[test]
fn a_reload_with_another_address_waits_for_a_restart_and_the_roster_keeps_the_real_one() {
    let settings = lasting();
    let mut registry = settings.start();
    let described = Member::new("us1", settings.server);
    let member = described.start();
    wait_for_address(settings.server, member.server);

    let elsewhere = SocketAddr::new("127.0.0.1".parse().unwrap(), port());
    member.configure(&Member { server: elsewhere, ..described.clone() }.yaml());
    for time in 1..=2 {
        member.signal(libc::SIGHUP);
        wait_for_lines(&member, &["configuration reloaded"], time);
        wait_for_lines(&member, &["warn", "member.server", "restart"], time);
        // Its memory is gone, so the member has to say anew where it is.
        registry.kill();
        registry = settings.start();
        wait_for_address(settings.server, member.server);
    }
    assert_eq!(member.get("/health").status, 200, "it still listens where it did");

    member.configure(&described.yaml());
    member.signal(libc::SIGHUP);
    wait_for_lines(&member, &["configuration reloaded"], 3);
    // The next reload comes after whatever the last had to say.
    member.signal(libc::SIGHUP);
    wait_for_lines(&member, &["configuration reloaded"], 4);
    wait_for_lines(&member, &["restart"], 2);
    wait_for_address(settings.server, member.server);
    drop(registry);
}

#[test]
fn a_member_that_is_handed_a_socket_registers_the_port_of_that_socket() {
    let registry = lasting().start();
    let described = Member::new("us1", registry.server);
    let handed = TcpListener::bind(socket()).unwrap();
    let address = handed.local_addr().unwrap();
    assert_ne!(address.port(), described.server.port());

    let scratch = Scratch::new();
    let config = scratch.file("config.yaml", &described.yaml());
    // As systemd does it: the socket as descriptor 3, and the variables set for the process itself.
    let script = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" member \"$1\"";
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(script).arg(NETRING).arg(config);
    let mut member = Process::start_reading(&mut shell, Stdio::from(OwnedFd::from(handed)), &scratch, "member");
    wait_for_address(registry.server, address);
    let health = http::get(address, "/health").unwrap_or_else(|e| panic!("{e}\n{}", member.log()));
    assert_eq!(health.status, 200);
    assert!(http::get(described.server, "/health").is_err(), "nobody listens on the configured port");
    let warning = format!("listening on {address}, the socket passed by systemd, instead of {}", described.server);
    assert!(member.log().contains(&warning), "{}", member.log());
    member.signal(libc::SIGTERM);
    assert!(member.wait(Duration::from_secs(1)).success());
}

#[test]
fn a_registry_that_refuses_everything_is_logged_once_for_each_kind_and_stops_no_probe() {
    let Ring { mut registry, mut members } = Ring::start(&lasting(), &["us1", "eu1"]);
    registry.kill();
    let stand = Stand::at(registry.server, refuse);
    let eu1 = members.pop().expect("two members");
    let mut us1 = members.pop().expect("two members");
    us1.kill();
    let earlier = us1.log();
    us1.start_again();

    // Eight seconds, told by the probes: refusals at every turn, and a line for the first of each kind alone.
    us1.wait_for("probes go on", |metrics| holds(checks_of(metrics, "eu1") >= 8.0, checks_of(metrics, "eu1")));
    assert!(stand.served() >= 8, "it has been asked only {} times", stand.served());
    let metrics = us1.metrics();
    assert_eq!(metrics.value("netring_registry_up", &[]), Some(0.0));
    assert_eq!(metrics.sum("netring_check_failures_total", &[]), 0.0);
    for (member, log) in [(&us1, us1.log()[earlier.len()..].to_owned()), (&eu1, eu1.log())] {
        for kind in ["registration", "heartbeat", "asking for the roster"] {
            let lines: Vec<&str> = log.lines().filter(|l| l.contains("refuses") && l.contains(kind)).collect();
            assert!(lines.len() <= 1, "{}: {lines:#?}", member.server);
        }
        let all = log.lines().filter(|line| line.contains("502")).count();
        assert!((1..=3).contains(&all), "{all} lines of one trouble:\n{log}");
        assert!(!log.contains("registry back"), "it never was:\n{log}");
    }

    drop(stand);
    registry.start_again();
    us1.wait_for_value("netring_registry_up", &[], 1.0);
    wait_for_lines(&us1, &["registry back"], 1);
    let from = checks_of(&us1.metrics(), "eu1");
    us1.wait_for("three turns more", |metrics| {
        holds(checks_of(metrics, "eu1") >= from + 3.0, checks_of(metrics, "eu1"))
    });
    wait_for_lines(&us1, &["registry back"], 1);
    assert_eq!(us1.metrics().value("netring_registry_up", &[]), Some(1.0));
}

#[test]
fn the_kept_roster_has_the_peers_held_too_and_a_restart_probes_them_all() {
    let settings = lasting();
    let mut registry = settings.start();
    // They ask and renew too seldom to find out in this test that they were forgotten.
    let seldom = |location: &str| Member { heartbeat_interval: 60, ..Member::new(location, settings.server) };
    let silent = [seldom("eu1").start(), seldom("asia1").start()];
    let mut member = Member::new("us1", settings.server).start();
    // Right after its registration it would take a roster without itself for the one of a replica that lags.
    member.wait_for("four seconds of probes", |metrics| {
        holds(checks_of(metrics, "asia1") >= 5.0, checks_of(metrics, "asia1"))
    });

    registry.kill();
    registry = settings.start();
    wait_for_roster(SOON, settings.server, &["us1-id"]);
    let newcomer = seldom("africa1").start();
    member.wait_for_value("netring_members_total", &[], 3.0);
    let kept = std::fs::read_to_string(member.state_file("roster.json")).unwrap();
    for id in ["eu1-id", "asia1-id", "africa1-id"] {
        assert!(kept.contains(id), "{id} is not kept: {kept}");
    }

    member.kill();
    registry.kill();
    member.start_again();
    member.wait_for("all three are probed", |metrics| {
        let up = metrics.sum("netring_connectivity_tcp", &[]);
        holds((up - 3.0).abs() < f64::EPSILON, up)
    });
    drop((silent, newcomer));
}

#[test]
fn a_restart_in_order_is_no_loss_of_memory_and_whoever_left_meanwhile_is_gone() {
    let registry = lasting().start();
    let stayer = Member::new("eu1", registry.server).start();
    let mut passer = Member::new("asia1", registry.server).start();
    let mut member = Member::new("us1", registry.server).start();
    member.wait_for_value("netring_members_total", &[], 2.0);

    member.terminate(SOON);
    passer.terminate(SOON);
    member.start_again();
    member.wait_for_value("netring_connectivity_tcp", &[("target_location", "eu1")], 1.0);
    member.wait_for_value("netring_members_total", &[], 1.0);
    assert_eq!(member.log_lines(&["may have lost its roster"]), Vec::<String>::new());

    // Once said, it is not said of the next start, which follows a crash.
    member.kill();
    registry.post("/deregister", r#"{"instance_id": "us1-id"}"#);
    member.start_again();
    eventually(SOON, "it finds out that it was forgotten", || {
        holds(!member.log_lines(&["may have lost its roster"]).is_empty(), member.log())
    });
    drop(stayer);
}

/// A hold lasts 12 s with these intervals, and four of them are the most that anybody is held for.
#[test]
fn where_the_registry_forgets_again_and_again_whoever_left_is_let_go_in_the_end() {
    let registry = lasting().start();
    let nobody = port();
    let ip = support::address();
    let passer = |id: &str| {
        let body = format!(r#"{{"instance_id": "{id}", "location": "{id}", "ip": "{ip}", "port": {nobody}}}"#);
        assert_eq!(registry.post("/register", &body).status, 200);
    };
    let forget = |id: &str| registry.post("/deregister", &format!(r#"{{"instance_id": "{id}"}}"#));
    passer("stayer");
    passer("passer");
    let member = Member::new("us1", registry.server).start();
    member.wait_for_value("netring_members_total", &[], 2.0);

    // The first loss of memory is before the passer goes, so that there is a hold to be held by.
    forget("us1-id");
    eventually(SOON, "it finds out that it was forgotten", || {
        holds(!member.log_lines(&["may have lost its roster"]).is_empty(), member.log())
    });
    forget("passer");
    let start = monotonic();
    let limit = Duration::from_secs(58);
    let mut held = Duration::ZERO;
    eventually(limit, "the passer is let go", || {
        forget("us1-id");
        std::thread::sleep(Duration::from_millis(500));
        let total = member.metrics().value("netring_members_total", &[]);
        if total == Some(2.0) {
            held = monotonic() - start;
        }
        holds(total == Some(1.0), total)
    });
    assert!(held > Duration::from_secs(15), "every loss of memory begins a hold anew, but it was held for {held:?}");
    let losses = member.log_lines(&["does not know this member"]).len();
    assert!(losses > 10, "it noticed only {losses}:\n{}", member.log());
    assert!(checks_of(&member.metrics(), "stayer") > 10.0);
}

#[test]
fn a_reload_that_names_a_living_registry_instead_of_a_dying_one_registers_at_once() {
    let registry = lasting().start();
    let dead = socket();
    let _stand = Stand::at(dead, break_off_then_hang);
    let described = Member { heartbeat_interval: 60, ..Member::new("us1", dead) };
    let member = described.start();
    eventually(SOON, "four attempts to register", || {
        let attempts = BROKEN_OFF.load(Ordering::SeqCst);
        holds(attempts >= 4, attempts)
    });
    // Now it waits between four and eight seconds. The roster was answered and is next asked for in a minute, so nothing else
    // brings the member to register earlier. Its farewell to the dying registry will get no answer.
    member.configure(&Member { registry: registry.server, ..described }.yaml());
    member.signal(libc::SIGHUP);
    wait_for_roster(Duration::from_secs(2), registry.server, &["us1-id"]);
    member.wait_for_value("netring_registry_up", &[], 1.0);
}

#[test]
fn a_reload_that_names_another_registry_says_goodbye_to_the_old_one() {
    let (old, new) = (lasting().start(), lasting().start());
    let described = Member { heartbeat_interval: 60, ..Member::new("us1", old.server) };
    let member = described.start();
    wait_for_roster(SOON, old.server, &["us1-id"]);
    member.configure(&Member { registry: new.server, ..described }.yaml());
    member.signal(libc::SIGHUP);
    let asked = monotonic();
    wait_for_roster(Duration::from_secs(2), new.server, &["us1-id"]);
    wait_for_roster(Duration::from_secs(2).saturating_sub(monotonic() - asked), old.server, &[]);
}

#[test]
fn a_stop_that_comes_before_ready_is_obeyed_and_leaves_nobody_on_the_roster() {
    let registry = lasting().start();
    let scratch = Scratch::new();
    let config = scratch.file("config.yaml", &Member::new("us1", registry.server).yaml());
    let mut heard = 0;
    for turn in 0..20 {
        let mut command = Command::new(NETRING);
        command.arg("member").arg(&config).arg("--state-dir").arg(scratch.path().join("state"));
        let mut member = Process::start(&mut command, &scratch, &format!("member-{turn}"));
        std::thread::sleep(Duration::from_millis(3 * turn));
        member.signal(libc::SIGTERM);
        let status = member.wait(Duration::from_secs(2));
        // The signal itself ends only a process that has not yet begun to listen for it.
        let unheard = status.signal() == Some(libc::SIGTERM) && !member.log().contains("serving");
        assert!(status.success() || unheard, "turn {turn}: {status}; its log:\n{}", member.log());
        heard += u32::from(status.success());
        wait_for_roster(Duration::ZERO, registry.server, &[]);
    }
    assert!(heard > 0, "no delay was long enough for the member to hear the signal");
}
