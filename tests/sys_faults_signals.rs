//! Signals: a stop is quick and takes leave, a reload takes up what is new, keeps what was counted, and refuses what is
//! wrong.

pub mod support;

use std::time::Duration;

use support::daemon::{Daemon, Member, Registry};
use support::metrics::Metrics;
use support::{SOON, eventually, holds};

fn checks(metrics: &Metrics) -> f64 {
    metrics.sum("netring_checks_total", &[("check_type", "tcp")])
}

/// A registry, a member of that description, and one peer for it.
fn with_a_peer(describe: impl FnOnce(Member) -> Member) -> (Daemon, Member, Daemon, Daemon) {
    let registry = Registry { member_ttl: 300, ..Registry::new() }.start();
    let peer = Member::new("eu1", registry.server).start();
    let described = describe(Member::new("us1", registry.server));
    let member = described.start();
    member.wait_for_value("netring_members_total", &[], 1.0);
    (registry, described, member, peer)
}

fn announced_since(daemon: &Daemon, seen: usize, word: &str) -> bool {
    daemon.notifications().iter().skip(seen).any(|message| message.lines().any(|line| line == word))
}

#[test]
fn both_stop_signals_end_a_member_within_a_second_and_off_the_roster() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (registry, _, member, _peer) = with_a_peer(|member| member);
        let mut member = member;
        member.signal(signal);
        let status = member.wait(Duration::from_secs(1));
        assert!(status.success(), "signal {signal}: {status}");
        assert!(announced_since(&member, 0, "STOPPING=1"));
        let listed = registry.get("/members").text();
        assert!(!listed.contains("us1-id"), "it has left: {listed}");
    }
}

#[test]
fn both_stop_signals_end_a_registry_within_a_second_even_while_someone_waits() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut registry = Registry::new().start();
        let server = registry.server;
        std::thread::scope(|scope| {
            let poll = scope.spawn(move || support::http::get(server, "/members?wait=30"));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!poll.is_finished(), "a poll waits for a change");
            registry.signal(signal);
            let status = registry.wait(Duration::from_secs(1));
            assert!(status.success(), "signal {signal}: {status}");
            let answer = poll.join().unwrap();
            assert!(answer.is_ok_and(|answer| answer.status == 200), "whoever waits is answered");
        });
        assert!(announced_since(&registry, 0, "STOPPING=1"));
    }
}

#[test]
fn a_reload_takes_up_a_new_interval_and_new_endpoints_and_keeps_the_counters() {
    let (_registry, described, member, _peer) = with_a_peer(|member| Member { check_interval: 3, ..member });
    member.wait_for("a check", |metrics| holds(checks(metrics) >= 1.0, checks(metrics)));
    let (before, seen) = (checks(&member.metrics()), member.notifications().len());

    let faster = Member { check_interval: 1, http_endpoints: vec!["/health".into()], ..described };
    member.configure(&faster.yaml());
    member.signal(libc::SIGHUP);
    eventually(SOON, "the service manager hears of the reload", || {
        let whole = announced_since(&member, seen, "RELOADING=1") && announced_since(&member, seen, "READY=1");
        holds(whole, member.notifications())
    });
    member.wait_for("the endpoint that is no more has no series", |metrics| {
        let left = metrics.series("netring_connectivity_http", &[("endpoint", "/metrics")]).len();
        holds(left == 0, left)
    });
    let start = netring::clock::monotonic();
    let from = checks(&member.metrics());
    assert!(from >= before, "counted {before} before the reload and {from} after it");
    member.wait_for("five more checks", |metrics| holds(checks(metrics) >= from + 5.0, checks(metrics)));
    let took = netring::clock::monotonic() - start;
    assert!(took < Duration::from_secs(9), "five checks a second apart took {took:?}");
    assert_eq!(member.metrics().sum("netring_connectivity_tcp", &[]), 1.0);
}

#[test]
fn a_reload_of_a_file_that_is_wrong_names_the_fault_and_keeps_the_old_settings() {
    let (_registry, described, member, _peer) = with_a_peer(|member| member);
    let wrong = described.yaml().replace("check_interval: 1", "check_interval: 0").replace("tcp_timeout", "tcp_timeot");
    for wrong in [&wrong, "member: [", ""] {
        let (from, log) = (checks(&member.metrics()), member.log().len());
        member.configure(wrong);
        member.signal(libc::SIGHUP);
        eventually(SOON, "the fault is logged", || {
            let said = member.log()[log..].to_owned();
            holds(said.contains("config.yaml"), said)
        });
        member.wait_for("checks go on", |metrics| holds(checks(metrics) >= from + 3.0, checks(metrics)));
        assert_eq!(member.get("/health").status, 200);
    }
    let log = member.log();
    for fault in ["check_interval", "tcp_timeot"] {
        assert!(log.contains(fault), "all faults are told at once, {fault} too:\n{log}");
    }
}

#[test]
fn a_reload_of_the_registry_keeps_its_roster_and_its_counters() {
    let described = Registry { member_ttl: 300, ..Registry::new() };
    let registry = described.start();
    let body = r#"{"instance_id": "a", "location": "us1", "ip": "10.1.2.3", "port": 8756}"#;
    assert_eq!(registry.post("/register", body).status, 200);
    registry.configure(&Registry { member_ttl: 1, ..described }.yaml());
    let seen = registry.notifications().len();
    registry.signal(libc::SIGHUP);
    eventually(SOON, "the reload is over", || {
        holds(announced_since(&registry, seen, "READY=1"), registry.notifications())
    });
    assert_eq!(registry.metrics().series("netring_registry_revision", &[]).len(), 1);
    registry.post("/register", &body.replace("\"a\"", "\"b\""));
    eventually(Duration::from_secs(5), "the new lease length holds", || {
        let listed = registry.get("/members").text();
        holds(!listed.contains("\"b\""), listed)
    });
}
