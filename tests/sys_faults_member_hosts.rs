//! A member among other hosts: an address that leads back to whoever probes it, and a name server that never answers.

pub mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use netring::clock::monotonic;
use support::daemon::{Member, Registry};
use support::fabric::Fabric;
use support::holds;
use support::metrics::Metrics;

const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn registry() -> Registry {
    Registry { server: everywhere(REGISTRY), member_ttl: 300, ..Registry::new() }
}

fn checks(metrics: &Metrics) -> f64 {
    metrics.sum("netring_checks_total", &[])
}

#[test]
fn a_peer_that_registered_a_loopback_address_is_listed_but_not_probed_from_another_host() {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let _registry = registry().start_on(one);
    let found_at = SocketAddr::new(one.ip(false), REGISTRY);
    let member = |location, port| Member { server: everywhere(port), ..Member::new(location, found_at) };
    // On the registry's own host by a name that means this host: `auto` finds a loopback address.
    let us1 = Member { registry_name: Some("localhost".into()), ..member("us1", MEMBER) }.start_on(one);
    let eu1 = member("eu1", MEMBER).start_on(two);
    let asia1 = member("asia1", MEMBER + 1).start_on(two);

    for elsewhere in [&eu1, &asia1] {
        elsewhere.wait_for_value("netring_members_total", &[], 2.0);
        // Three endpoints of the one peer that can be probed, four times over.
        elsewhere.wait_for_checks(12.0);
        let metrics = elsewhere.metrics();
        for family in metrics.names().filter(|n| n.starts_with("netring_connectivity") || *n == "netring_checks_total")
        {
            let seen = metrics.series(family, &[("target_location", "us1")]);
            assert!(seen.is_empty(), "us1 is not probed, but there is {seen:?}");
        }
        assert_eq!(metrics.value("netring_coverage_ratio", &[]), Some(1.0));
        let warned = elsewhere.log_lines(&["warn", "us1-id", "advertise_ip"]);
        assert_eq!(warned.len(), 1, "{}", elsewhere.log());
    }
    let warned = us1.log_lines(&["warn", "loopback", "advertise_ip"]);
    assert_eq!(warned.len(), 1, "{}", us1.log());
    // It reaches the others, who are where they say.
    us1.wait_for("both peers are reached", |metrics| {
        let up = metrics.sum("netring_connectivity_tcp", &[]);
        holds((up - 2.0).abs() < f64::EPSILON, up)
    });
}

#[test]
fn a_name_server_that_never_answers_delays_no_start_no_probe_and_no_stop() {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let _registry = registry().start_on(two);
    let found_at = SocketAddr::new(two.ip(false), REGISTRY);
    let _eu1 = Member { server: everywhere(MEMBER), ..Member::new("eu1", found_at) }.start_on(two);
    two.run("nft", &["add rule inet cut in udp dport 53 drop"]);
    one.set_name_server(two.ip(false));

    // Listening everywhere the member itself looks the name up to find its own address; listening on one address, only its
    // registry client does.
    for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), one.ip(false)] {
        let described = Member { server: SocketAddr::new(ip, MEMBER), ..Member::new("us1", found_at) };
        let mut us1 = described.start_on(one);
        us1.wait_for_value("netring_connectivity_tcp", &[("target_location", "eu1")], 1.0);
        us1.configure(&Member { registry_name: Some("registry.ring.test".into()), ..described }.yaml());
        us1.start_again();

        let start = monotonic();
        assert_eq!(us1.get("/health").status, 200);
        us1.wait_for("the peer is reached", |metrics| holds(checks(metrics) > 0.0, checks(metrics)));
        // Three targets, five times a second apart.
        us1.wait_for_checks(15.0);
        let took = monotonic() - start;
        assert!(took < Duration::from_secs(9), "six probes a second apart took {took:?}");
        let metrics = us1.metrics();
        assert_eq!(metrics.sum("netring_check_failures_total", &[]), 0.0);
        assert_eq!(metrics.value("netring_registry_up", &[]), Some(0.0), "the name has no answer:\n{}", us1.log());
        assert_eq!(us1.get("/health").status, 200);
        let status = us1.terminate(Duration::from_secs(1));
        assert!(status.success(), "{status}");
    }
}
