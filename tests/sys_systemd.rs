//! Registry and member as services of a real systemd: ready, their status line, their log, their crash and their end.

pub mod support;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use netring::clock::monotonic;
use serde_json::Value;
use support::booted::{Booted, MEMBER_PORT, REGISTRY_PORT, tells};
use support::{SOON, eventually, holds, http};

on_each_systemd!(
    a_service_that_is_enabled_is_ready_at_once_and_after_a_reboot,
    the_status_line_changes_with_the_state,
    the_journal_has_every_fact_in_a_field_of_its_own,
    a_service_that_crashes_comes_back_as_the_same_one,
    a_service_that_is_stopped_leaves_the_ring_within_a_second,
);

const REGISTRY: &str = "netring-registry.service";
const MEMBER: &str = "netring-member.service";

/// The `MESSAGE_ID` of events that people and programs look for: netring-member(8) lists them, and they never change.
const PEER_DOWN: &str = "eab510e2f8294c1a8d2f4153b4444848";
const PEER_UP: &str = "82dc47002084481ca57b436b33ee7528";
const REGISTRY_LOST: &str = "7aea8699d4e945b4aeb17adc87f3f7e1";
const REGISTRY_BACK: &str = "6167b0e8248a46cf994331321592cd72";
const CONFIGURATION_REFUSED: &str = "f5a34e97fae4481cb6e97a939334e46d";

/// Starts the registry, then the member, which must be ready when systemctl says so.
fn start(host: &Booted) {
    host.configure_registry();
    host.configure_member("us1", &host.host);
    for (unit, port) in [(REGISTRY, REGISTRY_PORT), (MEMBER, MEMBER_PORT)] {
        host.run(&["systemctl", "enable", "--now", unit]);
        assert_eq!(host.get(port, "/health").status, 200, "{unit}");
    }
}

/// Who is in the ring, by the registry.
fn members(host: &Booted) -> Vec<Value> {
    host.get(REGISTRY_PORT, "/members").json()["members"].as_array().expect("a list").clone()
}

