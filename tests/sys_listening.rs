//! Where daemons listen and what members register: hosts with one address family, and a member behind a port mapping.

pub mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use support::daemon::{Member, NETRING, Registry};
use support::fabric::{Fabric, Host};
use support::metrics::Metrics;
use support::process::Process;
use support::{SOON, Scratch, eventually, holds, http};

const PORT: u16 = 8756;

/// A daemon that has nothing but variables: no file, no state directory.
fn start_from_the_environment(host: &Host, role: &str, variables: &[(&str, &str)], scratch: &Scratch) -> Process {
    let mut command = host.command(NETRING);
    command.arg(role).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(variables.iter().copied());
    Process::start(&mut command, scratch, &format!("{}-{role}", host.name))
}

/// What `GET path` at `server` says, asked on this host as soon as there is an answer.
fn answer_to(host: &Host, server: SocketAddr, path: &str, process: &Process) -> String {
    eventually(SOON, &format!("{server} answers {path}"), || {
        let answer = host.inside(|| http::get(server, path));
        answer.map(|answer| answer.text()).map_err(|e| format!("{e}; its log:\n{}", process.log()))
    })
}

/// A registry and a member on hosts that lost the addresses of one family, started with the least there can be: each answers
/// on its own host and from the other, and the member is reached by a second one.
fn a_ring_of_one_family_works_from_the_environment_alone(v6: bool) {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    for host in [one, two] {
        if v6 {
            host.run("ip", &["-4", "addr", "flush", "dev", "eth0"]);
        } else {
            host.run("sysctl", &["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.lo.disable_ipv6=1"]);
        }
    }
    let loopback: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let scratch = Scratch::new();
    let registry = start_from_the_environment(one, "registry", &[], &scratch);
    let at = SocketAddr::new(one.ip(v6), PORT);
    let url = &*format!("http://{at}");
    let member = |host, location, port| {
        let variables = [
            ("MEMBER_LOCATION", location),
            ("REGISTRY_URL", url),
            ("NETRING_MEMBER_SERVER_PORT", port),
            ("NETRING_MEMBER_INTERVALS_POLL_INTERVAL", "1"),
            ("NETRING_MEMBER_INTERVALS_CHECK_INTERVAL", "1"),
        ];
        start_from_the_environment(host, "member", &variables, &scratch)
    };
    let us1 = member(one, "us1", "8757");
    // Empty is unset: the default port.
    let eu1 = member(two, "eu1", "");

    for (asking, server, process) in [
        (one, SocketAddr::new(loopback, PORT), &registry),
        (two, at, &registry),
        (two, SocketAddr::new(loopback, PORT), &eu1),
        (one, SocketAddr::new(two.ip(v6), PORT), &eu1),
    ] {
        let health = answer_to(asking, server, "/health", process);
        assert!(health.contains("\"status\":\"healthy\""), "{server}: {health}\n{}", process.log());
    }
    for (asking, port, process, peer) in [(one, PORT + 1, &us1, "eu1"), (two, PORT, &eu1, "us1")] {
        eventually(SOON, &format!("{peer} is reached"), || {
            let page = answer_to(asking, SocketAddr::new(loopback, port), "/metrics", process);
            let metrics = Metrics::parse(&page).map_err(|e| e.to_string())?;
            let up = metrics.value("netring_connectivity_tcp", &[("target_location", peer)]);
            holds(up == Some(1.0), format!("{up:?}; its log:\n{}", process.log()))
        });
    }
    let health = |role: &str| two.command(NETRING).args(["healthcheck", role]).env_clear().output().expect("it starts");
    let checked = health("--member");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn a_ring_of_hosts_without_ipv4_works_from_the_environment_alone() {
    a_ring_of_one_family_works_from_the_environment_alone(true);
}

#[test]
fn a_ring_of_hosts_without_ipv6_works_from_the_environment_alone() {
    a_ring_of_one_family_works_from_the_environment_alone(false);
}

/// The second host accepts connections from elsewhere on 8757 alone and passes them on to 8756, as a container does that was
/// started with `-p 8757:8756`.
#[test]
fn a_member_behind_a_port_mapping_is_reached_at_the_port_it_advertises() {
    let Some(fabric) = Fabric::new(&["one", "two"]) else { return };
    let [one, two] = fabric.hosts() else { panic!("two hosts") };
    let rules = "add table ip mapping; \
                 add chain ip mapping closed { type filter hook prerouting priority -150; }; \
                 add rule ip mapping closed iifname eth0 tcp dport 8756 drop; \
                 add chain ip mapping open { type nat hook prerouting priority -100; }; \
                 add rule ip mapping open iifname eth0 tcp dport 8757 redirect to :8756";
    two.run("nft", &[rules]);
    let everywhere = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let registry = Registry { server: everywhere(9000), member_ttl: 300, ..Registry::new() }.start_on(one);
    let found_at = SocketAddr::new(one.ip(false), 9000);
    let us1 = Member { server: everywhere(PORT), ..Member::new("us1", found_at) }.start_on(one);
    let mapped = Member { server: everywhere(PORT), ..Member::new("eu1", found_at) };
    let eu1 = mapped.start_on(two);
    let registered = || {
        let roster = registry.get("/members").json();
        let listed = roster["members"].as_array().expect("a list").iter().find(|m| m["location"] == "eu1").cloned();
        listed.and_then(|member| member["port"].as_u64())
    };
    let us1_sees = |wanted| us1.wait_for_value("netring_connectivity_tcp", &[("target_location", "eu1")], wanted);
    us1_sees(0.0);
    assert_eq!(registered(), Some(8756));

    let with = |port: &str| {
        mapped.yaml().replace("    port: 8756\n", &format!("    port: 8756\n    advertise_port: {port}\n"))
    };
    eu1.configure(&with("8757"));
    eu1.signal(libc::SIGHUP);
    us1_sees(1.0);
    assert_eq!(registered(), Some(8757));
    // What it registers is all that changes: it sees the others as before, and serves at its own port on its own host.
    eu1.wait_for_value("netring_connectivity_tcp", &[("target_location", "us1")], 1.0);

    eu1.configure(&with("null"));
    eu1.signal(libc::SIGHUP);
    us1_sees(0.0);
    assert_eq!(registered(), Some(8756));
}
