//! Hosts in network namespaces on one switch, and the ways to cut them apart.
//!
//! The switch is a bridge in a namespace of its own, so the machine's network is never touched. Every namespace carries the
//! process id of its test in its name; it goes when the fabric is dropped, and what a killed run left behind goes when the
//! next fabric is made.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{installed, skip};

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// Where `ip netns exec` finds the files that stand in for those of `/etc`, in a directory of each namespace's name.
const FILES: &str = "/etc/netns";

/// One switch with its hosts, or two with a router between them.
#[derive(Debug)]
pub struct Fabric {
    /// The namespace of the switches.
    switch: String,
    hosts: Vec<Host>,
    router: Option<Router>,
}

/// The router between two networks: a namespace with one cable to each switch.
#[derive(Debug)]
struct Router {
    namespace: String,
}

/// One host: a namespace with one cable to the switch, `eth0`, and a loopback interface.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, as given to [`Fabric::new`].
    pub name: String,
    namespace: String,
    cable: String,
    /// The number of its switch.
    network: u8,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

/// A container on a host, see [`Fabric::contain`]. Its namespace is removed when this is dropped.
#[derive(Debug)]
pub struct Contained(Host);

impl std::ops::Deref for Contained {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.0
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        remove(&self.0.namespace);
    }
}

/// How two hosts lose each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A firewall that swallows TCP segments.
    Drop,
    /// A firewall that answers them by ICMP: administratively prohibited.
    Reject,
}

impl Fabric {
    /// A switch with these hosts, numbered from 1 in their addresses; `None`, with the skip said, without root or its tools.
    #[must_use]
    pub fn new(names: &[&str]) -> Option<Self> {
        let (mut fabric, prefix) = Self::empty()?;
        fabric.add_network(&prefix, 0, names);
        Some(fabric)
    }

    /// Two switches with these hosts, and a router between them that all hosts use as their gateway. The near hosts are
    /// 10.77.0.n and fd77::n, the far ones 10.77.1.n and fd77:0:0:1::n, each numbered from 1; the router is 254 and fe on both
    /// sides. The hosts notice a gateway that falls silent within about six seconds, not fifty.
    #[must_use]
    pub fn routed(near: &[&str], far: &[&str]) -> Option<Self> {
        let (mut fabric, prefix) = Self::empty()?;
        for (network, names) in [(0, near), (1, far)] {
            fabric.add_network(&prefix, network, names);
        }
        let router = Router { namespace: format!("{prefix}-router") };
        fabric.add_router(&router);
        fabric.router = Some(router);
        Some(fabric)
    }

