//! A host that was suspended, as a laptop or a virtual machine is.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::process::Command;
use std::time::Duration;

use netring::clock::{monotonic, suspended, wall};
use support::daemon::{Member, Registry};
use support::metrics::Metrics;
use support::process::Process;
use support::suspend::Suspend;
use support::{SOON, Scratch, eventually, holds};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
#[ignore = "run as a child process by another test"]
fn says_when_it_was_suspended() {
    let (start, before, awake) = (monotonic(), suspended(), wall());
    // Two readings without a suspend between them may differ by some microseconds, either way.
    let slept = || suspended().saturating_sub(before);
    println!("child: awake");
    while slept() < HOUR && monotonic() - start < SOON {
        std::thread::sleep(Duration::from_millis(5));
    }
    let surplus = slept().abs_diff(HOUR);
    let wall_clock = wall().epoch_seconds_f64() - awake.epoch_seconds_f64();
    let (right, went_on) = (surplus < Duration::from_millis(1), wall_clock >= HOUR.as_secs_f64());
    println!("child: {right} {went_on} {}", monotonic() - start < SOON);
}

#[test]
fn a_process_sees_that_its_host_was_suspended_and_for_how_long() {
    let Some(suspend) = Suspend::new() else { return };
    let scratch = Scratch::new();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["says_when_it_was_suspended", "--exact", "--ignored", "--nocapture"]);
    suspend.govern(&mut command);
    let mut child = Process::start(&mut command, &scratch, "child");
    eventually(SOON, "the child has begun", || holds(child.log().contains("child: awake"), child.log()));
    suspend.sleep_for(HOUR);
    child.wait(SOON * 2);
    let log = child.log();
    assert!(log.contains("child: true true true\n"), "an hour on two clocks and a moment on the third: {log}");
}

/// How long a member may take to notice that it was suspended.
const NOTICED: Duration = Duration::from_secs(2);

fn last_seen(text: &str, id: &str) -> u64 {
    let reply: serde_json::Value = serde_json::from_str(text).unwrap();
    let members = reply["members"].as_array().unwrap();
    let member = members.iter().find(|member| member["instance_id"] == id);
    member.and_then(|member| member["last_seen"].as_u64()).unwrap_or_else(|| panic!("{id} is not listed: {text}"))
}

/// Its peer is probed by TCP alone and every half minute, and its heartbeats are a minute apart, so that what it does at once
/// is seen apart from what it does in turn.
#[test]
fn a_member_that_was_suspended_for_an_hour_says_nothing_of_before_and_renews_its_lease_at_once() {
    let Some(suspend) = Suspend::new() else { return };
    let registry = Registry { member_ttl: 300, ..Registry::new() }.start();
    let eu1 = Member::new("eu1", registry.server).start();
    eventually(SOON, "the peer is listed", || {
        let listed = registry.get("/members").text();
        holds(listed.contains("eu1-id"), listed)
    });
    let us1 = Member {
        check_interval: 30,
        heartbeat_interval: 60,
        http_endpoints: Vec::new(),
        suspend: Some(suspend.clone()),
        ..Member::new("us1", registry.server)
    }
    .start();
    let checks = |metrics: &Metrics| metrics.sum("netring_checks_total", &[]);
    eventually(Duration::from_secs(45), "the peer is probed for the first time", || {
        let metrics = us1.metrics();
        let up = metrics.sum("netring_connectivity_tcp", &[("target_location", "eu1")]);
        holds(checks(&metrics) > 0.5 && up > 0.5, (checks(&metrics), up))
    });
    // Long enough that a heartbeat from now on is told from the registration, in whole seconds.
    std::thread::sleep(Duration::from_secs(3));
    let before = us1.metrics();
    let stood_still = |metrics: &Metrics| metrics.value("netring_standstill_seconds_total", &[]).unwrap();
    let seen_by_registry = last_seen(&registry.get("/members").text(), "us1-id");
    let asleep = wall().epoch_seconds_f64();

    // The registry cannot say a word about the peer for now.
    registry.signal(libc::SIGSTOP);
    suspend.sleep_for(HOUR);
    let awake = monotonic();
    us1.wait_for("the hour is a standstill", |metrics| {
        let grown = stood_still(metrics) - stood_still(&before);
        holds((3_599.0..3_700.0).contains(&grown), grown)
    });
    assert!(monotonic() - awake < NOTICED * 2, "{:?}", monotonic() - awake);
    std::thread::sleep(NOTICED.saturating_sub(monotonic() - awake));
    // Until a probe has ended since, the outcomes of before say nothing, and nobody was seen after the suspend.
    let until = monotonic() + Duration::from_secs(3);
    while monotonic() < until {
        let metrics = us1.metrics();
        if checks(&metrics) > checks(&before) {
            break;
        }
        let known = metrics.series("netring_connectivity_tcp", &[]);
        assert!(known.is_empty(), "{known:?}");
        for seen in metrics.series("netring_member_last_seen_timestamp", &[("instance_id", "eu1-id")]) {
            assert!(seen.value < asleep + 60.0, "seen {} s after the suspend began", seen.value - asleep);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    registry.signal(libc::SIGCONT);
    eventually(Duration::from_secs(5), "the lease is renewed at once", || {
        let now = last_seen(&registry.get("/members").text(), "us1-id");
        holds(now > seen_by_registry, format!("{seen_by_registry} before, {now} now; {}", us1.log()))
    });
    eventually(Duration::from_secs(45), "the peer is probed anew", || {
        let metrics = us1.metrics();
        let up = metrics.sum("netring_connectivity_tcp", &[("target_location", "eu1")]);
        holds(checks(&metrics) > checks(&before) && up > 0.5, (checks(&metrics), up))
    });
    assert_eq!(us1.log_lines(&["peer down"]), Vec::<String>::new());
    drop(eu1);
}
