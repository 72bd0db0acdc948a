//! Peers whose address leads back to the member itself: a probe of them would find the member itself well, for ever.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Fabric, Host};
use support::{SOON, eventually, holds};

const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;

/// A new address of a host is known within ten seconds; and some time for a busy machine.
const KNOWN: Duration = Duration::from_secs(20);

fn everywhere(v6: bool, port: u16) -> SocketAddr {
    let ip: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(ip, port)
}

fn registry_on(host: &Host) -> Daemon {
    Registry { server: everywhere(true, REGISTRY), member_ttl: 300, ..Registry::new() }.start_on(host)
}

fn member(host: &Host, hub: &Host) -> Member {
    Member { server: everywhere(false, MEMBER), ..Member::new(&host.name, SocketAddr::new(hub.ip(false), REGISTRY)) }
}

/// The member does not probe these peers, and no others, and has warned about each once.
#[track_caller]
fn leads_back(member: &Daemon, limit: Duration, peers: &[&str]) {
    let wanted = u32::try_from(peers.len()).unwrap();
    eventually(limit, &format!("{peers:?} are not probed"), || {
        let metrics = member.metrics();
        let number = metrics.value("netring_peers_not_probed", &[("reason", "leads_back")]);
        let families = ["netring_connectivity_tcp", "netring_connectivity_http"];
        let of_peer = |family, peer| metrics.series(family, &[("target_location", peer)]);
        let known: Vec<_> =
            families.iter().flat_map(|family| peers.iter().flat_map(|peer| of_peer(family, peer))).collect();
        let right = known.is_empty() && number == Some(f64::from(wanted));
        holds(right, format!("{known:?} {number:?}; its log:\n{}", member.log()))
    });
    for peer in peers {
        let warnings = || member.log_lines(&["warn", "not probing a peer", &format!("{peer}-id")]);
        eventually(SOON, "that is logged", || holds(!warnings().is_empty(), member.log()));
        assert_eq!(warnings().len(), 1, "{}", member.log());
    }
}

#[track_caller]
fn sees(member: &Daemon, location: &str, wanted: f64) {
    member.wait_for_value("netring_connectivity_tcp", &[("target_location", location)], wanted);
}

#[test]
fn a_peer_registered_with_the_private_address_that_two_docker_hosts_share_is_not_probed() {
    let Some(fabric) = Fabric::new(&["us1", "eu1", "hub"]) else { return };
    let [us1, eu1, hub] = fabric.hosts() else { panic!("three hosts") };
    let registry = registry_on(hub);
    let containers = [us1, eu1].map(|host| (host, fabric.contain(host, MEMBER)));
    let members = containers.each_ref().map(|(host, container)| {
        Member { advertise_ip: Some(host.ip(false)), ..member(host, hub) }.start_on(container)
    });
    let [at_us1, at_eu1] = &members;
    sees(at_us1, "eu1", 1.0);
    sees(at_eu1, "us1", 1.0);

    // A third site with Docker, where nobody has set the address that others can reach.
    registry.register("asia1-id", "asia1", SocketAddr::new(containers[0].1.ip(false), MEMBER));
    for member in &members {
        leads_back(member, KNOWN, &["asia1"]);
    }
    for (member, other) in [(at_us1, "eu1"), (at_eu1, "us1")] {
        member.wait_for_checks(6.0);
        leads_back(member, KNOWN, &["asia1"]);
        sees(member, other, 1.0);
        let coverage = member.metrics().value("netring_coverage_ratio", &[]).unwrap();
        assert!(coverage < 1.0, "a peer that is not probed is not covered: {coverage}");
    }
}

