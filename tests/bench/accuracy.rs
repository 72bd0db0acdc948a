//! What a busy host and dead peers do to the figures of the others.

use std::collections::{HashMap, HashSet};

use netring::clock::monotonic;

use crate::Bench;
use crate::bare::Bare;
use crate::crowd::{Crowd, Habits, pass, said};
use crate::statistics::{median, quantile};
use crate::support::daemon::Daemon;
use crate::table::{Figures, Goal, Row, Side, number};

/// The rows of this file.
pub fn rows() -> Vec<Row<Bench>> {
    vec![
        Row {
            name: "rtt-error",
            what: "error of netring_rtt_seconds p99 with four busy processes, against the quiet median",
            unit: "us",
            goal: Goal::AtMost { reach: 50.0, stretch: 20.0 },
            measure: |bench| rtt_error(bench.short),
        },
        Row {
            name: "blackholes",
            what: "half of 1,000 targets black-holed: shift of the others' intervals, p95",
            unit: "%",
            goal: Goal::AtMost { reach: 2.0, stretch: 0.0 },
            measure: |bench| black_holes(bench.short),
        },
    ]
}

/// TCP alone.
fn habits(short: bool) -> Habits {
    Habits { interval: if short { 1 } else { 2 }, endpoints: Vec::new() }
}

fn rtt_error(short: bool) -> Figures {
    let (crowd, habits, turns) = (Crowd::new(1_000), habits(short), if short { 3 } else { 8 });
    let member = crowd.member(&habits);
    let interval = f64::from(habits.interval);
    pass(interval + 1.0);
    let by_connect = Bare::Pace { crowd: crowd.addresses, seconds: interval * f64::from(turns), rate: 200.0 };
    let look = || {
        let beside = crowd.start(&by_connect);
        let rtts = round_trips(&member, interval, turns);
        (rtts, said(beside)["connect_us"].clone())
    };
    let (mut quiet, connect_quiet) = look();
    let busy_processes = [(); 4].map(|()| crowd.start(&Bare::Burn));
    pass(interval);
    let (mut busy, connect_busy) = look();
    drop(busy_processes);
    let connect = |of: &serde_json::Value, share: &str| of[share].as_f64().expect("a number");
    let quiet_median = median(&mut quiet);
    Figures {
        ours: quantile(&mut busy, 0.99) - quiet_median,
        detail: format!(
            "quiet p50 {} p99 {}, busy p50 {} p99 {}; connect by user-space clock quiet p50 {} p99 {}, busy p50 {}; {} round trips",
            number(quiet_median),
            number(quantile(&mut quiet, 0.99)),
            number(median(&mut busy)),
            number(quantile(&mut busy, 0.99)),
            number(connect(&connect_quiet, "p50")),
            number(connect(&connect_quiet, "p99")),
            number(connect(&connect_busy, "p50")),
            number(busy.len() as f64)
        ),
        peer: None,
        limit: Some(Side {
            name: "connect by user-space clock",
            value: connect(&connect_busy, "p99") - connect(&connect_quiet, "p50"),
            unit: "us",
        }),
    }
}

/// The round trips of so many turns of every target, in microseconds.
fn round_trips(member: &Daemon, interval: f64, turns: u32) -> Vec<f64> {
    let mut all = Vec::new();
    for _ in 0..turns {
        pass(interval);
        all.extend(member.metrics().series("netring_rtt_seconds", &[]).iter().map(|sample| sample.value * 1e6));
    }
    assert!(!all.is_empty(), "a member shows round trips");
    all
}

fn black_holes(short: bool) -> Figures {
    const PEERS: u32 = 1_000;
    let (crowd, habits, turns) = (Crowd::noting(PEERS), habits(short), if short { 4 } else { 15 });
    let interval = f64::from(habits.interval);
    let _member = crowd.member(&habits);
    let living: HashSet<String> = (0..PEERS / 2).map(|n| crowd.addresses.ip(n).to_string()).collect();
    pass(interval + 1.0);
    let mut healthy = shifts(&crowd, &living, interval, turns);
    let (first, last) = (crowd.addresses.ip(PEERS / 2), crowd.addresses.ip(PEERS - 1));
    crowd.host().run("nft", &[&format!("add rule inet cut in ip daddr {first}-{last} drop")]);
    // Every black hole has been found.
    pass(interval * 2.0);
    let mut shifted = shifts(&crowd, &living, interval, turns);
    let [healthy_p95, shifted_p95] = [&mut healthy, &mut shifted].map(|shifts| quantile(shifts, 0.95));
    Figures {
        ours: (shifted_p95 - healthy_p95).max(0.0),
        detail: format!(
            "off by {} % at p95 before and {} % after (p50 {} and {}); {} and {} intervals of {interval} s seen of {} targets",
            number(healthy_p95),
            number(shifted_p95),
            number(median(&mut healthy)),
            number(median(&mut shifted)),
            number(healthy.len() as f64),
            number(shifted.len() as f64),
            living.len()
        ),
        peer: None,
        limit: Some(Side { name: "without a black hole", value: healthy_p95, unit: "% off" }),
    }
}

/// By how many per cent each interval of the living was off, over so many turns, as their side sees it.
fn shifts(crowd: &Crowd, living: &HashSet<String>, interval: f64, turns: u32) -> Vec<f64> {
    let (start, before) = (monotonic(), crowd.notes().len());
    pass(interval * f64::from(turns + 1));
    let (notes, seconds) = (crowd.notes(), (monotonic() - start).as_secs_f64());
    let mut last: HashMap<&str, f64> = HashMap::new();
    let mut shifts = Vec::new();
    for (came, whom) in notes[before..].iter().filter(|(_, whom)| living.contains(whom)) {
        if let Some(previous) = last.insert(whom, *came) {
            shifts.push(((came - previous) / interval - 1.0).abs() * 100.0);
        }
    }
    assert_eq!(last.len(), living.len(), "every living target is probed within {seconds:.0} s");
    shifts
}
