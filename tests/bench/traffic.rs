//! What a member sends over the network, in a ring in which everybody probes everybody.
//!
//! The member is on a host of its own, and the octets are those that the kernel counted on its interface. It probes a crowd,
//! and is probed as often as it probes, by the code that members probe with: each peer asks it for a connection, `/health` and
//! `/metrics`. Its `/metrics` page holds the whole ring.
//!
//! To be done within seconds, everything happens ten times as often as in a ring with the default interval of one minute, and
//! the octets are divided by ten. Heartbeats and polls are so few that this makes no difference.

use std::net::SocketAddr;
use std::time::Duration;

use netring::clock::monotonic;
use netring::probe::{self, Check, HTTP_BODY_LIMIT, Limits, StatusRanges, Target};

use crate::Bench;
use crate::crowd::{Crowd, Habits, pass};
use crate::scrape;
use crate::support::fabric::Host;
use crate::table::{Figures, Goal, Row, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    vec![Row {
        name: "traffic",
        what: "1,000 peers, each probing the others by TCP and two HTTP endpoints every 60 s: sent by a member",
        unit: "Mbit/s",
        goal: Goal::AtMost { reach: 5.0, stretch: 2.5 },
        measure: |bench| traffic(if bench.short { 6 } else { 18 }),
    }]
}

const PEERS: u32 = 1_000;

/// Seconds between two probes of one target, here and in the row.
const INTERVAL: u32 = 6;
const INTERVAL_OF_ROW: u32 = 60;

fn traffic(seconds: u32) -> Figures {
    let (crowd, habits) = (Crowd::apart(PEERS), Habits::usual(INTERVAL));
    let member = crowd.member(&habits);
    // Every target has been probed and is on the page.
    pass(f64::from(INTERVAL) + 1.0);
    let page = scrape::once(&crowd, member.server).bytes;
    let (before, start) = (octets(crowd.member_host()), monotonic());
    let probes = crowd.host().inside(|| probed(member.server, &habits, seconds));
    let (after, took) = (octets(crowd.member_host()), (monotonic() - start).as_secs_f64());
    // Peers close their connections before the page is complete, which is no error of the member.
    let complaints: Vec<String> = member
        .log()
        .lines()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .map(str::to_owned)
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    let share = f64::from(INTERVAL) / f64::from(INTERVAL_OF_ROW);
    let [sent, received] = [after[0] - before[0], after[1] - before[1]].map(|octets| octets * 8.0 / took / 1e6 * share);
    Figures {
        ours: sent,
        detail: format!(
            "{} Mbit/s received; probed {} times in {took:.0} s, a page of {} MB that is sent compressed; divided by {}",
            number(received),
            number(probes as f64),
            number(page as f64 / 1e6),
            number(1.0 / share)
        ),
        peer: None,
        limit: None,
    }
}

/// Probes a member as often as all peers do together, evenly in time. Returns how many probes these were.
fn probed(member: SocketAddr, habits: &Habits, seconds: u32) -> usize {
    let endpoints = habits.endpoints.iter().map(|endpoint| Check::Http { endpoint: endpoint.as_str().into() });
    let checks: Vec<Check> = std::iter::once(Check::Tcp).chain(endpoints).collect();
    let limits = Limits {
        tcp_timeout: Duration::from_secs(5),
        http_timeout: Duration::from_secs(5),
        http_ok_status: StatusRanges(vec![(200, 299)]),
        http_body_limit: HTTP_BODY_LIMIT,
    };
    let count = PEERS * checks.len() as u32 * seconds / INTERVAL;
    let step = Duration::from_secs(seconds.into()) / count;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the system has an epoll");
    let outcomes = runtime.block_on(async {
        let mut ticks = tokio::time::interval(step);
        let mut probes = tokio::task::JoinSet::new();
        for check in checks.iter().cycle().take(count as usize) {
            ticks.tick().await;
            let (target, limits) = (Target { address: member, check: check.clone() }, limits.clone());
            probes.spawn(async move { probe::run(&target, &limits).await });
        }
        probes.join_all().await
    });
    for outcome in &outcomes {
        assert!(outcome.result.is_ok(), "the member answers every probe: {outcome:?}");
    }
    outcomes.len()
}

/// The octets that the interfaces of a host have sent and received, loopback not counted.
fn octets(host: &Host) -> [f64; 2] {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev").expect("a host has its network statistics");
    let text = host.inside(read);
    let mut sums = [0.0, 0.0];
    for line in text.lines() {
        let Some((name, values)) = line.split_once(':') else { continue };
        if name.trim() == "lo" {
            continue;
        }
        let values: Vec<f64> = values.split_whitespace().map(|value| value.parse().expect("a number")).collect();
        // Received octets are the first column of sixteen, sent ones the ninth.
        sums[0] += values[8];
        sums[1] += values[0];
    }
    assert!(sums[0] > 0.0, "the host has an interface that has sent something:\n{text}");
    sums
}