    /// A namespace for switches, and what the names of all others begin with.
    fn empty() -> Option<(Self, String)> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid(2) takes nothing and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            skip("needs root to make network namespaces");
            return None;
        }
        if !installed(&["ip", "nft"]) {
            return None;
        }
        sweep();
        let prefix = format!("netring-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let fabric = Self { switch: format!("{prefix}-switch"), hosts: Vec::new(), router: None };
        ip(&["netns", "add", &fabric.switch]);
        Some((fabric, prefix))
    }

    /// Adds a switch with these hosts.
    fn add_network(&mut self, prefix: &str, network: u8, names: &[&str]) {
        let (switch, bridge) = (&*self.switch, &*format!("br{network}"));
        ip(&["-n", switch, "link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0"]);
        ip(&["-n", switch, "link", "set", bridge, "up"]);
        for (name, number) in names.iter().zip(1_u8..) {
            let host = Host {
                name: (*name).into(),
                namespace: format!("{prefix}-{name}"),
                cable: format!("p{network}-{number}"),
                network,
                v4: v4(network, number),
                v6: v6(network, number.into()),
            };
            self.plug_in(&host);
            self.hosts.push(host);
        }
    }

    fn add_router(&self, router: &Router) {
        let (switch, namespace) = (&*self.switch, &*router.namespace);
        ip(&["netns", "add", namespace]);
        ip(&["-n", namespace, "link", "set", "lo", "up"]);
        for network in [0, 1] {
            let (cable, inner) = (&*router_cable(network), &*format!("eth{network}"));
            ip(&["-n", switch, "link", "add", cable, "type", "veth", "peer", "name", inner, "netns", namespace]);
            ip(&["-n", switch, "link", "set", cable, "master", &format!("br{network}"), "up"]);
            ip(&["-n", namespace, "addr", "add", &format!("{}/24", v4(network, ROUTER_V4)), "dev", inner]);
            ip(&["-n", namespace, "addr", "add", &format!("{}/64", v6(network, ROUTER_V6)), "dev", inner, "nodad"]);
            ip(&["-n", namespace, "link", "set", inner, "up"]);
        }
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            write_setting(namespace, setting, "1");
        }
        // An error of ICMP for every connection to a host that is gone; one a second is the default.
        write_setting(namespace, "ipv4/icmp_ratelimit", "0");
        for host in &self.hosts {
            let namespace = &*host.namespace;
            ip(&["-n", namespace, "route", "add", "default", "via", &v4(host.network, ROUTER_V4).to_string()]);
            ip(&["-n", namespace, "route", "add", "default", "via", &v6(host.network, ROUTER_V6).to_string()]);
            for family in ["ipv4", "ipv6"] {
                write_setting(namespace, &format!("{family}/neigh/eth0/base_reachable_time_ms"), "1000");
                write_setting(namespace, &format!("{family}/neigh/eth0/delay_first_probe_time"), "1");
            }
        }
    }

    fn plug_in(&self, host: &Host) {
        let (switch, namespace, cable) = (&*self.switch, &*host.namespace, &*host.cable);
        ip(&["netns", "add", namespace]);
        ip(&["-n", switch, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace]);
        ip(&["-n", switch, "link", "set", cable, "master", &format!("br{}", host.network), "up"]);
        ip(&["-n", namespace, "addr", "add", &format!("{}/24", host.v4), "dev", "eth0"]);
        ip(&["-n", namespace, "addr", "add", &format!("{}/64", host.v6), "dev", "eth0", "nodad"]);
        ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", namespace, "link", "set", "lo", "up"]);
        let rules = "add table inet cut; add chain inet cut in { type filter hook input priority 0; }";
        run(host.command("nft").arg(rules));
    }

    /// The hosts, in the order of their names.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A container on a host, as Docker makes one: a namespace with the private address 172.17.0.2, whatever the host, behind the
    /// host's NAT. What arrives at the host for this TCP port is passed on to the container; what the container sends has the
    /// host's address outside.
    #[must_use]
    pub fn contain(&self, host: &Host, port: u16) -> Contained {
        const INSIDE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
        const OUTSIDE: &str = "172.17.0.1";
        let namespace = format!("{}-inner", host.namespace);
        ip(&["netns", "add", &namespace]);
        let contained = Contained(Host {
            name: host.name.clone(),
            cable: "docker0".into(),
            v4: INSIDE,
            v6: Ipv6Addr::UNSPECIFIED,
            namespace: namespace.clone(),
            ..host.clone()
        });
        let outer = &*host.namespace;
        ip(&["-n", outer, "link", "add", "docker0", "type", "veth", "peer", "name", "eth0", "netns", &namespace]);
        ip(&["-n", outer, "addr", "add", &format!("{OUTSIDE}/16"), "dev", "docker0"]);
        ip(&["-n", outer, "link", "set", "docker0", "up"]);
        ip(&["-n", &namespace, "addr", "add", &format!("{INSIDE}/16"), "dev", "eth0"]);
        ip(&["-n", &namespace, "link", "set", "eth0", "up"]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["-n", &namespace, "route", "add", "default", "via", OUTSIDE]);
        write_setting(outer, "ipv4/ip_forward", "1");
        let rules = format!(
            "add table ip nat; \
             add chain ip nat pre {{ type nat hook prerouting priority -100; }}; \
             add chain ip nat post {{ type nat hook postrouting priority 100; }}; \
             add rule ip nat pre iif eth0 tcp dport {port} dnat to {INSIDE}:{port}; \
             add rule ip nat post oif eth0 masquerade"
        );
        run(host.command("nft").arg(rules));
        contained
    }

    /// Cuts two hosts apart, in both directions and for both address families; every other pair stays connected.
    pub fn cut(&self, one: &Host, other: &Host, how: Cut) {
        let verdict = match how {
            Cut::Drop => "drop",
            Cut::Reject => "reject with icmpx type admin-prohibited",
        };
        // TCP alone: neighbour discovery and the ICMP of the other's rejection must pass.
        for (host, from) in [(one, other), (other, one)] {
            let rules = format!(
                "add rule inet cut in ip saddr {} meta l4proto tcp {verdict}; \
                 add rule inet cut in ip6 saddr {} meta l4proto tcp {verdict}",
                from.v4, from.v6
            );
            run(host.command("nft").arg(rules));
        }
    }

    /// Pulls the cable of a host out of the switch; the host itself sees its interface lose its carrier.
    pub fn unplug(&self, host: &Host) {
        ip(&["-n", &self.switch, "link", "set", &host.cable, "down"]);
    }

    /// The address of the router that a host has as its gateway.
    #[must_use]
    pub fn gateway(&self, host: &Host, v6: bool) -> IpAddr {
        assert!(self.router.is_some(), "only a routed fabric has a router");
        if v6 { self::v6(host.network, ROUTER_V6).into() } else { v4(host.network, ROUTER_V4).into() }
    }

    /// Takes the router off the network of a host: the hosts there keep their carrier, and their gateway falls silent.
    pub fn silence_gateway(&self, host: &Host) {
        assert!(self.router.is_some(), "only a routed fabric has a router");
        ip(&["-n", &self.switch, "link", "set", &router_cable(host.network), "nomaster"]);
    }

    /// Undoes every cut, plugs every cable in and connects the router to both networks.
    pub fn heal(&self) {
        for network in self.router.iter().flat_map(|_| [0, 1]) {
            ip(&["-n", &self.switch, "link", "set", &router_cable(network), "master", &format!("br{network}")]);
        }
        for host in &self.hosts {
            ip(&["-n", &self.switch, "link", "set", &host.cable, "up"]);
            run(host.command("nft").arg("flush chain inet cut in"));
        }
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        // No assertion here: a panic in a drop would hide the test's own failure.
        for host in &self.hosts {
            remove(&host.namespace);
        }
        if let Some(router) = &self.router {
            remove(&router.namespace);
        }
        remove(&self.switch);
    }
}