/// Has the registry list a peer that the test plays itself, on this port of the host.
fn register(host: &Booted, location: &str, port: u16) {
    let ip = host.host.v4;
    let body = format!(r#"{{"instance_id": "{location}-id", "location": "{location}", "ip": "{ip}", "port": {port}}}"#);
    let registry = SocketAddr::new(ip.into(), REGISTRY_PORT);
    let answer = host.host.inside(|| http::post(registry, "/register", &body)).expect("the registry answers");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

fn a_service_that_is_enabled_is_ready_at_once_and_after_a_reboot(host: &mut Booted) {
    start(host);
    for turn in 0..2 {
        for unit in [REGISTRY, MEMBER] {
            let facts = [
                ("Type", "notify"),
                ("NotifyAccess", "main"),
                ("WatchdogUSec", "30s"),
                ("SubState", "running"),
                ("Result", "success"),
                ("NRestarts", "0"),
                ("UnitFileState", "enabled"),
            ];
            for (property, wanted) in facts {
                assert_eq!(host.property(unit, property), wanted, "{property} of {unit}");
            }
        }
        let well = "1 member at 1 location, store embedded";
        host.wait_for_property(SOON, REGISTRY, "StatusText", well);
        host.wait_for_property(SOON, MEMBER, "StatusText", "0 peers at 0 locations");
        assert_eq!(host.get(MEMBER_PORT, "/health").json()["location"], "us1");
        if turn == 0 {
            host.reboot();
        }
    }
}

fn the_status_line_changes_with_the_state(host: &mut Booted) {
    start(host);
    let shows = |what: &str| host.wait_for_property(SOON, MEMBER, "StatusText", what);
    shows("0 peers at 0 locations");
    let peer = host.host.inside(|| TcpListener::bind((host.host.v4, 9000))).expect("the port is free");
    register(host, "eu1", 9000);
    // It takes connections and answers no request.
    shows("1 peer at 1 location, 1 failing: eu1 (http timeout) for under 2 min");
    drop(peer);
    shows("1 peer at 1 location, 1 failing: eu1 (tcp refused) for under 2 min");
    register(host, "asia1", 8756);
    shows("2 peers at 2 locations, 1 failing: eu1 (tcp refused) for under 2 min");
    host.run(&["systemctl", "stop", REGISTRY]);
    shows("2 peers at 2 locations, 2 failing: eu1 (tcp refused) for under 2 min and 1 more, registry away");
}

fn the_journal_has_every_fact_in_a_field_of_its_own(host: &mut Booted) {
    start(host);
    let id = host.get(MEMBER_PORT, "/health").json()["instance_id"].as_str().expect("a text").to_owned();
    let has = |entry: &Value, facts: &[(&str, &str)]| {
        for (field, wanted) in facts {
            assert!(tells(entry, field, wanted), "{field} of {entry}");
        }
    };
    let start = host.wait_for_entry(MEMBER, &[("MESSAGE", "member serving and probing")]);
    let member = [("NETRING_LOCATION", "us1"), ("NETRING_INSTANCE", &*id), ("SYSLOG_IDENTIFIER", "netring-member")];
    has(&start, &member);
    has(&start, &[("PRIORITY", "6"), ("_TRANSPORT", "journal"), ("_SYSTEMD_UNIT", MEMBER)]);
    has(&start, &[("TARGET", "netring::command::daemon")]);
    let joined = host.wait_for_entry(REGISTRY, &[("MESSAGE", "member joined the ring"), ("NETRING_INSTANCE", &id)]);
    has(&joined, &[("SYSLOG_IDENTIFIER", "netring-registry"), ("NETRING_LOCATION", "us1")]);

    // What is worth an alert has a kind that stays the same.
    register(host, "eu1", 9000);
    let peer = [("NETRING_CHECK", "tcp"), ("NETRING_TARGET_LOCATION", "eu1"), ("NETRING_TARGET", "eu1-id")];
    let down = host.wait_for_entry(MEMBER, &[&peer[..], &[("MESSAGE_ID", PEER_DOWN)]].concat());
    has(&down, &member);
    has(&down, &[("NETRING_REASON", "refused"), ("PRIORITY", "4"), ("MESSAGE", "peer down")]);
    // It stays down, and that is told once.
    std::thread::sleep(Duration::from_secs(3));
    let told = |entry: &&Value| entry["MESSAGE_ID"] == PEER_DOWN && entry["NETRING_CHECK"] == "tcp";
    assert_eq!(host.journal(MEMBER).iter().filter(told).count(), 1);
    let _peer = host.host.inside(|| TcpListener::bind((host.host.v4, 9000))).expect("the port is free");
    let up = host.wait_for_entry(MEMBER, &[&peer[..], &[("MESSAGE_ID", PEER_UP)]].concat());
    has(&up, &member);

    host.run(&["systemctl", "stop", REGISTRY]);
    let lost = host.wait_for_entry(MEMBER, &[("MESSAGE_ID", REGISTRY_LOST)]);
    has(&lost, &member);
    has(&lost, &[("PRIORITY", "4"), ("NETRING_REASON", "connection refused")]);
    host.run(&["systemctl", "start", REGISTRY]);
    has(&host.wait_for_entry(MEMBER, &[("MESSAGE_ID", REGISTRY_BACK)]), &member);
    host.write("/etc/netring/member.yaml", "member: {");
    let _ = host.fails(&["systemctl", "reload", MEMBER]);
    let refused = host.wait_for_entry(MEMBER, &[("MESSAGE_ID", CONFIGURATION_REFUSED)]);
    has(&refused, &[("PRIORITY", "3"), ("SYSLOG_IDENTIFIER", "netring-member")]);
    let reason = refused["NETRING_REASON"].as_str().unwrap_or_default();
    assert!(reason.contains("/etc/netring/member.yaml:1:"), "{refused}");

    // The catalog explains each of them.
    let journal = ["journalctl", "--catalog", "--no-pager", "--unit", MEMBER];
    for (id, words) in [
        (PEER_DOWN, "the check tcp of eu1 (eu1-id) fails with reason refused"),
        (PEER_UP, "A peer is up again"),
        (REGISTRY_LOST, "The registry cannot be reached"),
        (REGISTRY_BACK, "The registry is back"),
        (CONFIGURATION_REFUSED, "A configuration was refused"),
    ] {
        let said = host.run(&[&journal[..], &[&format!("MESSAGE_ID={id}")]].concat());
        assert!(said.contains(words), "{id}: {said}");
        assert!(!said.contains("@NETRING"), "a field that the event has not: {said}");
    }
}

fn a_service_that_crashes_comes_back_as_the_same_one(host: &mut Booted) {
    start(host);
    register(host, "eu1", 9000);
    host.wait_for_property(SOON, REGISTRY, "StatusText", "2 members at 2 locations, store embedded");
    let id = host.get(MEMBER_PORT, "/health").json()["instance_id"].clone();
    for unit in [REGISTRY, MEMBER] {
        host.run(&["systemctl", "kill", "--signal=KILL", unit]);
    }
    for (unit, port) in [(REGISTRY, REGISTRY_PORT), (MEMBER, MEMBER_PORT)] {
        host.wait_for_property(SOON, unit, "NRestarts", "1");
        host.wait_for_property(SOON, unit, "SubState", "running");
        assert_eq!(host.get(port, "/health").status, 200, "{unit}");
    }
    assert_eq!(host.get(MEMBER_PORT, "/health").json()["instance_id"], id);
    host.wait_for_property(
        SOON,
        MEMBER,
        "StatusText",
        "1 peer at 1 location, 1 failing: eu1 (tcp refused) for under 2 min",
    );
    let mut ids: Vec<Value> = members(host).iter().map(|member| member["instance_id"].clone()).collect();
    ids.sort_by_key(Value::to_string);
    let mut wanted = vec![Value::from("eu1-id"), id];
    wanted.sort_by_key(Value::to_string);
    assert_eq!(ids, wanted, "the registry knows them from before");
}

fn a_service_that_is_stopped_leaves_the_ring_within_a_second(host: &mut Booted) {
    start(host);
    eventually(SOON, "the member is listed", || holds(members(host).len() == 1, members(host)));
    for unit in [MEMBER, REGISTRY] {
        let began = monotonic();
        host.run(&["systemctl", "stop", unit]);
        let took = monotonic() - began;
        // What the daemon may take is a second; systemctl and a busy machine take theirs.
        assert!(took < Duration::from_millis(1500), "{unit}: {took:?}");
        for (property, wanted) in [("SubState", "dead"), ("Result", "success"), ("ExecMainStatus", "0")] {
            assert_eq!(host.property(unit, property), wanted, "{property} of {unit}");
        }
        let _ = host.wait_for_entry(unit, &[("MESSAGE", "stopping")]);
        if unit == MEMBER {
            assert_eq!(members(host), [Value::Null; 0], "it has left the ring");
        }
    }
    for name in ["netring-member", "netring-registry"] {
        assert!(!host.has(&format!("/run/private/{name}")), "what is for the running service is gone");
        assert!(host.has(&format!("/var/lib/private/{name}")), "what it knows is kept");
    }
    let state = host.run(&["ls", "-A", "/var/lib/netring-member/", "/var/lib/netring-registry/"]);
    assert!(state.contains("instance-id"), "{state}");
}
