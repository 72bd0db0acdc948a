//! A member that leaves in order is no failure: it is gone from all others within about a second, and nobody says that it is
//! down. A member that is killed is down, and said to be within a few seconds.

pub mod support;

use std::time::{Duration, Instant};

use netring::clock::monotonic;
use support::daemon::{Daemon, Member, Registry};
use support::metrics::Metrics;
use support::scripted_registry::ScriptedRegistry;
use support::{SOON, eventually, holds};

/// How long a join or a departure may take to reach everybody. It takes well under a second on a quiet machine.
const NOTICED: Duration = Duration::from_secs(3);

/// Long enough for no poll and no heartbeat to bring the news by chance.
const SELDOM: u32 = 20;

const STAYERS: [&str; 3] = ["us1", "eu1", "asia1"];
const MOVER: [(&str, &str); 1] = [("target_location", "africa1")];

/// All states of the one that comes and goes.
fn states(metrics: &Metrics) -> Vec<f64> {
    let http = metrics.series("netring_connectivity_http", &MOVER);
    metrics.series("netring_connectivity_tcp", &MOVER).into_iter().chain(http).map(|sample| sample.value).collect()
}

/// Waits until every stayer knows this many others, and says how long that took. Nobody may show the mover as down meanwhile.
#[track_caller]
fn wait_for_all(stayers: &[Daemon], wanted: f64, limit: Duration, from: Instant) -> Duration {
    for stayer in stayers {
        eventually(limit, &format!("{} knows {wanted} others", stayer.server), || {
            let metrics = stayer.metrics();
            let seen = states(&metrics);
            assert!(!seen.contains(&0.0), "it is shown as down: {seen:?}; the log:\n{}", stayer.log());
            let total = metrics.value("netring_members_total", &[]);
            holds(total == Some(wanted), format!("{total:?}; the log:\n{}", stayer.log()))
        });
    }
    monotonic() - from
}

/// Has one member join and leave in order, so many times. Each time it stays until all have begun to probe it.
#[track_caller]
fn come_and_go(stayers: &[Daemon], mover: &mut Daemon, rounds: usize, noticed: Duration) {
    let others = stayers.len() as f64;
    for round in 0..rounds {
        for stayer in stayers {
            stayer.wait_for("it is reached", |metrics| {
                let seen = states(metrics);
                assert!(!seen.contains(&0.0), "it is shown as down: {seen:?}; the log:\n{}", stayer.log());
                holds(!seen.is_empty(), seen)
            });
        }
        let from = monotonic();
        assert!(mover.terminate(SOON).success());
        let gone = wait_for_all(stayers, others - 1.0, noticed, from);
        mover.start_again();
        let from = monotonic();
        let joined = wait_for_all(stayers, others, noticed, from);
        println!("round {round}: gone after {gone:?}, known after {joined:?}");
    }
    for stayer in stayers {
        assert_eq!(stayer.log_lines(&["peer down"]), Vec::<String>::new());
        assert_eq!(stayer.log_lines(&["a peer left", "africa1-id"]).len(), rounds, "{}", stayer.log());
    }
}

#[test]
fn joins_and_departures_reach_everybody_within_about_a_second_and_nobody_says_down() {
    let registry = Registry { member_ttl: 300, ..Registry::new() };
    let registry = registry.start();
    let seldom = |location: &str| Member { heartbeat_interval: SELDOM, ..Member::new(location, registry.server) };
    let stayers = STAYERS.map(|location| seldom(location).start());
    let mut mover = seldom("africa1").start();
    come_and_go(&stayers, &mut mover, 10, NOTICED);

    // Killed, it says goodbye to nobody.
    for stayer in &stayers {
        stayer.wait_for("it is reached in every way", |metrics| holds(states(metrics).len() == 3, states(metrics)));
    }
    mover.kill();
    let killed = monotonic();
    for stayer in &stayers {
        eventually(Duration::from_secs(5), "it is said to be down", || {
            let lines = stayer.log_lines(&["warn", "peer down", "africa1-id", "check=tcp", "reason=refused"]);
            holds(lines.len() == 1, stayer.log())
        });
    }
    println!("a killed member is said to be down after {:?}", monotonic() - killed);
    for stayer in &stayers {
        stayer.wait_for_value("netring_connectivity_tcp", &MOVER, 0.0);
    }
    for stayer in &stayers {
        assert_eq!(stayer.metrics().value("netring_members_total", &[]), Some(3.0), "its lease lasts");
    }
}

/// A registry that answers every request for the roster at once is asked each poll interval alone. Whoever finds a peer's port
/// closed asks it before anything is said.
#[test]
fn where_the_registry_keeps_no_requests_a_first_refusal_asks_for_the_roster_before_anything_is_said() {
    let registry = ScriptedRegistry::start();
    registry.script().keeps_requests = false;
    // The one that leaves is further away from the registry than the others.
    registry.script().slow_goodbyes = Duration::from_millis(150);
    // Joins are found by the next poll.
    let poll = 3;
    let plain = |location: &str| Member { heartbeat_interval: poll, ..Member::new(location, registry.address) };
    let stayers = STAYERS.map(|location| plain(location).start());
    let mut mover = plain("africa1").start();
    let others = stayers.len() as f64;
    let joins = Duration::from_secs(u64::from(poll) + 3);
    for round in 0..4 {
        wait_for_all(&stayers, others, joins, monotonic());
        for stayer in &stayers {
            stayer.wait_for("it is reached in every way", |metrics| holds(states(metrics).len() == 3, states(metrics)));
        }
        let from = monotonic();
        assert!(mover.terminate(SOON).success());
        let gone = wait_for_all(&stayers, others - 1.0, NOTICED, from);
        println!("round {round}: gone after {gone:?}");
        mover.start_again();
    }
    for stayer in &stayers {
        assert_eq!(stayer.log_lines(&["peer down"]), Vec::<String>::new());
    }
    wait_for_all(&stayers, others, joins, monotonic());

    for stayer in &stayers {
        stayer.wait_for("it is reached in every way", |metrics| holds(states(metrics).len() == 3, states(metrics)));
    }
    mover.kill();
    for stayer in &stayers {
        eventually(Duration::from_secs(5), "it is said to be down", || {
            let lines = stayer.log_lines(&["warn", "peer down", "africa1-id", "check=tcp", "reason=refused"]);
            holds(lines.len() == 1, stayer.log())
        });
    }
}