#[test]
fn a_kept_roster_with_own_addresses_is_not_probed_from_the_start_while_the_registry_is_away() {
    let Some(fabric) = Fabric::new(&["us1", "eu1", "hub"]) else { return };
    let [us1, eu1, hub] = fabric.hosts() else { panic!("three hosts") };
    // Nothing listens at the registry's address. What stands in for a peer is a member of its own.
    let _at_eu1 = member(eu1, hub).start_on(eu1);
    let mut at_us1 = member(us1, hub).start_on(us1);
    let entry = |location: &str, ip: &str| {
        format!(
            r#"{{"instance_id": "{location}-id", "location": "{location}", "ip": "{ip}", "port": {MEMBER}, "last_seen": 1}}"#
        )
    };
    let entries = [
        entry("eu1", &eu1.v4.to_string()),
        entry("mine", &us1.v4.to_string()),
        entry("loopback", "127.0.0.1"),
        entry("loopback6", "::1"),
    ];
    let roster = format!(r#"{{"members": [{}]}}"#, entries.join(", "));
    std::fs::write(at_us1.state_file("roster.json"), roster).unwrap();
    at_us1.start_again();
    sees(&at_us1, "eu1", 1.0);
    let not_probed = ["mine", "loopback", "loopback6"];
    leads_back(&at_us1, SOON, &not_probed);
    at_us1.wait_for_checks(6.0);
    leads_back(&at_us1, SOON, &not_probed);
    let metrics = at_us1.metrics();
    assert_eq!(metrics.value("netring_registry_up", &[]), Some(0.0));
    // From the start: not one probe went to them.
    for location in not_probed {
        assert_eq!(metrics.sum("netring_checks_total", &[("target_location", location)]), 0.0, "{location}");
    }
}

/// Listens everywhere, on a host with two addresses of each family, and gets one more of each later.
fn every_address_of_the_host_leads_back(v6: bool) {
    let Some(fabric) = Fabric::new(&["us1", "eu1", "hub"]) else { return };
    let [us1, eu1, hub] = fabric.hosts() else { panic!("three hosts") };
    let registry = registry_on(hub);
    let add = |ip: &str, length: u8| {
        let nodad = if ip.contains(':') { &["nodad"][..] } else { &[] };
        us1.run("ip", &[&["addr", "add", &format!("{ip}/{length}"), "dev", "eth0"], nodad].concat());
    };
    add("10.78.0.1", 24);
    add("fd78::1", 64);
    let _at_eu1 = member(eu1, hub).start_on(eu1);
    let at_us1 = Member { server: everywhere(v6, MEMBER), ..member(us1, hub) }.start_on(us1);
    sees(&at_us1, "eu1", 1.0);
    let register = |location: &str, ip: &str| {
        registry.register(&format!("{location}-id"), location, SocketAddr::new(ip.parse().unwrap(), MEMBER));
    };
    register("second", "10.78.0.1");
    register("later", "10.77.0.50");
    leads_back(&at_us1, KNOWN, &["second"]);
    sees(&at_us1, "later", 0.0);

    add("10.77.0.50", 24);
    leads_back(&at_us1, KNOWN, &["second", "later"]);
    register("second6", "fd78::1");
    if v6 {
        leads_back(&at_us1, KNOWN, &["second", "later", "second6"]);
    } else {
        // It does not listen there, and another process of this host may: who is asked there is not this member.
        sees(&at_us1, "second6", 0.0);
        leads_back(&at_us1, KNOWN, &["second", "later"]);
    }
    us1.run("ip", &["addr", "delete", "10.78.0.1/24", "dev", "eth0"]);
    eventually(KNOWN, "an address that the host has lost is another's", || {
        let known = at_us1.metrics().sum("netring_checks_total", &[("target_location", "second")]);
        holds(known > 0.0, (known, at_us1.log()))
    });
    sees(&at_us1, "eu1", 1.0);
}

#[test]
fn every_ipv4_address_of_the_host_leads_back_to_a_member_on_the_unspecified_ipv4_address() {
    every_address_of_the_host_leads_back(false);
}

#[test]
fn every_address_of_the_host_leads_back_to_a_member_on_the_unspecified_ipv6_address() {
    every_address_of_the_host_leads_back(true);
}
