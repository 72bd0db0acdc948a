use super::*;

#[test]
fn a_failure_is_parsed_as_location_and_seconds() {
    let after = |text: &str| Failing::parse(text).map(|f| (f.location, f.after.as_millis()));
    for (text, location, millis) in [
        ("eu1-k8s@10", "eu1-k8s", 10_000),
        ("eu1-k8s@0", "eu1-k8s", 0),
        ("eu1-k8s@0.5", "eu1-k8s", 500),
        ("eu1-k8s@86400", "eu1-k8s", 86_400_000),
        ("me@home@3", "me@home", 3_000),
    ] {
        assert_eq!(after(text), Ok((location.to_owned(), millis)), "{text}");
    }
    for text in ["", "eu1-k8s", "@5", "eu1-k8s@", "eu1-k8s@soon", "eu1-k8s@-1", "eu1-k8s@86401", "a@NaN", "a@inf"] {
        assert_eq!(after(text), Err("expected LOCATION@SECONDS, such as eu1-k8s@10".to_owned()), "{text}");
    }
}

#[test]
fn the_locations_of_a_ring_of_any_size_are_unique() {
    for members in [2, 5, 8, 9, 200] {
        let locations = locations(members);
        let different: std::collections::HashSet<_> = locations.iter().collect();
        assert_eq!((locations.len(), different.len()), (members.into(), members.into()));
    }
    let names: Vec<_> = locations(10).iter().map(ToString::to_string).collect();
    assert_eq!(names[..3], ["us1-k8s", "eu1-k8s", "asia1-docker"], "the locations of the manual come first");
    assert_eq!(names[8..], ["site-009", "site-010"]);
}

#[test]
fn the_check_interval_is_two_seconds_unless_two_cores_would_not_suffice() {
    for members in 2..=200 {
        let interval = check_interval(members);
        let probes = (members * (members - 1) * (1 + endpoints(members).len())) as f64;
        assert!(interval >= CHECK_INTERVAL, "{members}");
        assert!(probes / interval.as_secs_f64() <= PROBES_PER_SECOND as f64, "{members}: {interval:?}");
        // Not longer than necessary: with a second less there would be too many probes.
        let shorter = interval.as_secs_f64() - 1.0;
        assert!(interval == CHECK_INTERVAL || probes / shorter > PROBES_PER_SECOND as f64, "{members}: {interval:?}");
    }
    assert_eq!([2, 5, 20, 50].map(check_interval), [CHECK_INTERVAL; 4], "also in a ring of moderate size");
    assert!(check_interval(200) > CHECK_INTERVAL);
}

#[test]
fn the_settings_of_the_members_are_consistent() {
    let address = SocketAddr::from(([127, 0, 0, 1], 8757));
    for members in [2, 5, 20, 21, 200] {
        let location = "eu1-k8s".parse().unwrap();
        let settings = settings(&location, address, SocketAddr::from(([127, 0, 0, 1], 8756)), members);
        assert_eq!((settings.location, settings.server.port.get()), (location, 8757));
        assert_eq!(settings.registry.url.base, "http://127.0.0.1:8756");
        assert_eq!(settings.advertise_ip, Advertise::Address(address.ip()));
        let longest = config::longest_probe(settings.intervals.check);
        assert!(settings.checks.tcp_timeout.max(settings.checks.http_timeout) <= longest);
        assert!(settings.intervals.heartbeat * 3 < MEMBER_TTL, "a lease outlives two lost heartbeats");
        assert_eq!(settings.checks.http_endpoints.contains(&"/metrics".to_owned()), members <= BOTH_ENDPOINTS_MAX);
    }
}

#[test]
fn a_long_list_of_names_is_abbreviated() {
    assert_eq!(abbreviated(&["a", "b"]), "a, b");
    assert_eq!(abbreviated(&["a", "b", "c", "d", "e", "f"]), "a, b, c, d, e, f");
    assert_eq!(abbreviated(&["a", "b", "c", "d", "e", "f", "g", "h"]), "a, b, c, d, e, f and 2 more");
}

#[test]
fn failing_an_unknown_location_is_wrong_usage() {
    let failing = vec![Failing::parse("mars@1").unwrap()];
    // Port 0 is never reached: the ring is not started.
    let options = Options { members: 2, failing, port: 0, duration: Some(Duration::ZERO) };
    assert_eq!(run(&options), Exit::Usage);
}

#[test]
fn a_port_in_use_is_unavailable() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let options = Options { members: 2, failing: Vec::new(), port, duration: Some(Duration::ZERO) };
    assert_eq!(run(&options), Exit::Unavailable);
}
