//! The harness itself: a test that stands on a forgiving reader or a deadline that never comes proves nothing.

pub mod support;

use std::collections::HashSet;
use std::time::Duration;

use netring::config::{Environment, load_member, load_registry};
use support::daemon::{Member, Registry};
use support::metrics::Metrics;
use support::{Scratch, address, eventually, port, socket};

const GOOD: &str = "\
# HELP up Whether \\\\ it is up,\\nin two lines.
# TYPE up gauge
up 1
# HELP seen_total What was seen.
# TYPE seen_total counter
seen_total{site=\"a \\\"b\\\" \\\\ \\n{},=\",kind=\"x\"} 3
seen_total{site=\"b\",kind=\"x\"} 4.5
# HELP took_seconds How long it took, in seconds.
# TYPE took_seconds histogram
took_seconds_bucket{site=\"a\",le=\"0.1\"} 1
took_seconds_bucket{site=\"a\",le=\"+Inf\"} 3
took_seconds_sum{site=\"a\"} 0.75
took_seconds_count{site=\"a\"} 3
";

#[test]
fn the_reader_understands_escapes_labels_and_histograms() {
    let metrics = Metrics::parse(GOOD).unwrap();
    assert_eq!(metrics.names().collect::<Vec<_>>(), ["seen_total", "took_seconds", "up"]);
    assert_eq!(metrics.family("up").unwrap().help, "Whether \\ it is up,\nin two lines.");
    assert_eq!(metrics.family("took_seconds").unwrap().kind, "histogram");
    assert_eq!(metrics.value("up", &[]), Some(1.0));
    assert_eq!(metrics.value("seen_total", &[("site", "a \"b\" \\ \n{},=")]), Some(3.0));
    assert_eq!(metrics.value("seen_total", &[("site", "c")]), None);
    assert_eq!(metrics.sum("seen_total", &[("kind", "x")]), 7.5);
    assert_eq!(metrics.value("took_seconds_count", &[]), Some(3.0));
    assert_eq!(metrics.series("took_seconds_bucket", &[("site", "a")])[1].label("le"), "+Inf");
}

#[test]
#[should_panic(expected = "is not one series")]
fn asking_for_one_value_of_several_series_fails_the_test() {
    let _ = Metrics::parse(GOOD).unwrap().value("seen_total", &[("kind", "x")]);
}

#[test]
fn the_reader_names_what_prometheus_would_forgive() {
    let faults = [
        ("the last line does not end", "# HELP a A.\n# TYPE a gauge\na 1"),
        ("a sample outside its family", "a 1\n"),
        ("a sample outside its family", "# HELP a A.\n# TYPE a gauge\na 1\nb 1\n"),
        ("no HELP right before", "# TYPE a gauge\na 1\n"),
        ("a second HELP", "# HELP a A.\n# TYPE a gauge\na 1\n# HELP a A.\n# TYPE a gauge\n"),
        ("an unknown type", "# HELP a A.\n# TYPE a thing\n"),
        ("a series twice", "# HELP a A.\n# TYPE a gauge\na{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n"),
        ("no sample", "# HELP a A.\n# TYPE a gauge\na{x=\"1\",x=\"2\"} 1\n"),
        ("no sample", "# HELP a A.\n# TYPE a gauge\na{x=\"1\\q\"} 1\n"),
        ("no sample", "# HELP a A.\n# TYPE a gauge\na one\n"),
        ("a counter below zero", "# HELP a A.\n# TYPE a counter\na -1\n"),
        ("is not whole", "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_count 2\na_sum 1\n"),
        ("is not whole", "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_count 1\n"),
        (
            "is not whole",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_count 1\na_sum 1\n",
        ),
    ];
    for (fault, text) in faults {
        let said = Metrics::parse(text).unwrap_err();
        assert!(said.contains(fault), "expected {fault:?}, got {said:?} for {text}");
    }
}

#[test]
fn waiting_ends_with_the_first_success() {
    let mut tries = 0;
    let found = eventually(Duration::from_secs(5), "three tries", || {
        tries += 1;
        if tries == 3 { Ok(tries) } else { Err("not yet") }
    });
    assert_eq!(found, 3);
}

#[test]
#[should_panic(expected = "not within 100ms: the moon falls\nlast seen: it is still there")]
fn waiting_in_vain_says_what_for_and_what_was_seen_last() {
    eventually(Duration::from_millis(100), "the moon falls", || Err::<(), _>("it is still there"));
}

#[test]
fn every_port_is_given_once_and_the_address_is_our_own() {
    let ports: HashSet<u16> = (0..100).map(|_| port()).collect();
    assert_eq!(ports.len(), 100);
    let std::net::IpAddr::V4(address) = address() else { panic!("an IPv4 address") };
    assert!(address.is_loopback() && address.octets()[1] >= 64 && address.octets()[1] < 128, "{address}");
}

#[test]
fn the_files_it_writes_are_configurations_and_say_what_was_asked_for() {
    let (scratch, environment) = (Scratch::new(), Environment::default());
    let with_redis = Registry { redis: Some(socket()), ..Registry::new() };
    for registry in [Registry::new(), with_redis] {
        let file = scratch.file("registry.yaml", &registry.yaml());
        let loaded =
            load_registry(Some(&file), &file, &environment).unwrap_or_else(|e| panic!("{e}\n{}", registry.yaml()));
        assert_eq!(loaded.settings.server.port.get(), registry.server.port());
        assert_eq!(loaded.settings.redis.map(|redis| redis.port.get()), registry.redis.map(|redis| redis.port()));
        assert_eq!(loaded.settings.member_ttl, Duration::from_secs(registry.member_ttl.into()));
    }
    let v6 = "[fd77::1]:8756".parse().unwrap();
    let told = Member { instance_id: None, advertise_ip: Some("fd77::2".parse().unwrap()), ..Member::new("eu1", v6) };
    for member in [Member::new("us1", socket()), told] {
        let file = scratch.file("member.yaml", &member.yaml());
        let loaded = load_member(Some(&file), &file, &environment).unwrap_or_else(|e| panic!("{e}\n{}", member.yaml()));
        assert_eq!(loaded.settings.registry.url.base, format!("http://{}", member.registry));
        assert_eq!(loaded.settings.checks.http_endpoints, member.http_endpoints);
        assert_eq!(loaded.settings.intervals.check, Duration::from_secs(member.check_interval.into()));
    }
}
