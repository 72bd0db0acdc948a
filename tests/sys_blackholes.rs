//! Two hundred peers that swallow every probe, beside a few that live: the live ones are probed as evenly as if they were
//! alone, each dead one costs one time limit per turn, and nobody who asks the member or stops it waits.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netring::clock::monotonic;
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

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let peers: Vec<_> = listeners.iter().map(|listener| scope.spawn(|| live_peer(listener, &over))).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(us1, &registry)));
        over.store(true, Ordering::Relaxed);
        let arrivals: Vec<Arrivals> = peers.into_iter().map(|peer| peer.join().unwrap()).collect();
        let (from, to) = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        judge_rhythm(&arrivals, from, to);
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
    let (mut slowest, mut counted, mut growth) = (Duration::ZERO, Vec::new(), Vec::new());
    let first = member.metrics();
    for turn in 1..=TURNS {
        std::thread::sleep((from + INTERVAL * turn).saturating_duration_since(monotonic()));
        let asked = monotonic();
        let metrics = member.metrics();
        slowest = slowest.max(monotonic() - asked);
        counted.push((asked.duration_since(from).as_secs_f64(), timeouts(&metrics) - timeouts(&first)));
    }
    let to = monotonic();
    let mut before = (0.0, 0.0);
    for now in counted {
        growth.push((now.1 - before.1) / (now.0 - before.0) * INTERVAL.as_secs_f64());
        before = now;
    }
    let last = member.metrics();
    println!("timeouts in each turn: {growth:.0?}; slowest scrape {slowest:?}");
    for grown in &growth {
        // What the board has is up to a batch of reports old, which is a tenth of a turn.
        assert!((grown / targets - 1.0).abs() < 0.2, "each black hole costs one timeout per turn: {growth:.0?}");
    }
    let all = before.1 / (f64::from(TURNS) * targets);
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

/// Each live target came once in each turn, two seconds after the last to within 2 %.
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
}
