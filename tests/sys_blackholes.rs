//! Two hundred peers that swallow every probe, beside a few that live: the live ones are probed as evenly as if they were
//! alone, each dead one costs one time limit per turn, and nobody who asks the member or stops it waits.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netring::clock::monotonic;
use socket2::{Domain, Protocol, Socket, Type};
use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Fabric, Host};
use support::metrics::Metrics;
use support::{SOON, eventually, holds};

const DEAD: u16 = 200;
const LIVE: u16 = 6;
/// By TCP, and by HTTP at one endpoint.
const TARGETS_PER_PEER: u16 = 2;

const INTERVAL: Duration = Duration::from_secs(2);
const TURNS: u32 = 10;
const TIMEOUT: f64 = 1.2;

/// What a live peer saw of the member's probes: when each came, and whether it brought a request.
type Arrivals = Vec<(Instant, bool)>;

/// A peer that answers, on a thread of the test: it notes each connection before it does anything with it.
fn live_peer(listener: &TcpListener, over: &AtomicBool) -> Arrivals {
    // Linux lets accept(2) wait no longer than that.
    socket2::SockRef::from(listener).set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut arrivals = Arrivals::new();
    while !over.load(Ordering::Relaxed) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            Err(e) => panic!("accept: {e}"),
        };
        let came = monotonic();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let asked = stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0);
        if asked {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
        arrivals.push((came, asked));
    }
    arrivals
}

/// A packet socket that sees what arrives at this host before its firewall does (packet(7)).
fn packet_socket() -> Socket {
    let protocol = Protocol::from(i32::from((libc::ETH_P_IP as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// Notes when each connection attempt to a black hole arrived there. A SYN that is sent again is the same attempt: it has the
/// sequence number of the first (RFC 9293, section 3.8.1).
fn attempts(mut socket: &Socket, over: &AtomicBool) -> Vec<Instant> {
    let (mut packet, mut seen, mut times) = ([0; 128], HashSet::new(), Vec::new());
    while !over.load(Ordering::Relaxed) {
        let length = match socket.read(&mut packet) {
            Ok(length) => length,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => continue,
            Err(e) => panic!("packet socket: {e}"),
        };
        let came = monotonic();
        // The IPv4 header (RFC 791, section 3.1), then that of TCP (RFC 9293, section 3.1).
        let (ip, tcp) = packet[..length].split_at(length.min(usize::from(packet[0] & 0x0f) * 4));
        let is_syn = ip.len() >= 20 && ip[9] == 6 && tcp.len() >= 20 && tcp[13] & 0x12 == 0x02;
        if is_syn && ip[16..19] == [10, 78, 0] && seen.insert((ip[19], tcp[..8].to_vec())) {
            times.push(came);
        }
    }
    times
}

/// Puts 10.78.0.0/24 on the host `dark`, which then swallows whatever comes there; `from` finds the way.
fn dig_black_hole(from: &Host, dark: &Host) {
    dark.run("ip", &["route", "add", "local", "10.78.0.0/24", "dev", "lo"]);
    dark.run("nft", &["add rule inet cut in ip daddr 10.78.0.0/24 drop"]);
    from.run("ip", &["route", "add", "10.78.0.0/24", "via", &dark.v4.to_string()]);
}

fn timeouts(metrics: &Metrics) -> f64 {
    metrics.sum("netring_check_failures_total", &[("reason", "timeout")])
}

/// The times from one arrival to the next, in seconds; regular turns only ever come from one target.
fn intervals(arrivals: &Arrivals, asked: bool, from: Instant, to: Instant) -> Vec<f64> {
    let times: Vec<Instant> =
        arrivals.iter().filter(|(came, a)| *a == asked && (from..to).contains(came)).map(|(came, _)| *came).collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
}

#[test]
fn two_hundred_black_holes_shift_no_probe_of_the_living() {
    let Some(fabric) = Fabric::new(&["us1", "lit", "dark"]) else { return };
    let [us1, lit, dark] = fabric.hosts() else { panic!("three hosts") };
    dig_black_hole(us1, dark);
    let registry = Registry { server: SocketAddr::new(us1.v4.into(), 8756), member_ttl: 300, ..Registry::new() };
    let registry = registry.start_on(us1);
    let mut listeners = Vec::new();
    for n in 0..LIVE {
        let listener = lit.inside(|| TcpListener::bind((lit.v4, 9000 + n)).unwrap());
        registry.register(&format!("live-{n}"), "lit", listener.local_addr().unwrap());
        listeners.push(listener);
    }
    for (n, host) in (0..DEAD).zip(1..) {
        let address = SocketAddr::new(Ipv4Addr::new(10, 78, 0, host).into(), 8756);
        registry.register(&format!("dead-{n}"), "dark", address);
    }

    let at_black_holes = dark.inside(packet_socket);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swallowed = scope.spawn(|| attempts(&at_black_holes, &over));
        let peers: Vec<_> = listeners.iter().map(|listener| scope.spawn(|| live_peer(listener, &over))).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(us1, &registry)));
        over.store(true, Ordering::Relaxed);
        let arrivals: Vec<Arrivals> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
        let swallowed = swallowed.join().unwrap();
        let (from, to) = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        judge_rhythm(&arrivals, from, to);
        judge_attempts(&swallowed, from);
    });
}

