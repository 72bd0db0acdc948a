//! A member whose own host cuts it off from everybody, with its carrier and its gateway in order: a firewall rule there, or a
//! connection tracking table that is full. Its probes end in time-outs, as if everybody else were dead.

pub mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Fabric, Host};
use support::{eventually, holds};

const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;

/// How long a member may take to know that it is isolated: a round of probes, and the time limit of a request to the registry.
const KNOWN: Duration = Duration::from_secs(40);

/// A firewall of the host that lets everything pass for now, and keeps track of connections.
fn firewall(host: &Host) {
    host.run(
        "nft",
        &["add table inet own; \
           add chain inet own track { type filter hook output priority 0; }; add rule inet own track ct state new; \
           add chain inet own out { type filter hook output priority 0; }; \
           add chain inet own in { type filter hook input priority 0; }"],
    );
}

/// Drops what the rules say on every interface but loopback.
fn drop_what(host: &Host, rules: &[&str]) {
    host.run("nft", &["add rule inet own out oif lo accept; add rule inet own in iif lo accept"]);
    for rule in rules {
        host.run("nft", &[&format!("add rule inet own {rule} drop")]);
    }
}

fn heal(host: &Host) {
    host.run("nft", &["flush chain inet own out; flush chain inet own in"]);
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

/// A registry on a host of its own, and a member on each of the others.
fn ring(hub: &Host, sites: &[&Host]) -> (Daemon, Vec<Daemon>) {
    let registry = Registry { server: everywhere(REGISTRY), member_ttl: 300, ..Registry::new() }.start_on(hub);
    let found_at = SocketAddr::new(hub.ip(false), REGISTRY);
    let member = |host: &&Host| {
        let long = Member { timeout: 0.9, ..Member::new(&host.name, found_at) };
        Member { server: everywhere(MEMBER), ..long }.start_on(host)
    };
    let members: Vec<Daemon> = sites.iter().map(member).collect();
    all_are_reached(&members);
    (registry, members)
}

#[track_caller]
fn all_are_reached(members: &[Daemon]) {
    for member in members {
        eventually(KNOWN, "every other member is reached by TCP and HTTP", || {
            let metrics = member.metrics();
            let up = metrics.sum("netring_connectivity_tcp", &[]) + metrics.sum("netring_connectivity_http", &[]);
            // One TCP check and two paths.
            let all = 3 * (u32::try_from(members.len()).unwrap_or_default() - 1);
            holds((up - f64::from(all)).abs() < f64::EPSILON, format!("{up}; its log:\n{}", member.log()))
        });
    }
}

#[track_caller]
fn sees(member: &Daemon, location: &str, wanted: f64) {
    member.wait_for_value("netring_connectivity_tcp", &[("target_location", location)], wanted);
}

/// Isolates the member at the first site by these rules, and lifts them again. Whether the member says of its peers that they
/// are down in the time before it can know better depends on when the registry fails to answer; when it knows, it takes that
/// back and says nothing more.
fn a_member_is_isolated(rules: &[&str]) {
    let Some(fabric) = Fabric::new(&["us1", "eu1", "asia1", "hub"]) else { return };
    let [us1_host, eu1_host, asia1_host, hub] = fabric.hosts() else { panic!("four hosts") };
    firewall(us1_host);
    let (_registry, members) = ring(hub, &[us1_host, eu1_host, asia1_host]);
    let [us1, eu1, asia1] = &members[..] else { panic!("three members") };

    drop_what(us1_host, rules);
    eventually(KNOWN, "us1 knows that it is isolated", || {
        let health = us1.get("/health").text();
        holds(health.contains(r#""status":"unwell""#) && health.contains("isolated"), (health, us1.log()))
    });
    let said = us1.log_lines(&["peer down"]);
    let isolated = || {
        let metrics = us1.metrics();
        for family in ["netring_connectivity_tcp", "netring_connectivity_http"] {
            let known = metrics.series(family, &[]);
            assert!(known.is_empty(), "{known:?}\n{}", us1.log());
        }
        assert_eq!(metrics.value("netring_local_health", &[]), Some(0.0));
    };
    isolated();
    // The others blame the one site that is cut off, and each other not.
    for (member, other) in [(eu1, "asia1"), (asia1, "eu1")] {
        sees(member, "us1", 0.0);
        sees(member, other, 1.0);
        assert!(!member.get("/health").text().contains("isolated"), "{}", member.log());
    }
    // It stays so over the next rounds of probes, and over the attempts to reach the registry.
    us1.wait_for_checks(30.0);
    isolated();
    assert_eq!(us1.log_lines(&["peer down"]), said, "{}", us1.log());
    assert_eq!(us1.log_lines(&["warn", "this member is unwell", "isolated"]).len(), 1, "{}", us1.log());

    heal(us1_host);
    all_are_reached(&members);
    us1.wait_for_checks(12.0);
    assert_eq!(us1.log_lines(&["peer down"]), said, "probes from before the end count for nothing: {}", us1.log());
    eventually(KNOWN, "the registry is back", || {
        let up = us1.metrics().value("netring_registry_up", &[]);
        holds(up == Some(1.0), (up, us1.log()))
    });
}

#[test]
fn a_firewall_that_drops_all_tcp_of_its_host_makes_the_member_unwell_and_blames_nobody() {
    a_member_is_isolated(&["out meta l4proto tcp", "in meta l4proto tcp"]);
}

/// A connection tracking table that is full drops the first packet of every new connection, and lets those pass that it knows.
/// So the connection to the registry that is kept open goes on. (The size of the table is one for all namespaces of a machine,
/// so that filling it would harm other tests: a rule stands in for it.)
#[test]
fn a_host_that_drops_every_new_connection_makes_the_member_unwell_though_the_registry_is_still_heard() {
    a_member_is_isolated(&["out meta l4proto tcp ct state new", "in meta l4proto tcp ct state new"]);
}

#[test]
fn two_sites_are_blamed_where_the_registry_still_answers() {
    let Some(fabric) = Fabric::new(&["us1", "eu1", "asia1", "hub"]) else { return };
    let [us1_host, eu1_host, asia1_host, hub] = fabric.hosts() else { panic!("four hosts") };
    firewall(us1_host);
    let (_registry, members) = ring(hub, &[us1_host, eu1_host, asia1_host]);
    let [us1, ..] = &members[..] else { panic!("three members") };

    let lost = format!("out ip daddr {{ {}, {} }} meta l4proto tcp", eu1_host.v4, asia1_host.v4);
    drop_what(us1_host, &[&lost]);
    for location in ["eu1", "asia1"] {
        sees(us1, location, 0.0);
    }
    // Longer than a request to a registry that is lost would take.
    for _ in 0..3 {
        us1.wait_for_checks(24.0);
    }
    for location in ["eu1", "asia1"] {
        sees(us1, location, 0.0);
    }
    assert_eq!(us1.metrics().value("netring_registry_up", &[]), Some(1.0), "{}", us1.log());
    assert_eq!(us1.log_lines(&["registry lost"]), Vec::<String>::new(), "asking for a sign of life is no loss");
    // A busy machine may make it unwell for other reasons.
    assert_eq!(us1.log_lines(&["isolated"]), Vec::<String>::new());

    heal(us1_host);
    all_are_reached(&members);
}
