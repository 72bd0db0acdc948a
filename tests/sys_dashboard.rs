//! A real Prometheus scrapes a real ring in which one member has died, and every query of the Grafana dashboard has an answer.

pub mod support;

use support::daemon::{Member, Registry, Ring};
use support::dashboard::{Choice, Dashboard, Kind, Query, SHIPPED, filled, label_values, text};
use support::metrics::Labels;
use support::prometheus::{Prometheus, hasty_rules, static_jobs};
use support::{SOON, eventually, holds};

/// How much time the dashboard shows, in seconds.
const SHOWN: u32 = 60;

/// What Grafana puts in by itself, and the choices that Prometheus does not offer.
const GIVEN: [(&str, &str); 3] = [("__range", "60s"), ("__rate_interval", "8s"), ("window", "1m")];

/// What some panels show of a ring in which `sa1` and one of two members at `asia1` have died, by the labels named.
const FIGURES: &[(&str, &[&str], &[&str])] = &[
    ("Failing pairs/A", &[], &["4"]),
    ("Locations/A", &[], &["3"]),
    ("Members/A", &[], &["4"]),
    ("Not scraped/A", &[], &["2"]),
    ("Unwell/A", &[], &["0"]),
    // -1 is unknown: what `sa1` saw is known no longer.
    (
        "Who reaches whom/A",
        &["source_location", "target_location"],
        &["asia1 asia1 0", "asia1 sa1 0", "asia1 us1 1", "sa1 asia1 -1", "sa1 us1 -1", "us1 asia1 0", "us1 sa1 0"],
    ),
    (
        "Failing now/A",
        &["source_location", "target_instance", "check_type", "endpoint"],
        &[
            "asia1 asia1-second http /health 0",
            "asia1 asia1-second http /metrics 0",
            "asia1 asia1-second tcp  0",
            "asia1 sa1-id http /health 0",
            "asia1 sa1-id http /metrics 0",
            "asia1 sa1-id tcp  0",
            "us1 asia1-second http /health 0",
            "us1 asia1-second http /metrics 0",
            "us1 asia1-second tcp  0",
            "us1 sa1-id http /health 0",
            "us1 sa1-id http /metrics 0",
            "us1 sa1-id tcp  0",
        ],
    ),
    ("Failing pairs by source/A", &["source_location"], &["asia1 2", "us1 2"]),
    ("Failing pairs by target/A", &["target_location"], &["asia1 2", "sa1 2", "us1 0"]),
    ("Members over time/A", &["location"], &["asia1 2", "sa1 1", "us1 1"]),
];

/// The values of all variables. A query variable takes those of `wanted`, or else all.
fn choose(prometheus: &Prometheus, dashboard: &Dashboard, wanted: &[(&str, &str)]) -> Result<Choice, String> {
    let mut choice: Choice = GIVEN.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for variable in dashboard.variables().into_iter().filter(|variable| variable["type"] == "query") {
        let name = text(&variable["name"]);
        let query = filled(text(&variable["query"]["query"]), &choice)?;
        let (series, label) = label_values(&query).ok_or_else(|| format!("${name}: {query}"))?;
        let values = prometheus.label_values(series, label);
        if values.is_empty() {
            return Err(format!("${name} has nothing to choose from: {query}"));
        }
        let value = match wanted.iter().find(|(wanted, _)| *wanted == name) {
            Some((_, value)) if values.iter().any(|known| known == value) => (*value).to_owned(),
            Some((_, value)) => return Err(format!("${name} does not offer {value}: {values:?}")),
            // Grafana puts in what stands for all, or each of them.
            None => variable["allValue"].as_str().map_or_else(|| format!("({})", values.join("|")), str::to_owned),
        };
        let _ = choice.insert(name.to_owned(), value);
    }
    Ok(choice)
}

