//! The wall clock jumps an hour under a whole ring: no lease ends early or late, and no probe or heartbeat moves.

pub mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netring::clock::{monotonic, wall};
use support::daemon::{Member, Registry, Ring};
use support::redis::Redis;
use support::wall_clock::WallClock;
use support::{eventually, holds};

const HOUR: i64 = 3600;
const LEASE: Duration = Duration::from_secs(10);
const LOCATIONS: [&str; 3] = ["us1", "eu1", "asia1"];

fn ids(ring: &Ring) -> Vec<String> {
    let listed = ring.registry.get("/members").json();
    let members = listed["members"].as_array().expect("the members are a list");
    members.iter().map(|member| member["instance_id"].as_str().expect("an id is a text").to_owned()).collect()
}

/// Whether all of these are on the roster.
fn all_listed(ring: &Ring, wanted: &[&str]) -> Result<(), String> {
    let ids = ids(ring);
    holds(wanted.iter().all(|id| ids.iter().any(|listed| listed == id)), ids)
}

/// What a ring has done so far.
struct Account {
    at: Instant,
    /// Checks made by each member.
    checks: Vec<f64>,
    heartbeats: f64,
}

impl Account {
    fn of(ring: &Ring, members: &[usize]) -> Self {
        let checks = members.iter().map(|&n| ring.members[n].metrics().sum("netring_checks_total", &[]));
        let checks = checks.collect();
        let heartbeats = ring.registry.metrics().sum("netring_registry_requests_total", &[("route", "/heartbeat")]);
        Self { at: monotonic(), checks, heartbeats }
    }

    /// Each member goes on to check each target and to renew its lease once a second.
    fn went_on_evenly(&self, before: &Self, targets: f64) {
        let seconds = (self.at - before.at).as_secs_f64();
        for (now, before) in self.checks.iter().zip(&before.checks) {
            let turns = (now - before) / targets;
            assert!((turns - seconds).abs() < 1.2, "{turns} turns of each target in {seconds} s");
        }
        let beats = (self.heartbeats - before.heartbeats) / self.checks.len() as f64;
        assert!((beats - seconds).abs() < 1.5, "{beats} heartbeats of each member in {seconds} s");
    }
}

/// Everyone shows the time of the clock that is `off` seconds off.
fn shows(ring: &Ring, off: i64, members: &[usize]) {
    let daemons = members.iter().map(|&n| &ring.members[n]).chain([&ring.registry]);
    for daemon in daemons {
        let shown = daemon.get("/health").json()["timestamp"].as_f64().expect("a timestamp is a number");
        let expected = wall().epoch_seconds_f64() + off as f64;
        assert!((shown - expected).abs() < 5.0, "{shown} is not {expected}");
    }
}

/// Jumps, and watches the ring for some seconds: all members named stay on the roster all the time.
fn jump(clock: &WallClock, off: i64, ring: &Ring) {
    let revision = || ring.registry.metrics().value("netring_registry_revision", &[]);
    let (before, from) = (revision(), Account::of(ring, &[0, 1, 2]));
    clock.set_off(off);
    while (monotonic() - from.at) < Duration::from_millis(3500) {
        let listed = all_listed(ring, &["us1-id", "eu1-id", "asia1-id"]);
        assert_eq!(listed, Ok(()), "after a jump to {off} s off; the registry's log:\n{}", ring.registry.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Two peers, each checked by TCP and at two endpoints.
    Account::of(ring, &[0, 1, 2]).went_on_evenly(&from, 6.0);
    assert_eq!(revision(), before, "nobody left, joined or moved");
    shows(ring, off, &[0, 1, 2]);
}

fn an_hour_changes_nothing(clock: &WallClock, redis: Option<SocketAddr>) {
    let registry =
        Registry { redis, member_ttl: LEASE.as_secs() as u32, wall_clock: Some(clock.clone()), ..Registry::new() };
    let server = registry.server;
    let registry = registry.start();
    let start = |location| Member { wall_clock: Some(clock.clone()), ..Member::new(location, server) }.start();
    let mut ring = Ring { registry, members: LOCATIONS.map(start).into() };
    ring.wait_connected();
    shows(&ring, 0, &[0, 1, 2]);

    jump(clock, HOUR, &ring);
    jump(clock, -HOUR, &ring);

    // A lease that nobody renews ends in its time, though the clock is put back while it runs.
    let last = monotonic();
    ring.members[1].kill();
    clock.set_off(-2 * HOUR);
    eventually(LEASE + Duration::from_secs(4), "the lease of a dead member ends", || {
        assert_eq!(all_listed(&ring, &["us1-id", "asia1-id"]), Ok(()), "those who renew stay");
        holds(ids(&ring).len() == 2, ids(&ring))
    });
    let lasted = monotonic() - last;
    assert!(lasted > LEASE - Duration::from_secs(2), "it ended after {lasted:?}");
    println!("the lease of a dead member ended after {lasted:?}");

    for member in [&ring.members[0], &ring.members[2]] {
        let metrics = member.metrics();
        assert_eq!(metrics.sum("netring_check_failures_total", &[("reason", "timeout")]), 0.0);
        assert_eq!(metrics.sum("netring_checks_skipped_total", &[]), 0.0);
        assert_eq!(member.log_lines(&["registry lost"]), Vec::<String>::new());
    }
}

#[test]
fn an_hour_forward_and_back_changes_nothing_on_the_embedded_store() {
    let Some(clock) = WallClock::new() else { return };
    an_hour_changes_nothing(&clock, None);
}

#[test]
fn an_hour_forward_and_back_changes_nothing_where_redis_sees_it_too() {
    let Some(clock) = WallClock::new() else { return };
    let Some(redis) = Redis::start_by(Some(clock.clone())) else { return };
    an_hour_changes_nothing(&clock, Some(redis.server));
    let now = redis.command(&["TIME"]).expect("a running Redis tells its time");
    let seconds = now.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse::<i64>().ok());
    let expected = wall().epoch_seconds() as i64 - 2 * HOUR;
    assert!(seconds.is_some_and(|seconds| (seconds - expected).abs() < 5), "Redis jumped too: {now}");
}
