//! What a member says of its own host's network and what of its peers: peers of an address family that the host lacks, and a
//! pulled cable while another member on the same host answers.

pub mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Fabric, Host};
use support::{SOON, eventually, holds};

const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;
const SIBLING: u16 = 8758;
const PLAYED: u16 = 8759;

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn registry_on(host: &Host) -> Daemon {
    Registry { server: everywhere(REGISTRY), member_ttl: 300, ..Registry::new() }.start_on(host)
}

fn member(location: &str, port: u16, hub: &Host) -> Member {
    Member { server: everywhere(port), ..Member::new(location, SocketAddr::new(hub.ip(false), REGISTRY)) }
}

#[track_caller]
fn sees(member: &Daemon, location: &str, wanted: f64) {
    member.wait_for_value("netring_connectivity_tcp", &[("target_location", location)], wanted);
}

/// The last line that the member gave its service manager.
fn status(member: &Daemon) -> String {
    let messages = member.notifications();
    let mut lines = messages.iter().rev().flat_map(|message| message.lines());
    lines.find_map(|line| line.strip_prefix("STATUS=")).unwrap_or_default().to_owned()
}

fn not_probed(member: &Daemon) -> Option<f64> {
    member.metrics().value("netring_peers_not_probed", &[("reason", "no_route")])
}

#[test]
fn peers_of_a_family_that_the_host_lacks_are_named_once_each_and_the_member_stays_well() {
    let Some(fabric) = Fabric::new(&["us1", "eu1"]) else { return };
    let [us1_host, eu1_host] = fabric.hosts() else { panic!("two hosts") };
    us1_host.set("ipv6/conf/all/disable_ipv6", "1");
    let registry = registry_on(eu1_host);
    let _eu1 = member("eu1", MEMBER, eu1_host).start_on(eu1_host);
    let us1 = Member { http_endpoints: Vec::new(), ..member("us1", MEMBER, eu1_host) }.start_on(us1_host);
    sees(&us1, "eu1", 1.0);

    // Both peers are in order and reached by anybody with IPv6.
    let other: Ipv6Addr = "fd77::77".parse().unwrap();
    eu1_host.run("ip", &["addr", "add", &format!("{other}/64"), "dev", "eth0", "nodad"]);
    let _listener = eu1_host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PLAYED)).unwrap());
    let peers = [("asia1", IpAddr::from(eu1_host.v6)), ("africa1", IpAddr::from(other))];
    for (location, ip) in peers {
        registry.register(&format!("{location}-id"), location, SocketAddr::new(ip, PLAYED));
    }
    eventually(SOON, "both peers are counted", || {
        let number = not_probed(&us1);
        holds(number == Some(2.0), (number, us1.log()))
    });
    us1.wait_for_checks(9.0);
    for (location, ip) in peers {
        let said = us1.log_lines(&["warn", "cannot probe a peer", location, &format!("{ip}")]);
        assert_eq!(said.len(), 1, "{}", us1.log());
        let known = us1.metrics();
        let known = known.series("netring_connectivity_tcp", &[("target_location", location)]);
        assert!(known.is_empty(), "nothing is known of it: {known:?}");
    }
    let metrics = us1.metrics();
    assert_eq!(metrics.value("netring_local_health", &[]), Some(1.0));
    assert_eq!(not_probed(&us1), Some(2.0));
    let health = us1.get("/health").text();
    assert!(health.contains(r#""status":"healthy""#), "{health}");
    assert_eq!(us1.log_lines(&["peer down"]), Vec::<String>::new());
    eventually(SOON, "the service manager is told", || {
        let line = status(&us1);
        let named = line.contains("2 cannot be probed: africa1 (fd77::77: ") && line.contains("and 1 more");
        holds(named && !line.contains("unwell"), line)
    });
    sees(&us1, "eu1", 1.0);

    // The host gets the other family, and all is as it should be.
    us1_host.set("ipv6/conf/all/disable_ipv6", "0");
    us1_host.run("ip", &["addr", "add", &format!("{}/64", us1_host.v6), "dev", "eth0", "nodad"]);
    for (location, _) in peers {
        sees(&us1, location, 1.0);
    }
    assert_eq!(not_probed(&us1), Some(0.0));
    eventually(SOON, "the status line follows", || {
        let line = status(&us1);
        holds(!line.contains("cannot be probed") && line.contains("3 peers"), line)
    });
}

#[test]
fn a_pulled_cable_makes_a_member_unwell_though_another_member_on_its_host_answers() {
    let Some(fabric) = Fabric::new(&["us1", "eu1", "hub"]) else { return };
    let [us1_host, eu1_host, hub] = fabric.hosts() else { panic!("three hosts") };
    let _registry = registry_on(hub);
    let us1 = member("us1", MEMBER, hub).start_on(us1_host);
    let sibling = member("us2", SIBLING, hub).start_on(us1_host);
    let eu1 = member("eu1", MEMBER, hub).start_on(eu1_host);
    let members = [(&us1, "us2"), (&sibling, "us1")];
    for (member, other) in members {
        sees(member, "eu1", 1.0);
        sees(member, other, 1.0);
    }

    fabric.unplug(us1_host);
    for (member, other) in members {
        member.wait_for_value("netring_local_health", &[], 0.0);
        member.wait_for("nothing is known of eu1", |metrics| {
            let known = metrics.series("netring_connectivity_tcp", &[("target_location", "eu1")]);
            holds(known.is_empty(), known)
        });
        member.wait_for_checks(18.0);
        sees(member, other, 1.0);
        let metrics = member.metrics();
        assert_eq!(metrics.value("netring_local_health", &[]), Some(0.0));
        assert_eq!(metrics.value("netring_registry_up", &[]), Some(0.0));
        let ours = metrics.sum("netring_check_failures_total", &[("reason", "local")]);
        assert!(ours > 0.0);
        assert_eq!(metrics.sum("netring_check_failures_total", &[]), ours, "{}", member.log());
        assert_eq!(member.log_lines(&["peer down"]), Vec::<String>::new());
        let health = member.get("/health").text();
        assert!(health.contains(r#""status":"unwell""#) && health.contains("no carrier"), "{health}");
    }
    for location in ["us1", "us2"] {
        sees(&eu1, location, 0.0);
    }

    fabric.heal();
    for (member, other) in members {
        sees(member, "eu1", 1.0);
        sees(member, other, 1.0);
        assert_eq!(member.log_lines(&["peer down"]), Vec::<String>::new());
    }
}