/// What is wrong with the answer to a query: none at all, none with a number, or none with a label that is shown.
fn fault(prometheus: &Prometheus, query: &Query, choice: &Choice) -> Option<String> {
    let expression = filled(&query.expression, choice).unwrap_or_else(|e| panic!("{}: {e}", query.place));
    let series: Vec<(Labels, Vec<f64>)> = match query.kind {
        Kind::Instant => {
            prometheus.query(&expression).into_iter().map(|(labels, value)| (labels, vec![value])).collect()
        }
        Kind::Range => prometheus.query_range(&expression, SHOWN),
    };
    let answers = || series.iter().filter(|(_, values)| values.iter().any(|value| value.is_finite()));
    let unknown = |label: &&String| !answers().any(|(labels, _)| labels.contains_key(*label));
    if answers().next().is_none() {
        Some(format!("{}: no answer to {expression}", query.place))
    } else {
        let label = query.labels.iter().find(unknown)?;
        Some(format!("{}: no {label} in the answer to {expression}", query.place))
    }
}

fn faults(prometheus: &Prometheus, dashboard: &Dashboard, wanted: &[(&str, &str)]) -> Vec<String> {
    match choose(prometheus, dashboard, wanted) {
        Ok(choice) => dashboard.queries().iter().filter_map(|query| fault(prometheus, query, &choice)).collect(),
        Err(fault) => vec![fault],
    }
}

/// The answer to the query that stands at a place: the values of these labels, with the value.
fn answer(prometheus: &Prometheus, place: &str, labels: &[&str]) -> Vec<String> {
    let dashboard = Dashboard::parse(SHIPPED);
    let choice = choose(prometheus, &dashboard, &[]).expect("there is something to choose from");
    let query = dashboard.queries().into_iter().find(|query| query.place == place).expect("the query is there");
    let line = |(of_series, value): &(Labels, f64)| {
        let shown: Vec<&str> = labels.iter().map(|label| of_series.get(*label).map_or("", String::as_str)).collect();
        format!("{} {value}", shown.join(" ")).trim_start().to_owned()
    };
    let answer = prometheus.query(&filled(&query.expression, &choice).expect("all variables have values"));
    let mut lines: Vec<String> = answer.iter().map(line).collect();
    lines.sort();
    lines
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    // Leases that outlast the test: who dies stays on the roster and is seen failing.
    let mut ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "asia1", "sa1"]);
    let second = Member { instance_id: Some("asia1-second".into()), ..Member::new("asia1", ring.registry.server) };
    ring.members.push(second.start());
    ring.wait_connected();
    let Some(prometheus) = Prometheus::start(&static_jobs(&ring), &hasty_rules()) else { return };
    eventually(SOON, "all pairs are scraped", || {
        let pairs = prometheus.query("netring_connectivity_tcp == 1").len();
        holds(pairs == 12, pairs)
    });
    // One location is gone, of another one of its two members.
    ring.members[2].kill();
    ring.members[3].kill();

    let dashboard = Dashboard::parse(SHIPPED);
    let one_pair = [("source", "us1"), ("target", "asia1")];
    let one_kind = [("source", "us1"), ("target", "asia1"), ("check_type", "http")];
    for wanted in [&[][..], &one_pair, &one_kind] {
        eventually(SOON, &format!("every query is answered, with {wanted:?} chosen"), || {
            let faults = faults(&prometheus, &dashboard, wanted);
            if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
        });
    }
    for (place, labels, expected) in FIGURES {
        eventually(SOON, place, || {
            let lines = answer(&prometheus, place, labels);
            holds(lines == *expected, lines)
        });
    }

    // What the dashboard might ask wrongly is found: a metric, a value and a label that are not there.
    for (right, wrong, places) in [
        (" (netring_rtt_seconds{", " (netring_rtt_second{", &["Round-trip time by pair/A", "Round-trip time/A"][..]),
        ("phase=\\\"transfer\\\"", "phase=\\\"body\\\"", &["HTTP phases by pair/C"]),
        ("{{route}} {{status}}", "{{path}} {{status}}", &["Requests/A"]),
        (
            "\"query\": \"label_values(netring_checks_total, target",
            "\"query\": \"label_values(netring_checks, target",
            &["$target"],
        ),
    ] {
        let faults = faults(&prometheus, &Dashboard::parse(&SHIPPED.replace(right, wrong)), &[]);
        assert!(places.iter().all(|place| faults.iter().any(|f| f.starts_with(place))), "{wrong}: {faults:#?}");
    }
}
