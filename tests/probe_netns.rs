//! Probes across a real network of two hosts, where firewalls and routes say no in every way they have.
//!
//! Each test runs itself again inside a user and network namespace of its own (`unshare -rn`), joined by a veth pair to a
//! second namespace that stands for the peer; nothing of it touches the machine's own network. Where namespaces or the
//! tools are not to be had, a test says SKIP on stderr, past the test runner's capture.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netring::probe::{self, Check, Limits, LocalCause, Outcome, Reason, StatusRanges, Target};
use tokio::runtime::Runtime;

/// Set in the run inside the namespace.
const INSIDE: &str = "NETRING_TEST_INSIDE_NAMESPACE";

const OWN_V4: &str = "10.9.0.1";
const PEER_V4: &str = "10.9.0.2";
const PEER_V6: &str = "fd09::2";
const PORT: u16 = 8756;

/// Runs `body` inside a fresh namespace by running the test called `name` there again.
fn in_namespace(name: &str, body: impl FnOnce(&Peer)) {
    if std::env::var_os(INSIDE).is_some() {
        body(&Peer::new());
        return;
    }
    for tool in ["unshare", "nsenter", "ip", "nft", "sysctl"] {
        if Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return skip(name, &format!("there is no {tool} here"));
        }
    }
    if !Command::new("unshare").args(["-rn", "true"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {
        return skip(name, "this user may make no namespaces");
    }
    let status = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "inside the namespace: {status}");
}

fn skip(name: &str, why: &str) {
    // Not by eprintln!, which the test runner keeps back when a test passes.
    std::io::stderr().write_all(format!("SKIP {name}: {why}\n").as_bytes()).unwrap();
}

/// The other host. Gone with its namespace when dropped.
struct Peer {
    /// Holds the namespace open.
    holder: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs a shell command on this host.
fn own(command: &str) {
    done(Command::new("sh").args(["-c", command]));
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Peer {
    fn new() -> Self {
        let holder = Command::new("unshare").args(["-n", "sleep", "300"]).spawn().unwrap();
        let peer = Self { holder };
        let namespace = format!("/proc/{}/ns/net", peer.holder.id());
        let deadline = now() + Duration::from_secs(10);
        let of = |path: &str| std::fs::read_link(path).unwrap();
        while of(&namespace) == of("/proc/self/ns/net") {
            assert!(now() < deadline, "the peer's namespace does not appear");
            std::thread::sleep(Duration::from_millis(5));
        }
        own(&format!("ip link add v0 type veth peer name v1 netns {}", peer.holder.id()));
        own(&format!("ip addr add {OWN_V4}/24 dev v0 && ip -6 addr add fd09::1/64 dev v0 nodad"));
        own("ip link set lo up && ip link set v0 up");
        peer.run(&format!("ip addr add {PEER_V4}/24 dev v1 && ip -6 addr add {PEER_V6}/64 dev v1 nodad"));
        peer.run("ip link set lo up && ip link set v1 up");
        peer.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        // Every probe is to get its answer, not one a second.
        peer.run("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0");
        own(&format!("ip route add 10.60.0.0/24 via {PEER_V4} && ip -6 route add fd60::/64 via {PEER_V6}"));
        peer
    }

    /// Runs a shell command at the peer.
    fn run(&self, command: &str) {
        done(Command::new("nsenter").args(["-t", &self.holder.id().to_string(), "-n", "sh", "-c", command]));
    }

    /// Lets the peer's firewall do this, and only this, with what comes in for the probed port.
    fn firewall(&self, verdict: &str) {
        self.run("nft flush ruleset && nft add table inet t");
        self.run("nft add chain inet t c '{ type filter hook input priority 0; }'");
        self.run(&format!("nft add rule inet t c 'tcp dport {PORT} {verdict}'"));
    }
}

fn now() -> Instant {
    netring::clock::monotonic()
}

fn limits(timeout: Duration) -> Limits {
    Limits {
        tcp_timeout: timeout,
        http_timeout: timeout,
        http_ok_status: StatusRanges(vec![(100, 499)]),
        http_body_limit: probe::HTTP_BODY_LIMIT,
    }
}

/// One probe. The time limit leaves room for one SYN to be sent again after a second: Linux acts on an ICMP error only
/// when it does not arrive within connect(2) itself, as it can between two namespaces of one machine.
fn probe(ip: &str) -> Outcome {
    probe_on(&runtime(), ip)
}

fn probe_on(runtime: &Runtime, ip: &str) -> Outcome {
    let address = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), PORT);
    runtime.block_on(probe::run(&Target { address, check: Check::Tcp }, &limits(Duration::from_millis(1_600))))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn reason(ip: &str) -> Reason {
    probe(ip).result.expect_err("the probe fails").reason
}

#[test]
fn what_a_firewall_or_a_route_says_has_its_kind() {
    in_namespace("what_a_firewall_or_a_route_says_has_its_kind", |peer| {
        assert_eq!((reason(PEER_V4), reason(PEER_V6)), (Reason::Refused, Reason::Refused), "nobody listens");
        let verdicts = [
            ("drop", Reason::Timeout),
            ("reject with tcp reset", Reason::Refused),
            ("reject with icmpx type port-unreachable", Reason::Refused),
            ("reject with icmpx type host-unreachable", Reason::Unreachable),
            ("reject with icmpx type no-route", Reason::Unreachable),
            // ICMPv6 makes EACCES of it, which from this host's own routes would be its own fault.
            ("reject with icmpx type admin-prohibited", Reason::Unreachable),
        ];
        for (verdict, expected) in verdicts {
            peer.firewall(verdict);
            assert_eq!((reason(PEER_V4), reason(PEER_V6)), (expected, expected), "{verdict}");
        }
        peer.run("nft flush ruleset");
        for (route, expected) in [("unreachable", Reason::Unreachable), ("prohibit", Reason::Unreachable)] {
            peer.run(&format!("ip route add {route} 10.60.0.0/24 && ip -6 route add {route} fd60::/64"));
            assert_eq!((reason("10.60.0.1"), reason("fd60::1")), (expected, expected), "a router's {route} route");
            peer.run(&format!("ip route del {route} 10.60.0.0/24 && ip -6 route del {route} fd60::/64"));
        }
        for route in ["unreachable", "prohibit", "blackhole"] {
            own(&format!("ip route add {route} 10.70.0.0/24 && ip -6 route add {route} fd70::/64"));
            let found = (reason("10.70.0.1"), reason("fd70::1"));
            assert_eq!(
                found,
                (Reason::Local(LocalCause::NoRoute), Reason::Local(LocalCause::NoRoute)),
                "our own {route} route"
            );
            own(&format!("ip route del {route} 10.70.0.0/24 && ip -6 route del {route} fd70::/64"));
        }
        assert_eq!(
            (reason("192.0.2.1"), reason("2001:db8::1")),
            (Reason::Local(LocalCause::NoRoute), Reason::Local(LocalCause::NoRoute)),
            "no route of our own"
        );
    });
}

#[test]
fn a_black_hole_is_a_timeout_that_tells_how_often_was_asked() {
    in_namespace("a_black_hole_is_a_timeout_that_tells_how_often_was_asked", |peer| {
        peer.firewall("drop");
        let outcome = probe(PEER_V4);
        assert_eq!(outcome.syn_retransmits, 1);
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.detail, "no answer to the connection attempt within 1.6s, sent 2 times");
    });
}