/// The number of the router in the addresses of each network.
const ROUTER_V4: u8 = 254;
const ROUTER_V6: u16 = 0xfe;

fn v4(network: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, network, number)
}

fn v6(network: u8, number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0, 0, network.into(), 0, 0, 0, number)
}

/// The end of the router's cable at a switch.
fn router_cable(network: u8) -> String {
    format!("r{network}")
}

/// Writes a setting below `/proc/sys/net` in a namespace.
#[track_caller]
fn write_setting(namespace: &str, name: &str, value: &str) {
    let written = inside(namespace, || std::fs::write(Path::new("/proc/sys/net").join(name), value));
    written.unwrap_or_else(|e| panic!("{name} in {namespace}: {e}"));
}

impl Host {
    /// Sets what stands in this file below `/proc/sys/net`, such as `ipv4/ip_forward`, for this host.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        write_setting(&self.namespace, name, value);
    }

    /// What its network namespace is called, on this machine alone.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its address of the family asked for.
    #[must_use]
    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// A command that will run on it. The process id stays that of the command itself.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Has every command that is started on it from now on ask this name server, and no other, with these options of
    /// resolv.conf(5), such as how long it waits for an answer.
    pub fn set_name_server(&self, server: IpAddr, options: &str) {
        let directory = Path::new(FILES).join(&self.namespace);
        std::fs::create_dir_all(&directory).expect("root can make a directory in /etc");
        let text = format!("nameserver {server}\noptions {options}\n");
        std::fs::write(directory.join("resolv.conf"), text).expect("root can write in /etc");
    }

    /// Runs a program on it, which must succeed.
    #[track_caller]
    pub fn run(&self, program: &str, words: &[&str]) {
        run(self.command(program).args(words));
    }

    /// Runs a piece of the test on it, in a thread of its own: sockets opened there are the host's.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, work)
    }
}

/// Runs a piece of the test in a network namespace, in a thread of its own: sockets opened there are of that namespace.
pub(super) fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(Path::new(NAMESPACES).join(namespace)).expect("the namespace exists");
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: setns(2) takes an open descriptor and a number, and moves the calling thread alone, which ends with
            // this closure.
            let entered = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "cannot enter {namespace}: {}", std::io::Error::last_os_error());
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Removes the namespaces of tests whose process is gone.
fn sweep() {
    for name in left_behind(Path::new(NAMESPACES)) {
        remove(&name);
    }
}

/// The names in a directory that carry the process id of a test that is gone.
pub(super) fn left_behind(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let of_nobody = |name: &String| {
        let owner = name.strip_prefix("netring-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists())
    };
    names.filter_map(|entry| entry.file_name().into_string().ok()).filter(of_nobody).collect()
}

fn remove(namespace: &str) {
    let _ = Command::new("ip").args(["netns", "delete", namespace]).output();
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(namespace));
}

#[track_caller]
fn ip(words: &[&str]) {
    run(Command::new("ip").args(words));
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
