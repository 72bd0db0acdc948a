//! The registry is gone, hung or forgetful, before, during and after a member's start: probes never pause, the log says
//! each change once, and everything heals by itself.

pub mod support;

use std::time::Duration;

use support::daemon::{Daemon, Member, Registry, Ring};
use support::metrics::Metrics;
use support::{SOON, eventually, holds};

/// The member goes on as before: no check fails, every peer stays connected, and the log keeps silent.
fn goes_on_quietly(member: &Daemon, peers: f64) {
    let (log, failures) = (member.log(), member.metrics().sum("netring_check_failures_total", &[]));
    // Three checks of each of a peer's targets: three seconds and as many heartbeats.
    member.wait_for_checks(peers * 3.0 * 3.0);
    let metrics = member.metrics();
    assert_eq!(metrics.sum("netring_connectivity_tcp", &[]), peers);
    assert_eq!(metrics.sum("netring_check_failures_total", &[]), failures);
    assert_eq!(member.log().strip_prefix(&log), Some(""), "nothing changed, so nothing is logged");
}

#[test]
fn members_start_without_a_registry_and_meet_when_it_comes() {
    let registry = Registry::new();
    let members: Vec<Daemon> =
        ["us1", "eu1"].iter().map(|location| Member::new(location, registry.server).start()).collect();
    for member in &members {
        assert_eq!(member.get("/health").status, 200, "ready means serving and probing");
        member.wait_for_value("netring_registry_up", &[], 0.0);
        assert_eq!(member.metrics().value("netring_members_total", &[]), Some(0.0));
        eventually(SOON, "the log names the registry", || {
            let lines = member.log_lines(&[&registry.server.to_string()]);
            holds(!lines.is_empty(), member.log())
        });
    }
    let ring = Ring { registry: registry.start(), members };
    ring.wait_connected();
    for member in &ring.members {
        member.wait_for_value("netring_registry_up", &[], 1.0);
    }
}

#[test]
fn a_registry_that_goes_stops_no_check_and_is_logged_once() {
    let mut ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1", "asia1"]);
    ring.registry.kill();
    let [member, ..] = &ring.members[..] else { panic!("three members") };
    member.wait_for_value("netring_registry_up", &[], 0.0);
    goes_on_quietly(member, 2.0);
    let old = |metrics: &Metrics| metrics.value("netring_roster_age_seconds", &[]).unwrap_or_default();
    assert!(old(&member.metrics()) >= 2.0, "the roster's age is told");
    assert_eq!(member.get("/health").status, 200);

    ring.registry.start_again();
    for member in &ring.members {
        member.wait_for_value("netring_registry_up", &[], 1.0);
        member.wait_for("the roster is fresh", |metrics| holds(old(metrics) < 2.0, old(metrics)));
    }
    goes_on_quietly(&ring.members[0], 2.0);
}

#[test]
fn a_member_that_boots_without_its_registry_checks_the_ring_it_knew() {
    let mut ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1", "asia1"]);
    ring.registry.kill();
    ring.members[0].start_again();
    let member = &ring.members[0];
    member.wait_for("both peers are reached", |metrics| {
        let up = metrics.sum("netring_connectivity_tcp", &[]);
        holds((up - 2.0).abs() < f64::EPSILON, up)
    });
    assert_eq!(member.metrics().value("netring_registry_up", &[]), Some(0.0));
    assert_eq!(member.get("/health").json()["members_count"], 2);
}

#[test]
fn a_hung_registry_delays_no_check_no_scrape_and_no_stop() {
    let mut ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1"]);
    ring.registry.signal(libc::SIGSTOP);
    let member = &mut ring.members[0];
    member.wait_for_value("netring_registry_up", &[], 0.0);
    goes_on_quietly(member, 1.0);
    let scraped = netring::clock::monotonic();
    let _ = member.metrics();
    let took = netring::clock::monotonic() - scraped;
    assert!(took < Duration::from_millis(500), "the scrape took {took:?}");
    let status = member.terminate(Duration::from_secs(1));
    assert!(status.success(), "{status}");

    ring.registry.signal(libc::SIGCONT);
    ring.members[1].wait_for_value("netring_registry_up", &[], 1.0);
}

#[test]
fn a_registry_that_forgot_everything_is_told_again() {
    let settings = Registry { member_ttl: 300, ..Registry::new() };
    let mut ring = Ring::start(&settings, &["us1", "eu1", "asia1"]);
    ring.registry.kill();
    // At the same address, with an empty state directory: every heartbeat is answered with 404.
    ring.registry = settings.start();
    eventually(SOON, "everybody is on the new roster, with the identity it had", || {
        let listed = ring.registry.get("/members").json();
        let mut ids: Vec<&str> =
            listed["members"].as_array().into_iter().flatten().filter_map(|m| m["instance_id"].as_str()).collect();
        ids.sort_unstable();
        holds(ids == ["asia1-id", "eu1-id", "us1-id"], ids)
    });
    ring.wait_connected();
}

#[test]
fn a_member_the_registry_forgot_registers_again_at_its_next_heartbeat() {
    let ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1"]);
    assert_eq!(ring.registry.post("/deregister", r#"{"instance_id": "us1-id"}"#).status, 200);
    eventually(SOON, "us1 is listed again", || {
        let listed = ring.registry.get("/members").text();
        holds(listed.contains("us1-id"), listed)
    });
    ring.wait_connected();
}

#[test]
fn a_thousand_joins_and_leaves_leave_nothing_behind() {
    let ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1"]);
    let member = &ring.members[0];
    let nobody = support::port();
    let id = |round: usize, n: usize| format!("passer-{round}-{n}");
    let everything = |metrics: &Metrics| -> Vec<String> {
        let families = metrics.names().filter_map(|name| metrics.family(name));
        let samples = families.flat_map(|family| &family.samples);
        samples.map(|sample| format!("{}{:?}", sample.name, sample.labels)).filter(|s| s.contains("passer")).collect()
    };
    let memory = |metrics: &Metrics| metrics.value("process_resident_memory_bytes", &[]).unwrap_or_default();
    let mut settled = 0.0;
    for round in 0..10 {
        for n in 0..100 {
            let body = format!(
                r#"{{"instance_id": "{}", "location": "passer-{n}", "ip": "{}", "port": {nobody}}}"#,
                id(round, n),
                support::address()
            );
            assert_eq!(ring.registry.post("/register", &body).status, 200);
        }
        member.wait_for_value("netring_members_total", &[], 101.0);
        for n in 0..100 {
            ring.registry.post("/deregister", &format!(r#"{{"instance_id": "{}"}}"#, id(round, n)));
        }
        member.wait_for("no series speaks of those who left", |metrics| {
            let left = everything(metrics);
            holds(left.is_empty(), &left[..left.len().min(5)])
        });
        if round == 2 {
            settled = memory(&member.metrics());
        }
    }
    let grown = memory(&member.metrics()) - settled;
    assert!(grown < 4e6, "seven hundred more joins and leaves cost {grown} bytes");
    assert_eq!(member.metrics().sum("netring_connectivity_tcp", &[]), 1.0);
}