/// Runs the member for [`TURNS`] turns and holds it to its counters. Says from when to when all was in swing.
fn watch(us1: &Host, registry: &Daemon) -> (Instant, Instant) {
    let described = Member {
        server: SocketAddr::new(us1.v4.into(), 8757),
        check_interval: 2,
        timeout: TIMEOUT,
        http_endpoints: vec!["/health".into()],
        ..Member::new("us1", registry.server)
    };
    let mut member = described.start_on(us1);
    let targets = f64::from(DEAD * TARGETS_PER_PEER);
    // Each dead target has had its first turn, and that turn is over.
    eventually(SOON, "every black hole has been found", || {
        let metrics = member.metrics();
        let found = metrics.series("netring_connectivity_tcp", &[("target_location", "dark")]).len();
        let all = usize::from(DEAD);
        holds(found == all && timeouts(&metrics) >= targets, format!("{found} found, {} timeouts", timeouts(&metrics)))
    });

    let from = monotonic();
    let mut slowest = Duration::ZERO;
    let first = member.metrics();
    for turn in 1..=TURNS {
        std::thread::sleep((from + INTERVAL * turn).saturating_duration_since(monotonic()));
        let asked = monotonic();
        let _ = member.metrics();
        slowest = slowest.max(monotonic() - asked);
    }
    let to = monotonic();
    let last = member.metrics();
    let turns = (to - from).as_secs_f64() / INTERVAL.as_secs_f64();
    println!("slowest scrape {slowest:?}");
    let all = (timeouts(&last) - timeouts(&first)) / (turns * targets);
    assert!((all - 1.0).abs() < 0.02, "{all:.3} timeouts per black hole and turn");
    for reason in ["overlap", "limit", "late"] {
        assert_eq!(last.sum("netring_checks_skipped_total", &[("reason", reason)]), 0.0, "skipped: {reason}");
    }
    assert_eq!(last.sum("netring_check_failures_total", &[("target_location", "lit")]), 0.0);
    assert_eq!(last.sum("netring_reports_dropped_total", &[]), 0.0);
    assert!(slowest < Duration::from_millis(500), "the slowest scrape took {slowest:?}");

    let stopped = monotonic();
    let status = member.terminate(Duration::from_secs(1));
    println!("SIGTERM to the end: {:?}", (monotonic() - stopped));
    assert!(status.success(), "{status}");
    assert!(!registry.get("/members").text().contains("us1-id"), "it has left the ring");
    (from, to)
}

/// In each turn, each dead target was probed once, to within 10 %.
fn judge_attempts(times: &[Instant], from: Instant) {
    let counts: Vec<usize> = (0..TURNS)
        .map(|turn| (from + INTERVAL * turn)..(from + INTERVAL * (turn + 1)))
        .map(|turn| times.iter().filter(|came| turn.contains(came)).count())
        .collect();
    println!("attempts that reached the black holes in each turn: {counts:?}");
    let targets = f64::from(DEAD * TARGETS_PER_PEER);
    for &count in &counts {
        assert!((count as f64 / targets - 1.0).abs() < 0.1, "one attempt per black hole and turn: {counts:?}");
    }
}

/// Each live target came once in each turn, two seconds after the last to within 2 %, and never more than 10 % off.
fn judge_rhythm(arrivals: &[Arrivals], from: Instant, to: Instant) {
    let interval = INTERVAL.as_secs_f64();
    let mut off: Vec<f64> = Vec::new();
    for (peer, arrivals) in arrivals.iter().enumerate() {
        for asked in [false, true] {
            let seen = intervals(arrivals, asked, from, to);
            let what = format!("live-{peer} by {}: {seen:.4?}", if asked { "HTTP" } else { "TCP" });
            // Between TURNS intervals whole arrivals may be one less at either end.
            assert!((TURNS as usize - 2..=TURNS as usize).contains(&seen.len()), "a turn is missing: {what}");
            let mean = seen.iter().sum::<f64>() / seen.len() as f64;
            assert!((mean / interval - 1.0).abs() < 0.02, "the rhythm is off: {what}");
            off.extend(seen.iter().map(|seen| (seen / interval - 1.0).abs()));
        }
    }
    off.sort_by(f64::total_cmp);
    let share = |part: f64| off[((off.len() - 1) as f64 * part) as usize] * 100.0;
    println!(
        "{} intervals of live targets are off by {:.3} % in the middle, {:.3} % at the 95th percentile, {:.3} % at most",
        off.len(),
        share(0.5),
        share(0.95),
        share(1.0)
    );
    // A busy machine may hold up the test's own threads now and then.
    assert!(share(0.95) < 2.0, "{off:.4?}");
    assert!(share(1.0) < 10.0, "{off:.4?}");
}
