//! Whoever answers at an address is one identity: a process that took the address of a dead one is no sign of life of the dead
//! one, a server of another location is not the peer, and a registry is not a member.

pub mod support;

use std::collections::BTreeMap;
use std::process::Command;

use support::daemon::{Daemon, Member, NETRING, Registry};
use support::metrics::Metrics;
use support::scripted_registry::{ScriptedRegistry, entry};
use support::{Scratch, holds};

/// When each identity of a location was last seen.
fn last_seen(metrics: &Metrics, location: &str) -> BTreeMap<String, f64> {
    let series = metrics.series("netring_member_last_seen_timestamp", &[("location", location)]);
    series.into_iter().map(|sample| (sample.label("instance_id").to_owned(), sample.value)).collect()
}

/// What `GET /health` says of its own identity.
fn identity(member: &Daemon) -> String {
    member.get("/health").json()["instance_id"].as_str().expect("a member has an identity").to_owned()
}

#[test]
fn a_process_that_took_the_address_of_a_dead_member_is_no_sign_of_life_of_that_member() {
    // No lease ends within the test, so the dead identity stays on the roster.
    let registry = Registry { member_ttl: 300, ..Registry::new() };
    let registry = registry.start();
    let member = Member::new("us1", registry.server).start();
    let mut eu1 = Member { instance_id: None, ..Member::new("eu1", registry.server) }.start();
    let dead = identity(&eu1);
    member.wait_for_value("netring_connectivity_tcp", &[("target_instance", &dead)], 1.0);

    // Without its state directory it starts with a new identity.
    eu1.kill();
    let state = eu1.state_file("roster.json");
    std::fs::remove_dir_all(state.parent().expect("a file is in a directory")).expect("the directory can be removed");
    eu1.start_again();
    let living = identity(&eu1);
    assert_ne!(dead, living);
    member.wait_for_value("netring_connectivity_tcp", &[("target_instance", &living)], 1.0);
    // Until every target has been probed, so that an answer has named the other one.
    member.wait_for_checks(12.0);
    let first = last_seen(&member.metrics(), "eu1");
    for _ in 0..3 {
        // Six targets, each once a second.
        member.wait_for_checks(12.0);
        let metrics = member.metrics();
        // The way to the location is good, whoever answers there.
        for name in ["netring_connectivity_tcp", "netring_connectivity_http"] {
            for id in [&dead, &living] {
                let states = metrics.series(name, &[("target_instance", id)]);
                assert!(!states.is_empty() && states.iter().all(|s| s.value == 1.0), "{name} of {id}: {states:?}");
            }
        }
    }
    let last = last_seen(&member.metrics(), "eu1");
    let moved = |id: &String| last[id] - first[id];
    // Whole seconds, so that it may be on one side of a second or the other.
    assert!(moved(&dead).abs() <= 1.0, "nobody has seen the dead member: {first:?}, {last:?}");
    assert!(moved(&living) >= 3.0, "the living one is seen at each probe: {first:?}, {last:?}");
    let line = ["warn", "another member", &format!("target={dead}"), &format!("answers={living}")];
    assert_eq!(member.log_lines(&line).len(), 1, "it is said once:\n{}", member.log());
    assert_eq!(member.log_lines(&["another member"]).len(), 1, "{}", member.log());
}

#[test]
fn a_server_of_another_location_at_the_address_of_a_peer_is_not_that_peer() {
    let registry = ScriptedRegistry::start();
    let member = Member::new("us1", registry.address).start();
    let eu1 = Member::new("eu1", registry.address).start();
    registry.set_entries(&[entry("asia1-id", "asia1", eu1.server)]);
    let of_asia1 = [("target_location", "asia1")];
    let health = [("target_location", "asia1"), ("endpoint", "/health")];
    member.wait_for_value("netring_connectivity_http", &health, 0.0);
    member.wait_for_value("netring_connectivity_http", &[("target_location", "eu1"), ("endpoint", "/health")], 1.0);
    member.wait_for("failures are counted by their reason", |metrics| {
        let wrong = metrics.sum("netring_check_failures_total", &[of_asia1[0], ("reason", "identity")]);
        holds(wrong >= 2.0, wrong)
    });
    let metrics = member.metrics();
    let failures = |labels: &[(&str, &str)]| metrics.sum("netring_check_failures_total", labels);
    assert_eq!(failures(&of_asia1), failures(&[of_asia1[0], ("reason", "identity")]), "no failure has another reason");
    assert_eq!(failures(&[("target_location", "eu1")]), 0.0);
    let lines = member.log_lines(&["warn", "peer down", "asia1-id", "reason=identity", "eu1"]);
    assert_eq!(lines.len(), 1, "the line names who answers, once:\n{}", member.log());
}

#[test]
fn the_health_check_of_a_member_does_not_take_a_registry_for_one() {
    let registry = Registry::new().start();
    let member = Member::new("us1", registry.server).start();
    let scratch = Scratch::new();
    let checked = |role: &str, server| {
        let described = Member { server, ..Member::new("us1", registry.server) };
        let text = if role == "--member" { described.yaml() } else { Registry { server, ..Registry::new() }.yaml() };
        let config = scratch.file("config.yaml", &text);
        let output =
            Command::new(NETRING).args(["healthcheck", role]).arg(config).output().expect("netring can be run");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = checked("--member", registry.server);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("expected a member") && said.contains("a registry answers"), "{said}");
    let (code, said) = checked("--registry", member.server);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("expected a registry") && said.contains("a member answers"), "{said}");
    for (role, server) in [("--member", member.server), ("--registry", registry.server)] {
        let (code, said) = checked(role, server);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.starts_with("healthy: "), "{said}");
    }
}
