//! A real Prometheus scrapes a real ring: every query of the manual has an answer, and both of its alerts fire and clear.

pub mod support;

use support::daemon::{Registry, Ring};
use support::prometheus::{Prometheus, hasty_rules, static_jobs};
use support::{SOON, eventually, holds};

#[test]
fn every_query_has_an_answer_and_both_alerts_fire_and_clear() {
    // Leases that outlast the test: a dead member stays on the roster and is seen failing.
    let mut ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1", "asia1"]);
    let Some(prometheus) = Prometheus::start(&static_jobs(&ring), &hasty_rules()) else { return };

    for (query, series) in [
        ("netring_connectivity_tcp", 6),
        ("netring_connectivity_http", 12),
        ("netring_members_total == 2", 3),
        ("rate(netring_check_duration_seconds_sum[5m]) / rate(netring_check_duration_seconds_count[5m]) > 0", 12),
        ("histogram_quantile(0.9, sum by (le) (rate(netring_check_duration_seconds_bucket[5m]))) > 0", 1),
        ("time() - netring_member_last_seen_timestamp < 60", 6),
        ("up{job=\"netring\"} == 1", 3),
        ("sum by (instance) (rate(netring_checks_total[5m])) > 0", 3),
        ("netring_rtt_seconds > 0", 6),
        ("netring_coverage_ratio == 1", 3),
        ("netring_registry_up == 1", 3),
        ("netring_roster_age_seconds < 30", 3),
        ("sum(netring_registry_members) == 3", 1),
        ("netring_registry_store_up == 1", 1),
        ("netring_build_info", 4),
        ("netring_coverage_ratio * on (job, instance) group_left (location) netring_member_info{location=~\".+\"}", 3),
    ] {
        eventually(SOON, query, || {
            let answer = prometheus.query(query);
            holds(answer.len() == series, format!("{} series, not {series}: {answer:#?}", answer.len()))
        });
    }
    assert!(prometheus.query("netring_connectivity_tcp == 0").is_empty());

    let dead = ring.members[2].server.to_string();
    ring.members[2].kill();
    eventually(SOON, "NetringConnectivityDown fires on both who are left", || {
        let mut pairs: Vec<(String, String)> = prometheus
            .firing("NetringConnectivityDown")
            .iter()
            .map(|labels| (labels["source_location"].clone(), labels["target_location"].clone()))
            .collect();
        pairs.sort();
        let expected = [("eu1", "asia1"), ("us1", "asia1")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        holds(pairs == expected, pairs)
    });
    eventually(SOON, "NetringMemberDown fires for the dead one", || {
        let firing = prometheus.firing("NetringMemberDown");
        holds(firing.len() == 1 && firing[0]["instance"] == dead, firing)
    });
    assert_eq!(prometheus.query("netring_connectivity_tcp == 0").len(), 2);

    ring.members[2].start_again();
    for alert in ["NetringConnectivityDown", "NetringMemberDown"] {
        eventually(SOON, &format!("{alert} clears"), || {
            let firing = prometheus.firing(alert);
            holds(firing.is_empty(), firing)
        });
    }
    assert!(prometheus.firing("NetringNoChecks").is_empty());
}

#[test]
fn prometheus_finds_the_ring_by_asking_the_registry() {
    let ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1", "asia1"]);
    let job = format!(
        "  - {{job_name: netring, http_sd_configs: [{{url: 'http://{}/prometheus/targets', refresh_interval: 1s}}]}}\n",
        ring.registry.server
    );
    let Some(prometheus) = Prometheus::start(&job, &hasty_rules()) else { return };
    let mut expected: Vec<String> = ring.members.iter().map(|member| member.server.to_string()).collect();
    expected.sort();
    eventually(SOON, "every member is found and scraped", || {
        let mut found: Vec<String> =
            prometheus.query("up == 1").iter().map(|(labels, _)| labels["instance"].clone()).collect();
        found.sort();
        holds(found == expected, found)
    });
    eventually(SOON, "the members' own labels are as they were", || {
        let seen = prometheus.query("netring_member_last_seen_timestamp{location=\"us1\", instance_id=\"us1-id\"}");
        holds(seen.len() == 2, seen)
    });
}
