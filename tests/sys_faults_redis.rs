//! Redis is gone, hung, flushed or restarted under the registry, and shared with replicas and with older programs.

pub mod support;

use std::time::Duration;

use serde_json::Value;
use support::daemon::{Daemon, Registry, Ring};
use support::redis::Redis;
use support::{SOON, eventually, holds};

const GOOD: &str = r#"{"instance_id": "a", "location": "us1", "ip": "10.1.2.3", "port": 8756}"#;

fn on(redis: &Redis) -> Registry {
    Registry { redis: Some(redis.server), member_ttl: 300, ..Registry::new() }
}

fn ids(registry: &Daemon) -> Vec<String> {
    let listed = registry.get("/members").json();
    let members = listed["members"].as_array().cloned().unwrap_or_default();
    let mut ids: Vec<String> = members.iter().filter_map(|m| m["instance_id"].as_str().map(str::to_owned)).collect();
    ids.sort();
    ids
}

fn wait_for_ids(registry: &Daemon, expected: &[&str]) {
    eventually(SOON, &format!("the roster is {expected:?}"), || {
        let ids = ids(registry);
        holds(ids == expected, format!("{ids:?}\nits log:\n{}", registry.log()))
    });
}

/// The store is away and the registry says so, in every way it has, and once in its log.
fn is_away(registry: &Daemon) {
    registry.wait_for_value("netring_registry_store_up", &[], 0.0);
    let listed = registry.get("/members");
    assert_eq!(listed.status, 200, "the last roster is served: {}", listed.text());
    let age = listed.header("netring-stale").and_then(|age| age.parse::<u64>().ok());
    assert!(age.is_some_and(|age| age < 60), "Netring-Stale: {:?}", listed.header("netring-stale"));

    let health = registry.get("/health");
    assert_eq!(health.status, 503);
    assert_ne!(health.json()["status"], "healthy");

    let log = registry.log();
    for _ in 0..3 {
        let turned_away = registry.post("/register", GOOD);
        assert!(turned_away.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()));
        assert!(!turned_away.error(503).is_empty());
    }
    assert_eq!(registry.log().strip_prefix(&log), Some(""), "what is still so is not logged again");
}

/// The store is back, and nobody had to do anything.
fn is_back(registry: &Daemon) {
    registry.wait_for_value("netring_registry_store_up", &[], 1.0);
    eventually(SOON, "the registry is healthy and its roster fresh", || {
        let (health, listed) = (registry.get("/health"), registry.get("/members"));
        holds(health.status == 200 && listed.header("netring-stale").is_none(), (health.text(), listed.headers))
    });
}

#[test]
fn a_redis_that_goes_and_comes_back_empty_costs_nobody_a_place() {
    let Some(mut redis) = Redis::start() else { return };
    let ring = Ring::start(&on(&redis), &["us1", "eu1"]);
    redis.kill();
    is_away(&ring.registry);
    assert_eq!(ids(&ring.registry), ["eu1-id", "us1-id"]);
    let checks = |n: usize| ring.members[n].metrics().sum("netring_checks_total", &[]);
    let before = checks(0);
    ring.members[0].wait_for("checks go on", |metrics| {
        let now = metrics.sum("netring_checks_total", &[]);
        holds(now >= before + 6.0, now)
    });
    redis.start_again();
    is_back(&ring.registry);
    wait_for_ids(&ring.registry, &["eu1-id", "us1-id"]);
    ring.wait_connected();
    for member in &ring.members {
        member.wait_for_value("netring_registry_up", &[], 1.0);
        assert_eq!(member.metrics().sum("netring_check_failures_total", &[]), 0.0);
    }
}

#[test]
fn a_hung_redis_hangs_no_request() {
    let Some(redis) = Redis::start() else { return };
    let registry = on(&redis).start();
    registry.post("/register", GOOD);
    assert_eq!(ids(&registry), ["a"]);
    redis.hang();
    let asked = netring::clock::monotonic();
    let _ = registry.post("/register", GOOD).error(503);
    let took = netring::clock::monotonic() - asked;
    assert!(took < Duration::from_secs(5), "the answer took {took:?}");
    is_away(&registry);
    assert_eq!(ids(&registry), ["a"]);
    redis.resume();
    is_back(&registry);
    assert_eq!(registry.post("/register", GOOD).status, 200);
}

#[test]
fn a_flushed_redis_is_filled_again() {
    let Some(redis) = Redis::start() else { return };
    let ring = Ring::start(&on(&redis), &["us1", "eu1"]);
    redis.flush();
    eventually(SOON, "both members are in Redis again", || {
        let kept = redis.command(&["SMEMBERS", "netring:active_members"])?;
        holds(kept.contains("us1-id") && kept.contains("eu1-id"), kept)
    });
    wait_for_ids(&ring.registry, &["eu1-id", "us1-id"]);
    ring.wait_connected();
}

#[test]
fn a_registry_starts_before_its_redis() {
    let Some(mut redis) = Redis::start() else { return };
    redis.kill();
    let registry = on(&redis).start();
    registry.wait_for_value("netring_registry_store_up", &[], 0.0);
    assert_eq!(registry.get("/health").status, 503);
    redis.start_again();
    is_back(&registry);
    assert_eq!(registry.post("/register", GOOD).status, 200);
    assert_eq!(ids(&registry), ["a"]);
}

#[test]
fn replicas_share_one_roster_and_a_restart_loses_nothing() {
    let Some(redis) = Redis::start() else { return };
    let mut one = on(&redis).start();
    let other = on(&redis).start();
    assert_eq!(one.post("/register", GOOD).status, 200);
    wait_for_ids(&other, &["a"]);
    assert_eq!(other.post("/heartbeat", r#"{"instance_id": "a"}"#).status, 200);
    one.start_again();
    assert_eq!(ids(&one), ["a"]);
    assert_eq!(one.post("/deregister", r#"{"instance_id": "a"}"#).status, 200);
    wait_for_ids(&other, &[]);
}

#[test]
fn older_programs_find_members_where_they_always_were_and_are_found() {
    let Some(redis) = Redis::start() else { return };
    let registry = on(&redis).start();
    registry.post("/register", GOOD);
    assert!(redis.command(&["SMEMBERS", "netring:active_members"]).unwrap().contains('a'));
    let kept = redis.command(&["HGETALL", "netring:member:a"]).unwrap();
    for word in ["location", "us1", "ip", "10.1.2.3", "port", "8756", "last_seen", "registered_at"] {
        assert!(kept.contains(word), "{word} is missing in {kept}");
    }

    let now = netring::clock::wall().epoch_seconds().to_string();
    let fields = ["instance_id", "old", "location", "eu1", "ip", "10.1.2.4", "port", "8756", "status", "active"];
    let times = ["last_seen", &now, "registered_at", &now];
    redis.command(&[&["HSET", "netring:member:old"], &fields[..], &times].concat()).unwrap();
    redis.command(&["SADD", "netring:active_members", "old"]).unwrap();
    eventually(Duration::from_secs(70), "the older program's member is listed", || {
        let listed = registry.get("/members").json();
        let old = listed["members"].as_array().into_iter().flatten().find(|m| m["instance_id"] == "old").cloned();
        holds(old.as_ref().is_some_and(|m| m["port"] == 8756 && m["last_seen"].is_u64()), Value::from(old))
    });
}
