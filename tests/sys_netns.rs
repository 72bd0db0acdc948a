//! Three hosts on a network that is cut and healed: each member says what it sees, of whom, and for what reason.

pub mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use support::daemon::{Daemon, Member, Registry};
use support::fabric::{Cut, Fabric};
use support::holds;

/// The port of the registry, and of every member, each on its own host.
const REGISTRY: u16 = 8756;
const MEMBER: u16 = 8757;

/// Runs the same story over one address family.
///
/// Everything listens on the unspecified address and registers what the kernel would use towards the registry. A probe may
/// take longer than a second: over IPv6 Linux may notice a rejection only at the second SYN.
fn a_link_is_cut_and_healed(v6: bool) {
    let names = ["us1", "eu1", "asia1"];
    let Some(fabric) = Fabric::new(&names) else { return };
    let hosts = fabric.hosts();
    let everywhere: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let registry = Registry { server: SocketAddr::new(everywhere, REGISTRY), member_ttl: 300, ..Registry::new() };
    let _registry = registry.start_on(&hosts[0]);
    let members: Vec<Daemon> = names
        .iter()
        .zip(hosts)
        .map(|(location, host)| {
            let found_at = SocketAddr::new(hosts[0].ip(v6), REGISTRY);
            let server = SocketAddr::new(everywhere, MEMBER);
            Member { server, check_interval: 2, timeout: 1.6, ..Member::new(location, found_at) }.start_on(host)
        })
        .collect();
    let [us1, eu1, asia1] = &members[..] else { panic!("three members") };
    let sees = |from: &Daemon, to: usize, wanted: f64| {
        let ip = hosts[to].ip(v6).to_string();
        from.wait_for_value("netring_connectivity_tcp", &[("target_location", names[to]), ("target_ip", &ip)], wanted);
    };
    let all_well = || {
        for (from, to) in [(us1, 1), (us1, 2), (eu1, 0), (eu1, 2), (asia1, 0), (asia1, 1)] {
            sees(from, to, 1.0);
        }
    };
    all_well();

    for (how, reason) in [(Cut::Drop, "timeout"), (Cut::Reject, "unreachable")] {
        let failures = |member: &Daemon| member.metrics().sum("netring_check_failures_total", &[("reason", reason)]);
        let before = [failures(us1), failures(eu1), failures(asia1)];
        fabric.cut(&hosts[1], &hosts[2], how);
        sees(eu1, 2, 0.0);
        sees(asia1, 1, 0.0);
        for (member, before) in [(eu1, before[1]), (asia1, before[2])] {
            member.wait_for(&format!("failures are counted as {reason}"), |metrics| {
                let now = metrics.sum("netring_check_failures_total", &[("reason", reason)]);
                holds(now > before, format!("{before} before, {now} now"))
            });
        }
        // The third site reaches both: the link is broken, not the sites.
        sees(us1, 1, 1.0);
        sees(us1, 2, 1.0);
        assert_eq!(failures(us1), before[0], "us1 has lost nobody");
        fabric.heal();
        all_well();
    }

    let blamed = asia1.log_lines(&["peer down"]);
    fabric.unplug(&hosts[2]);
    sees(us1, 2, 0.0);
    sees(eu1, 2, 0.0);
    sees(us1, 1, 1.0);
    // Whose cable is out blames nobody: what it sees is unknown, and it says that it is itself unwell.
    asia1.wait_for("asia1 knows nothing of the others", |metrics| {
        let known = metrics.series("netring_connectivity_tcp", &[]);
        holds(known.is_empty(), known)
    });
    asia1.wait_for_value("netring_local_health", &[], 0.0);
    fabric.heal();
    all_well();
    assert_eq!(asia1.log_lines(&["peer down"]), blamed, "{}", asia1.log());
}

#[test]
fn over_ipv4_a_link_cut_by_drop_by_reject_and_at_the_plug_is_seen_and_heals() {
    a_link_is_cut_and_healed(false);
}

#[test]
fn over_ipv6_a_link_cut_by_drop_by_reject_and_at_the_plug_is_seen_and_heals() {
    a_link_is_cut_and_healed(true);
}