#[test]
fn a_host_without_a_port_or_a_descriptor_left_blames_itself() {
    in_namespace("a_host_without_a_port_or_a_descriptor_left_blames_itself", |_| {
        own("sysctl -qw net.ipv4.ip_local_port_range='40000 40000'");
        let _listener = std::net::TcpListener::bind((OWN_V4, PORT)).unwrap();
        let only_port = std::net::TcpStream::connect((OWN_V4, PORT)).unwrap();
        let failure = probe(OWN_V4).result.unwrap_err();
        assert_eq!(
            (failure.reason, failure.detail.as_str()),
            (Reason::Local(LocalCause::NoRoute), "cannot assign requested address")
        );
        drop(only_port);
        let runtime = runtime();
        let files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let failure = probe_on(&runtime, OWN_V4).result.unwrap_err();
        drop(files);
        assert_eq!(
            (failure.reason, failure.detail.as_str()),
            (Reason::Local(LocalCause::Resources), "too many open files")
        );
    });
}

#[test]
fn a_connection_of_a_socket_to_itself_is_a_port_on_which_nobody_listens() {
    in_namespace("a_connection_of_a_socket_to_itself_is_a_port_on_which_nobody_listens", |_| {
        // The only local port that the kernel may choose is the one that is probed, so the socket answers its own SYN.
        own(&format!("sysctl -qw net.ipv4.ip_local_port_range='{PORT} {PORT}'"));
        let runtime = runtime();
        for ip in [OWN_V4, "127.0.0.1", "fd09::1", "::1", "::ffff:10.9.0.1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), PORT);
            let by_hand = std::net::TcpStream::connect(address).unwrap();
            assert_eq!(by_hand.local_addr().unwrap().port(), PORT, "the kernel does connect a socket to itself");
            // With a reset, so that the port is free for the probe.
            socket2::SockRef::from(&by_hand).set_linger(Some(Duration::ZERO)).unwrap();
            drop(by_hand);
            for check in [Check::Tcp, Check::Http { endpoint: "/health".into() }] {
                let target = Target { address, check };
                let failure =
                    runtime.block_on(probe::run(&target, &limits(Duration::from_secs(2)))).result.unwrap_err();
                assert_eq!(
                    (failure.reason, failure.detail.as_str()),
                    (Reason::Refused, "connected to itself: nothing listens on this port"),
                    "{target:?}"
                );
            }
        }
        // A listener on the same port is somebody else.
        own(&format!("sysctl -qw net.ipv4.ip_local_port_range='{PORT} {}'", PORT + 1));
        let _listener = std::net::TcpListener::bind((OWN_V4, PORT)).unwrap();
        assert!(probe(OWN_V4).result.is_ok());
    });
}

#[test]
fn lost_packets_show_as_syns_sent_again_in_their_proportion() {
    in_namespace("lost_packets_show_as_syns_sent_again_in_their_proportion", |peer| {
        const PROBES: u32 = 300;
        // Nobody listens there: a SYN that arrives is answered with a reset.
        peer.firewall("numgen random mod 100 < 20 drop");
        let outcomes = runtime().block_on(async {
            let address = SocketAddr::new(PEER_V4.parse().unwrap(), PORT);
            let mut probes = tokio::task::JoinSet::new();
            for _ in 0..PROBES {
                let target = Target { address, check: Check::Tcp };
                probes.spawn(async move { probe::run(&target, &limits(Duration::from_secs(10))).await });
            }
            probes.join_all().await
        });
        let first_lost = outcomes.iter().filter(|outcome| outcome.syn_retransmits > 0).count();
        let refused = outcomes
            .iter()
            .filter(|outcome| outcome.result.as_ref().is_err_and(|failure| failure.reason == Reason::Refused))
            .count();
        println!("{PROBES} probes over a fifth lost: {first_lost} with a SYN sent again, {refused} answered");
        // 60 expected, standard deviation 7.
        assert!((30..=95).contains(&first_lost), "{first_lost}");
        assert!(refused > 290, "{refused}");
    });
}
