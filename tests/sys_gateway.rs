//! What a host behind a router knows about its own network: which failures are its own, which are the target's.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use netring::clock::monotonic;
use netring::host::network::{Fault, Network};
use netring::host::vitals::Vitals;
use support::daemon::{Member, Registry};
use support::fabric::{Cut, Fabric, Host};
use support::metrics::Metrics;
use support::{SOON, eventually, holds};

const LIMIT: Duration = Duration::from_millis(1500);

/// How long a host of a routed fabric may take to notice that its gateway is silent.
const NOTICED: Duration = Duration::from_secs(30);

const PORT: u16 = 8757;

/// What became of one connection, and what this host says to that.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Connected,
    Failed(ErrorKind, Option<Fault>),
}

/// Connects from a host and has its failure explained.
fn probe(from: &Host, network: &Network, to: IpAddr) -> Seen {
    let started = monotonic();
    let failure = from.inside(|| TcpStream::connect_timeout(&SocketAddr::new(to, PORT), LIMIT)).err();
    failure.map_or(Seen::Connected, |e| Seen::Failed(e.kind(), fault(network, from.ip(to.is_ipv6()), to, started)))
}

fn fault(network: &Network, source: IpAddr, target: IpAddr, since: Instant) -> Option<Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(network.fault(Some(source), target, since))
}

/// What a process without privileges knows there.
fn network_of(host: &Host) -> Network {
    host.inside(|| {
        become_nobody();
        Network::start(&Vitals::new()).unwrap()
    })
}

/// Takes every privilege from the calling thread and those it starts.
fn become_nobody() {
    const NOBODY: libc::uid_t = 65534;
    // SAFETY: setresuid(2) takes three numbers. The system call itself, unlike the C library's function, changes the calling
    // thread alone, which ends with its work.
    let changed = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("CapEff:\t0000000000000000\n"), "{status}");
}

fn becomes(wanted: &Seen, what: &str, mut see: impl FnMut() -> Seen) {
    eventually(NOTICED, what, || {
        let seen = see();
        holds(seen == *wanted, seen)
    });
}

