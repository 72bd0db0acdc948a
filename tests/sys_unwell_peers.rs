//! Peers that answer in every wrong way there is, all at once, beside one that is well: each way has its own kind of failure
//! and leaves its own state, no peer holds a turn or a descriptor past the time limit, what is read is bounded, and the peer
//! that is well is probed as evenly as if it were alone.

pub mod support;

use std::time::{Duration, Instant};

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, Registry};
use support::holds;
use support::metrics::Metrics;
use support::peer::{Connection, Peer, Script, Visit};

const INTERVAL: Duration = Duration::from_secs(2);
const TIME_LIMIT: Duration = Duration::from_secs(1);
/// How long the member is watched.
const WINDOW: Duration = Duration::from_secs(16);

/// By how much a busy machine may be late with a thread of the test.
const LATENESS: Duration = Duration::from_millis(700);

/// What a body may cost the peer: the 1 MiB that the member reads, and what the kernel takes in for it on both sides.
const TAKEN_MAX: usize = 24 << 20;
/// What the member may grow by while all this is on: a fifth of one such body.
const GROWTH_MAX: u64 = 5 << 20;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// The head of an answer with a gigabyte to follow.
const GIGABYTE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";

/// One way for a peer to be: its location, what it does when asked, and what every HTTP probe of it ends in.
type Way = (&'static str, Script, Result<(), &'static str>);

const WAYS: [Way; 16] = [
    ("well", |it| answer(it, OK), Ok(())),
    ("accepts-and-is-silent", Connection::stay, Err("timeout")),
    ("reads-and-is-silent", |it| begin(it, "", Connection::stay), Err("timeout")),
    ("drips-its-head", |it| begin(it, "", |it| drip(it, OK)), Err("timeout")),
    ("drips-its-body", |it| begin(it, GIGABYTE, |it| drip(it, "body")), Err("timeout")),
    ("head-without-end", |it| begin(it, "HTTP/1.1 200 OK\r\n", |it| flood(it, "x: y\r\n")), Err("body")),
    ("gigabyte", |it| begin(it, GIGABYTE, |it| flood(it, "gigabyte")), Ok(())),
    ("closes-at-once", |_| {}, Err("reset")),
    ("closes-when-asked", |it| answer(it, ""), Err("reset")),
    ("resets-when-asked", |it| begin(it, "", |it| it.reset_at_the_end()), Err("reset")),
    ("closes-within-its-head", |it| answer(it, "HTTP/1.1 200 OK\r\ncontent-le"), Err("reset")),
    ("closes-after-its-head", |it| answer(it, GIGABYTE), Err("reset")),
    ("closes-within-its-body", |it| begin(it, GIGABYTE, |it| _ = it.send("body")), Err("reset")),
    ("ends-its-body-by-closing", |it| answer(it, "HTTP/1.1 200 OK\r\n\r\nok"), Ok(())),
    ("speaks-something-else", |it| answer(it, "SSH-2.0-OpenSSH_9.2\r\n"), Err("body")),
    ("is-broken", |it| answer(it, "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"), Err("status")),
];
/// And one where nothing listens.
const CLOSED: &str = "nobody-listens";

/// Once asked sends this and goes on so. A probe by TCP does not ask.
fn begin(it: &mut Connection, opening: &str, go_on: impl FnOnce(&mut Connection)) {
    if it.read_request() && it.send(opening) {
        go_on(it);
    }
}

/// Once asked sends this and closes.
fn answer(it: &mut Connection, bytes: &str) {
    begin(it, bytes, |_| {});
}

/// Sends a byte a second, for as long as they are taken.
fn drip(it: &mut Connection, bytes: &str) {
    let _ = bytes.bytes().all(|byte| it.send([byte]) && it.pause(Duration::from_secs(1)));
}

/// Sends this over and over, a gigabyte in all, for as long as it is taken.
fn flood(it: &mut Connection, bytes: &str) {
    let block = bytes.repeat((64 << 10) / bytes.len());
    let _ = (0..(1 << 30) / block.len()).all(|_| it.send(&block));
}

/// What is watched of the member's own use while the peers are at it.
#[derive(Debug)]
struct Use {
    descriptors: f64,
    resident: u64,
}

fn used(member: &Daemon) -> Use {
    let descriptors = member.metrics().value("process_open_fds", &[]).expect("a member counts its descriptors");
    Use { descriptors, resident: member.usage().resident }
}

fn checks(metrics: &Metrics, kind: &str, location: &str) -> f64 {
    metrics.sum("netring_checks_total", &[("check_type", kind), ("target_location", location)])
}

/// The failures towards a location by reason, those that were not left out.
fn failures(metrics: &Metrics, kind: &str, location: &str) -> Vec<(String, f64)> {
    let series = metrics.series("netring_check_failures_total", &[("check_type", kind), ("target_location", location)]);
    series.iter().filter(|s| s.value > 0.0).map(|s| (s.label("reason").to_owned(), s.value)).collect()
}

