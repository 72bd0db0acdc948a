//! A member among other hosts: an address that leads back to whoever probes it.

pub mod support;

use std::net::{Ipv4Addr, SocketAddr};

use support::daemon::{Member, Registry};
use support::fabric::Fabric;
use support::holds;

const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn registry() -> Registry {
    Registry { server: everywhere(REGISTRY), member_ttl: 300, ..Registry::new() }
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
        // Three targets are known; the peer that is not probed counts as one that is not.
        assert_eq!(metrics.value("netring_coverage_ratio", &[]), Some(0.75));
        assert_eq!(metrics.value("netring_peers_not_probed", &[("reason", "leads_back")]), Some(1.0));
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
