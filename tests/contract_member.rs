//! A member's contract, on a ring of real binaries: `/health`, and every name and label of `/metrics` that queries,
//! dashboards and alerts are built on.

pub mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use netring::clock::wall;
use support::daemon::{Daemon, Member, Registry, Ring};
use support::metrics::Metrics;
use support::{SOON, eventually, holds, http};

/// A ring of three in which everybody has reached everybody by TCP and HTTP.
fn ring() -> Ring {
    let ring = Ring::start(&Registry::new(), &["us1", "eu1", "asia1"]);
    for member in &ring.members {
        member.wait_for("both endpoints of both peers answer", |metrics| {
            let up = metrics.series("netring_connectivity_http", &[]).iter().filter(|s| s.value > 0.5).count();
            holds(up == 4, up)
        });
    }
    ring
}

/// Whether anything in this scrape speaks of that location or instance.
fn mentions(metrics: &Metrics, word: &str) -> Vec<String> {
    let speaks = |sample: &&support::metrics::Sample| sample.labels.values().any(|value| value == word);
    let all = metrics.names().filter_map(|name| metrics.family(name)).flat_map(|family| &family.samples);
    all.filter(speaks).map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect()
}

#[track_caller]
fn assert_labels(metrics: &Metrics, name: &str, count: usize, labels: &[&str]) {
    let series = metrics.series(name, &[]);
    assert_eq!(series.len(), count, "{name}: {series:#?}");
    for sample in series {
        let names: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
        assert_eq!(names, labels.iter().copied().collect(), "{name}");
    }
}

#[test]
fn health_has_its_five_fields_and_counts_the_others() {
    let ring = ring();
    let answer = ring.members[0].get("/health");
    assert_eq!(answer.status, 200);
    let health = answer.json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["instance_id"], "us1-id");
    assert_eq!(health["location"], "us1");
    assert_eq!(health["members_count"].as_u64(), Some(2), "two others: {health}");
    let timestamp = health["timestamp"].as_f64().expect("timestamp is a number");
    assert!((timestamp - wall().epoch_seconds_f64()).abs() < 60.0, "{timestamp}");
    assert_eq!(health.as_object().map(serde_json::Map::len), Some(5), "{health}");
}

#[test]
fn the_families_of_the_seed_have_their_names_labels_and_types() {
    let ring = ring();
    let metrics = ring.members[0].metrics();
    let tcp = ["source_location", "source_instance", "target_location", "target_instance", "target_ip"];
    assert_labels(&metrics, "netring_connectivity_tcp", 2, &tcp);
    assert_labels(&metrics, "netring_connectivity_http", 4, &[&tcp[..], &["endpoint"]].concat());
    let ip = support::address().to_string();
    let pair = [
        ("source_location", "us1"),
        ("source_instance", "us1-id"),
        ("target_location", "eu1"),
        ("target_instance", "eu1-id"),
        ("target_ip", &ip),
    ];
    assert_eq!(metrics.value("netring_connectivity_tcp", &pair), Some(1.0));
    for endpoint in ["/health", "/metrics"] {
        let labels = [&pair[..], &[("endpoint", endpoint)]].concat();
        assert_eq!(metrics.value("netring_connectivity_http", &labels), Some(1.0));
    }

    assert_labels(&metrics, "netring_check_duration_seconds_count", 4, &["check_type", "target_location"]);
    let took =
        |part: &str, kind| metrics.sum(&format!("netring_check_duration_seconds_{part}"), &[("check_type", kind)]);
    for kind in ["tcp", "http"] {
        assert!(took("count", kind) >= 2.0);
        assert!(took("sum", kind) > 0.0 && took("sum", kind) < took("count", kind), "seconds, on loopback");
    }

    assert_labels(&metrics, "netring_members_total", 1, &[]);
    assert_eq!(metrics.value("netring_members_total", &[]), Some(2.0));
    assert_labels(&metrics, "netring_member_last_seen_timestamp", 2, &["location", "instance_id"]);
    for seen in metrics.series("netring_member_last_seen_timestamp", &[]) {
        assert!((seen.value - wall().epoch_seconds_f64()).abs() < 60.0, "{seen:?}");
    }

    for (name, kind) in [
        ("netring_connectivity_tcp", "gauge"),
        ("netring_connectivity_http", "gauge"),
        ("netring_check_duration_seconds", "histogram"),
        ("netring_members_total", "gauge"),
        ("netring_member_last_seen_timestamp", "gauge"),
    ] {
        assert_eq!(metrics.family(name).map(|family| family.kind.as_str()), Some(kind), "{name}");
    }
}