#[test]
fn each_way_to_be_unwell_has_its_own_kind_holds_nothing_past_its_limit_and_harms_no_other_peer() {
    let registry = Registry { member_ttl: 300, ..Registry::new() };
    let registry = registry.start();
    let described = Member {
        check_interval: u32::try_from(INTERVAL.as_secs()).expect("a few seconds"),
        timeout: TIME_LIMIT.as_secs_f64(),
        http_endpoints: vec!["/health".into()],
        ..Member::new("us1", registry.server)
    };
    let member = described.start();
    let idle = used(&member);
    let peers: Vec<(Way, Peer)> = WAYS.into_iter().map(|way| (way, Peer::start(way.1))).collect();
    for ((location, ..), peer) in &peers {
        registry.register(&format!("{location}-id"), location, peer.address);
    }
    registry.register(&format!("{CLOSED}-id"), CLOSED, support::socket());
    let targets = 2.0 * (WAYS.len() + 1) as f64;
    member.wait_for("every target has been probed twice", |metrics| {
        let each = metrics.series("netring_checks_total", &[]);
        holds(each.len() as f64 >= targets && each.iter().all(|s| s.value >= 2.0), each.len())
    });

    let (start, before) = (monotonic(), used(&member));
    let mut most = used(&member);
    while monotonic() - start < WINDOW {
        let now = used(&member);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.resident = most.resident.max(now.resident);
        std::thread::sleep(Duration::from_millis(200));
    }
    let metrics = member.metrics();
    println!("idle {idle:?}, before {before:?}, at most {most:?}");
    // A probe holds one.
    assert!(most.descriptors <= idle.descriptors + targets, "idle {idle:?}, at most {most:?}");
    assert!(most.resident <= before.resident + GROWTH_MAX, "before {before:?}, at most {most:?}");
    for reason in ["overlap", "limit"] {
        assert_eq!(metrics.sum("netring_checks_skipped_total", &[("reason", reason)]), 0.0, "skipped: {reason}");
    }
    for ((location, _, outcome), peer) in &peers {
        judge(&metrics, location, *outcome);
        assert!(failures(&metrics, "tcp", location).is_empty(), "{location} is reached by TCP");
        let visits = peer.visits();
        // All but the two that may be under way are over, which a peer learns from the member alone.
        let made = checks(&metrics, "tcp", location) + checks(&metrics, "http", location);
        assert!(visits.len() as f64 >= made - 2.0, "{location}: {} of {made} probes are over", visits.len());
        for visit in &visits {
            let held = visit.over - visit.came;
            assert!(held < TIME_LIMIT + LATENESS, "{location} held the member for {held:?}");
            assert!(visit.sent < TAKEN_MAX, "{location} could send {} bytes", visit.sent);
        }
    }
    judge(&metrics, CLOSED, Err("refused"));
    assert_eq!(failures(&metrics, "tcp", CLOSED), [("refused".to_owned(), checks(&metrics, "tcp", CLOSED))]);
    judge_rhythm(&peers[0].1.visits(), start);

    for location in peers.iter().map(|((location, ..), _)| *location).chain([CLOSED]) {
        registry.post("/deregister", &format!(r#"{{"instance_id": "{location}-id"}}"#));
    }
    member.wait_for("every descriptor is given back", |metrics| {
        let held = metrics.value("process_open_fds", &[]);
        holds(held.is_some_and(|held| held <= idle.descriptors + 1.0), held)
    });
}

/// All HTTP probes of this peer have ended in the same way, and its state says so.
fn judge(metrics: &Metrics, location: &str, outcome: Result<(), &str>) {
    let made = checks(metrics, "http", location);
    let expected: Vec<_> = outcome.err().map(|reason| (reason.to_owned(), made)).into_iter().collect();
    assert_eq!(failures(metrics, "http", location), expected, "{location}, of {made} probes");
    let state = metrics.value("netring_connectivity_http", &[("target_location", location)]);
    assert_eq!(state, Some(if outcome.is_ok() { 1.0 } else { 0.0 }), "{location}");
}

/// The peer that is well was asked once each interval.
fn judge_rhythm(visits: &[Visit], from: Instant) {
    let mut came: Vec<Instant> = visits.iter().filter(|v| v.asked && v.came >= from).map(|v| v.came).collect();
    came.sort();
    let gaps: Vec<f64> = came.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    let turns = (WINDOW.as_secs() / INTERVAL.as_secs()) as usize;
    assert!((turns - 2..=turns).contains(&gaps.len()), "a turn is missing: {gaps:.3?}");
    let interval = INTERVAL.as_secs_f64();
    let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
    assert!((mean / interval - 1.0).abs() < 0.02, "the rhythm is off: {gaps:.3?}");
    assert!(gaps.iter().all(|gap| (gap / interval - 1.0).abs() < 0.25), "the rhythm is off: {gaps:.3?}");
}
