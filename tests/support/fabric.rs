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

/// A switch with its hosts.
#[derive(Debug)]
pub struct Fabric {
    switch: String,
    hosts: Vec<Host>,
}

/// One host: a namespace with one cable to the switch, `eth0`, and a loopback interface.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name, as given to [`Fabric::new`].
    pub name: String,
    namespace: String,
    cable: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
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
        let mut fabric = Self { switch: format!("{prefix}-switch"), hosts: Vec::new() };
        ip(&["netns", "add", &fabric.switch]);
        ip(&["-n", &fabric.switch, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0"]);
        ip(&["-n", &fabric.switch, "link", "set", "br0", "up"]);
        for (name, number) in names.iter().zip(1_u8..) {
            let host = Host {
                name: (*name).into(),
                namespace: format!("{prefix}-{name}"),
                cable: format!("p{number}"),
                v4: Ipv4Addr::new(10, 77, 0, number),
                v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()),
            };
            fabric.plug_in(&host);
            fabric.hosts.push(host);
        }
        Some(fabric)
    }

    fn plug_in(&self, host: &Host) {
        let (switch, namespace, cable) = (&*self.switch, &*host.namespace, &*host.cable);
        ip(&["netns", "add", namespace]);
        ip(&["-n", switch, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace]);
        ip(&["-n", switch, "link", "set", cable, "master", "br0", "up"]);
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

    /// Undoes every cut and plugs every cable in.
    pub fn heal(&self) {
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
        remove(&self.switch);
    }
}

impl Host {
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