#[test]
fn a_gateway_that_falls_silent_explains_what_fails_behind_it_and_nothing_that_is_on_the_link() {
    let Some(fabric) = Fabric::routed(&["here", "neighbour"], &["there"]) else { return };
    let [here, neighbour, there] = fabric.hosts() else { panic!("three hosts") };
    let network = network_of(here);
    for v6 in [false, true] {
        let _listeners = [neighbour, there].map(|host| host.inside(|| TcpListener::bind((host.ip(v6), PORT)).unwrap()));
        let gateway = fabric.gateway(here, v6);
        let probe = |to: IpAddr| probe(here, &network, to);
        becomes(&Seen::Connected, "the router forwards", || probe(there.ip(v6)));

        // A gateway that answers: what is dead behind it is dead. The router says so by ICMP, three seconds after the SYN.
        let nobody = if v6 { "fd77:0:0:1::99" } else { "10.77.1.99" }.parse().unwrap();
        let until = monotonic() + Duration::from_secs(8);
        let mut kinds = Vec::new();
        while monotonic() < until {
            match probe(nobody) {
                Seen::Failed(kind, None) => kinds.push(kind),
                other => panic!("{other:?}"),
            }
        }
        assert!(kinds.contains(&ErrorKind::HostUnreachable), "the router's own ICMP is among them: {kinds:?}");
        fabric.cut(here, there, Cut::Drop);
        assert_eq!(probe(there.ip(v6)), Seen::Failed(ErrorKind::TimedOut, None));
        fabric.heal();

        fabric.silence_gateway(here);
        let dead = Some(Fault::DeadGateway { gateway });
        eventually(NOTICED, "the gateway is known to be silent", || match probe(there.ip(v6)) {
            Seen::Failed(_, fault) if fault == dead => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // While it lasts every failure is explained, in whatever state the kernel's entry is at its end.
        let until = monotonic() + Duration::from_secs(8);
        let mut kinds = Vec::new();
        while monotonic() < until {
            match probe(there.ip(v6)) {
                Seen::Failed(kind, fault) if fault == dead => kinds.push(kind),
                other => panic!("{other:?}"),
            }
        }
        assert!(
            kinds.contains(&ErrorKind::TimedOut) && kinds.contains(&ErrorKind::HostUnreachable),
            "both ways to fail were seen: {kinds:?}"
        );
        // The link itself is in order: who lives there is reached, and who is dead there is dead.
        assert_eq!(probe(neighbour.ip(v6)), Seen::Connected);
        let nobody = if v6 { "fd77::99" } else { "10.77.0.99" }.parse().unwrap();
        for _ in 0..4 {
            assert!(matches!(probe(nobody), Seen::Failed(_, None)));
        }

        fabric.heal();
        becomes(&Seen::Connected, "the gateway is back", || probe(there.ip(v6)));
        fabric.cut(here, there, Cut::Drop);
        becomes(&Seen::Failed(ErrorKind::TimedOut, None), "the aftermath ends", || probe(there.ip(v6)));
        fabric.heal();
    }
}

#[test]
fn a_host_without_a_route_a_carrier_or_its_address_says_so() {
    let Some(fabric) = Fabric::routed(&["here"], &["there"]) else { return };
    let [here, there] = fabric.hosts() else { panic!("two hosts") };
    let network = network_of(here);
    for v6 in [false, true] {
        let _listener = there.inside(|| TcpListener::bind((there.ip(v6), PORT)).unwrap());
        let probe = |to: IpAddr| probe(here, &network, to);
        becomes(&Seen::Connected, "the router forwards", || probe(there.ip(v6)));
        let family = if v6 { "-6" } else { "-4" };
        let target = there.ip(v6);
        let no_route = Some(Fault::NoRoute { target });
        let gateway = fabric.gateway(here, v6).to_string();

        here.run("ip", &[family, "route", "delete", "default"]);
        assert_eq!(probe(target), Seen::Failed(ErrorKind::NetworkUnreachable, no_route));
        for kind in ["unreachable", "prohibit"] {
            here.run("ip", &[family, "route", "add", kind, "default"]);
            assert!(
                matches!(probe(target), Seen::Failed(_, fault) if fault == no_route),
                "{kind}: {:?}",
                probe(target)
            );
            here.run("ip", &[family, "route", "delete", kind, "default"]);
        }
        here.run("ip", &[family, "route", "add", "default", "via", &gateway]);
        becomes(&Seen::Connected, "the route is back", || probe(target));
    }
    for v6 in [false, true] {
        let _listener = there.inside(|| TcpListener::bind((there.ip(v6), PORT)).unwrap());
        let probe = |to: IpAddr| probe(here, &network, to);
        let target = there.ip(v6);
        fabric.unplug(here);
        let address = here.ip(v6);
        for _ in 0..3 {
            let seen = probe(target);
            assert!(
                matches!(seen, Seen::Failed(_, Some(Fault::NoCarrier { address: own })) if own == address),
                "{seen:?}"
            );
        }
        fabric.heal();
        becomes(&Seen::Connected, "the carrier is back", || probe(target));
    }
    // Long enough that the carrier explains nothing any more.
    std::thread::sleep(Duration::from_secs(4));
    let own = here.ip(false);
    assert!(network.is_own(own) && network.is_own(here.ip(true)) && !network.is_own(there.ip(false)));
    here.run("ip", &["addr", "delete", &format!("{own}/24"), "dev", "eth0"]);
    let started = monotonic();
    eventually(SOON, "a lost address is noticed", || holds(!network.is_own(own), "it is own"));
    assert_eq!(fault(&network, own, there.ip(false), started), Some(Fault::NoCarrier { address: own }));
    here.run("ip", &["addr", "add", "10.77.0.77/24", "dev", "eth0"]);
    let started = monotonic();
    let new = "10.77.0.77".parse().unwrap();
    eventually(SOON, "a new address is noticed", || holds(network.is_own(new), "it is foreign"));
    assert!(monotonic() - started < Duration::from_secs(2), "within a second");
}

/// The whole member: from when the kernel knows of the silent gateway, every failure is one of this host.
fn a_member_whose_gateway_is_silent_is_unwell_and_knows_nothing_of_the_others(v6: bool) {
    let Some(fabric) = Fabric::routed(&["us1"], &["eu1", "asia1"]) else { return };
    let [us1, eu1, asia1] = fabric.hosts() else { panic!("three hosts") };
    let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let everywhere = |port| SocketAddr::new(any, port);
    let registry = Registry { server: everywhere(8756), member_ttl: 300, ..Registry::new() }.start_on(eu1);
    let found_at = SocketAddr::new(eu1.ip(v6), registry.server.port());
    let member = |host: &Host| Member { server: everywhere(PORT), ..Member::new(&host.name, found_at) }.start_on(host);
    let members = [us1, eu1, asia1].map(member);
    for member in &members {
        member.wait_for("both others are reached", |metrics| {
            let up = metrics.sum("netring_connectivity_tcp", &[]);
            holds((up - 2.0).abs() < f64::EPSILON, up)
        });
    }
    let [here, ..] = &members;

    fabric.silence_gateway(us1);
    here.wait_for_value("netring_local_health", &[], 0.0);
    here.wait_for("nothing is known of the others", |metrics| {
        let known = metrics.series("netring_connectivity_tcp", &[]);
        holds(known.is_empty(), known)
    });
    let blamed = |metrics: &Metrics| {
        let all = metrics.sum("netring_check_failures_total", &[]);
        all - metrics.sum("netring_check_failures_total", &[("reason", "local")])
    };
    let before = blamed(&here.metrics());
    here.wait_for_checks(30.0);
    let metrics = here.metrics();
    assert!((blamed(&metrics) - before).abs() < f64::EPSILON, "{}", here.log());
    let text = here.get("/health").text();
    let why = format!("the gateway {} did not answer", fabric.gateway(us1, v6));
    assert!(text.contains(r#""status":"unwell""#) && text.contains(&why), "{text}");

    fabric.heal();
    for peer in [eu1, asia1] {
        let target = [("target_location", &*peer.name)];
        here.wait_for_value("netring_connectivity_tcp", &target, 1.0);
    }
}

#[test]
fn a_member_whose_ipv4_gateway_is_silent_blames_nobody() {
    a_member_whose_gateway_is_silent_is_unwell_and_knows_nothing_of_the_others(false);
}

#[test]
fn a_member_whose_ipv6_gateway_is_silent_blames_nobody() {
    a_member_whose_gateway_is_silent_is_unwell_and_knows_nothing_of_the_others(true);
}
