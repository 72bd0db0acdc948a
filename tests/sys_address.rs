//! Which address a host with several finds for itself.

#![expect(clippy::unwrap_used, reason = "a test ends where what it needs fails")]

pub mod support;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use netring::clock::monotonic;
use netring::host::address;
use support::fabric::{Cut, Fabric, Host};
use support::{SOON, eventually, holds};

const PORT: u16 = 8756;

/// The addresses of `eth0` that `ip` lists as temporary.
fn temporary(host: &Host) -> Vec<IpAddr> {
    let output = host.command("ip").args(["-6", "-o", "addr", "show", "dev", "eth0", "temporary"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let address = |line: &str| line.split_whitespace().nth(3)?.split('/').next()?.parse().ok();
    text.lines().filter_map(address).collect()
}

#[test]
fn a_stable_ipv6_address_is_preferred_to_a_temporary_one() {
    let Some(fabric) = Fabric::new(&["here", "there"]) else { return };
    let [here, there] = fabric.hosts() else { panic!("two hosts") };
    here.set("ipv6/conf/eth0/use_tempaddr", "2");
    here.run("ip", &["addr", "add", "fd77::1234:5678:9abc:def0/64", "dev", "eth0", "mngtmpaddr", "nodad"]);
    let server = SocketAddr::new(there.ip(true), PORT);
    let by_default = || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.local_addr().unwrap().ip()
    };
    let found = eventually(SOON, "the kernel prefers a temporary address", || {
        let (found, temporary) = (here.inside(by_default), temporary(here));
        holds(temporary.contains(&found), (found, &temporary)).map(|()| found)
    });

    let own = here.inside(|| address::towards(server)).unwrap();
    assert!(!temporary(here).contains(&own) && own != found && own.is_ipv6(), "{own}");
    let _listener = there.inside(|| TcpListener::bind(server).unwrap());
    let reached = here.inside(|| address::reachable(&[server], SOON));
    assert_eq!(reached, Some((server, own)), "by TCP as well");
}

#[test]
fn a_server_with_a_dead_ipv6_address_is_reached_by_ipv4_after_a_quarter_of_a_second() {
    let Some(fabric) = Fabric::new(&["here", "there"]) else { return };
    let [here, there] = fabric.hosts() else { panic!("two hosts") };
    let addresses = [true, false].map(|v6| SocketAddr::new(there.ip(v6), PORT));
    let [by_v6, by_v4] = addresses;
    let _listeners = addresses.map(|address| there.inside(|| TcpListener::bind(address).unwrap()));
    let reachable = |limit| here.inside(|| address::reachable(&addresses, limit));
    eventually(SOON, "the new network carries", || {
        let reached = reachable(SOON);
        holds(reached == Some((by_v6, here.ip(true))), reached)
    });
    there.run("ip", &["addr", "delete", &format!("{}/64", there.v6), "dev", "eth0"]);
    let start = monotonic();
    assert_eq!(reachable(SOON), Some((by_v4, here.ip(false))));
    let took = monotonic() - start;
    assert!((Duration::from_millis(250)..Duration::from_secs(1)).contains(&took), "{took:?}");
    // The route says nothing of that.
    let both = here.inside(|| address::sources(&addresses));
    assert_eq!(both, [here.ip(true), here.ip(false)]);

    fabric.cut(here, there, Cut::Drop);
    let limit = Duration::from_secs(1);
    let start = monotonic();
    assert_eq!(reachable(limit), None);
    let took = monotonic() - start;
    assert!(took < limit * 2, "{took:?}");
}