#[test]
fn the_families_beside_them_are_there_and_promtool_finds_no_fault() {
    let ring = ring();
    let metrics = ring.members[0].metrics();
    for (name, kind) in [
        ("netring_checks_total", "counter"),
        ("netring_checks_skipped_total", "counter"),
        ("netring_check_failures_total", "counter"),
        ("netring_rtt_seconds", "gauge"),
        ("netring_http_phase_seconds", "gauge"),
        ("netring_build_info", "gauge"),
        ("netring_member_info", "gauge"),
        ("netring_registry_up", "gauge"),
        ("netring_roster_age_seconds", "gauge"),
        ("netring_coverage_ratio", "gauge"),
        ("netring_probe_lag_seconds", "histogram"),
        ("process_resident_memory_bytes", "gauge"),
    ] {
        let family = metrics.family(name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(family.kind, kind, "{name}");
    }
    assert_eq!(metrics.value("netring_registry_up", &[]), Some(1.0));
    assert_eq!(metrics.value("netring_build_info", &[]), Some(1.0));
    assert_labels(&metrics, "netring_member_info", 1, &["location", "instance_id"]);
    assert_eq!(metrics.value("netring_member_info", &[("location", "us1"), ("instance_id", "us1-id")]), Some(1.0));
    assert_labels(&metrics, "netring_coverage_ratio", 1, &[]);
    assert_eq!(metrics.value("netring_coverage_ratio", &[]), Some(1.0));
    assert!(metrics.value("netring_roster_age_seconds", &[]).is_some_and(|age| (0.0..10.0).contains(&age)));
    assert!(metrics.sum("netring_checks_total", &[]) >= 6.0);
    assert_eq!(metrics.sum("netring_check_failures_total", &[]), 0.0);
    let times = metrics.series("netring_rtt_seconds", &[]);
    assert!(!times.is_empty() && times.iter().all(|s| s.value > 0.0 && s.value < 1.0), "{times:#?}");

    for name in metrics.names().filter(|name| name.starts_with("netring_")) {
        let help = &metrics.family(name).unwrap().help;
        assert!(help.ends_with('.') && help.contains(' '), "the HELP of {name} is no sentence: {help:?}");
    }
    support::prometheus::lint(&ring.members[0].get("/metrics").text(), &["netring_members_total"]);
}

#[test]
fn instances_of_one_location_behind_one_address_share_no_series() {
    let registry = Registry::new();
    let server = registry.server;
    let _registry = registry.start();
    let twin = |id: &str| Member { instance_id: Some(id.into()), ..Member::new("us1", server) }.start();
    let (one, other, far) = (twin("one"), twin("other"), Member::new("eu1", server).start());
    for (member, targets) in [(&far, ["one", "other"]), (&one, ["other", "eu1-id"]), (&other, ["one", "eu1-id"])] {
        member.wait_for("each instance has a series of its own", |metrics| {
            let found: Vec<_> = targets
                .map(|id| metrics.value("netring_connectivity_tcp", &[("target_instance", id)]))
                .into_iter()
                .collect();
            holds(found == [Some(1.0); 2], found)
        });
    }
}

#[test]
fn a_member_that_leaves_takes_its_series_along() {
    let mut ring = ring();
    let status = ring.members[2].terminate(SOON);
    assert!(status.success(), "{status}");
    for member in &ring.members[..2] {
        member.wait_for("no series speaks of the one that left", |metrics| {
            let left = [mentions(metrics, "asia1-id"), mentions(metrics, "asia1")].concat();
            holds(left.is_empty() && metrics.value("netring_members_total", &[]) == Some(1.0), left)
        });
        assert_eq!(member.get("/health").json()["members_count"], 1);
    }
    ring.members.truncate(2);
    ring.wait_connected();
}

#[test]
fn a_member_that_dies_is_seen_failing_and_goes_with_its_lease() {
    let mut ring = Ring::start(&Registry { member_ttl: 4, ..Registry::new() }, &["us1", "eu1", "asia1"]);
    ring.members[2].kill();
    let dead = [("target_instance", "asia1-id")];
    let member = &ring.members[0];
    member.wait_for_value("netring_connectivity_tcp", &dead, 0.0);
    assert!(member.metrics().sum("netring_check_failures_total", &[("reason", "refused")]) > 0.0);
    member.wait_for("its series go with its lease", |metrics| {
        let left = mentions(metrics, "asia1-id");
        holds(left.is_empty(), left)
    });
    let alive = [("target_instance", "eu1-id")];
    assert_eq!(member.metrics().value("netring_connectivity_tcp", &alive), Some(1.0));
}

#[test]
fn failed_checks_stay_out_of_the_durations() {
    let ring = {
        let mut ring = Ring::start(&Registry { member_ttl: 300, ..Registry::new() }, &["us1", "eu1"]);
        ring.members[1].signal(libc::SIGSTOP);
        ring.members.rotate_left(1);
        ring
    };
    let [hung, member] = &ring.members[..] else { panic!("two members") };
    // The kernel of a stopped process still accepts: TCP is up while HTTP times out.
    let http = [("target_instance", "eu1-id"), ("endpoint", "/health")];
    member.wait_for_value("netring_connectivity_http", &http, 0.0);
    let count = |metrics: &Metrics| metrics.sum("netring_check_duration_seconds_count", &[("check_type", "http")]);
    let failures = |metrics: &Metrics| metrics.sum("netring_check_failures_total", &[("reason", "timeout")]);
    let first = member.metrics();
    member.wait_for("more checks time out", |metrics| {
        holds(failures(metrics) >= failures(&first) + 2.0, failures(metrics))
    });
    assert_eq!(count(&member.metrics()), count(&first));
    hung.signal(libc::SIGCONT);
    member.wait_for_value("netring_connectivity_http", &http, 1.0);
}

#[test]
fn an_identity_it_made_itself_outlives_a_restart() {
    let registry = Registry::new();
    let server = registry.server;
    let _registry = registry.start();
    let mut member = Member { instance_id: None, ..Member::new("us1", server) }.start();
    let id = |member: &Daemon| member.get("/health").json()["instance_id"].as_str().unwrap().to_owned();
    let first = id(&member);
    assert_eq!(uuid::Uuid::parse_str(&first).unwrap().get_version_num(), 4);
    member.start_again();
    assert_eq!(id(&member), first);
}

#[test]
fn a_member_registers_the_address_it_is_told_to() {
    let registry = Registry { member_ttl: 300, ..Registry::new() }.start();
    let told = "192.0.2.7".parse().unwrap();
    let member = Member { advertise_ip: Some(told), ..Member::new("us1", registry.server) }.start();
    let auto = Member::new("eu1", registry.server).start();
    eventually(SOON, "both are on the roster", || {
        let listed = registry.get("/members").json();
        let address = |id: &str| {
            let member = listed["members"].as_array()?.iter().find(|m| m["instance_id"] == id)?;
            Some((member["ip"].as_str()?.to_owned(), member["port"].as_u64()?))
        };
        let expected = [
            ("us1-id", "192.0.2.7".to_owned(), member.server.port()),
            ("eu1-id", support::address().to_string(), auto.server.port()),
        ];
        holds(expected.iter().all(|(id, ip, port)| address(id) == Some((ip.clone(), (*port).into()))), &listed)
    });
}

#[test]
fn a_member_alone_is_healthy_and_checks_nobody() {
    let registry = Registry::new().start();
    let member = Member::new("us1", registry.server).start();
    member.wait_for_value("netring_registry_up", &[], 1.0);
    let metrics = member.metrics();
    assert_eq!(metrics.value("netring_members_total", &[]), Some(0.0));
    assert!(metrics.series("netring_connectivity_tcp", &[]).is_empty());
    let health = member.get("/health");
    assert_eq!((health.status, health.json()["members_count"].as_u64()), (200, Some(0)));
}

#[test]
fn what_is_not_there_has_its_status_and_an_error_body() {
    let registry = Registry::new().start();
    let member = Member::new("us1", registry.server).start();
    assert!(!member.get("/nothing").error(404).is_empty());
    for path in ["/health", "/metrics"] {
        let answer = http::request("POST", member.server, path, &[], b"{}").unwrap();
        assert!(!answer.error(405).is_empty(), "{path}");
    }
    assert!(member.get("/metrics").header("content-type").is_some_and(|t| t.starts_with("text/plain; version=0.0.4")));
}

#[test]
fn a_member_stops_within_a_second_and_says_so_to_its_service_manager() {
    let registry = Registry::new().start();
    let mut member = Member::new("us1", registry.server).start();
    member.wait_for_value("netring_registry_up", &[], 1.0);
    let status = member.terminate(Duration::from_secs(1));
    assert!(status.success(), "{status}");
    assert!(member.notifications().iter().any(|message| message.contains("STOPPING=1")));
    assert_eq!(registry.get("/members").json()["members"], serde_json::json!([]), "it has left the roster");
}
