//! Which address of this host others see.
//!
//! Where the host has temporary IPv6 addresses (RFC 8981), which change every day, a stable one is preferred for everything
//! here (`IPV6_ADDR_PREFERENCES`, RFC 5014): the address is registered and read by people.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// How long one address has before the next is tried as well (RFC 8305, section 5).
const NEXT_AFTER: Duration = Duration::from_millis(250);

/// How many addresses are tried.
const ADDRESSES_MAX: usize = 16;

/// The address this host sends from when it sends to `destination`, by its routing table as it is now. Nothing is
/// sent: connecting a UDP socket only looks up the route (udp(7)).
///
/// # Errors
///
/// There is no route, or the host lacks that address family.
pub fn towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let destination = canonical(destination);
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    prefer_stable(&socket, destination);
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

/// The addresses this host sends from towards each of these destinations, in their order and each once. Destinations without a
/// route are passed over.
#[must_use]
pub fn sources(destinations: &[SocketAddr]) -> Vec<IpAddr> {
    let mut sources = Vec::new();
    for source in destinations.iter().filter_map(|destination| towards(*destination).ok()) {
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}

/// Which of these addresses of a server takes a TCP connection, and from which own address it is reached.
///
/// They are tried in their order. The next is tried as soon as one fails, or after 250 ms beside those that have not answered
/// yet; the first that connects wins, and its connection is closed at once. `None` where none connects within `limit`. At most
/// 16 are tried. This waits, and must not be called from a thread that runs asynchronous tasks.
#[must_use]
pub fn reachable(addresses: &[SocketAddr], limit: Duration) -> Option<(SocketAddr, IpAddr)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().ok()?;
    runtime.block_on(async { tokio::time::timeout(limit, first_to_connect(addresses)).await.ok()? })
}

async fn first_to_connect(addresses: &[SocketAddr]) -> Option<(SocketAddr, IpAddr)> {
    let mut attempts = JoinSet::new();
    for address in addresses.iter().take(ADDRESSES_MAX).copied() {
        attempts.spawn(async move { Some((address, connect(canonical(address)).await.ok()?)) });
        // This one ends, an earlier one ends, or it is the next one's turn.
        if let Ok(Some(Ok(Some(reached)))) = tokio::time::timeout(NEXT_AFTER, attempts.join_next()).await {
            return Some(reached);
        }
    }
    while let Some(ended) = attempts.join_next().await {
        if let Ok(Some(reached)) = ended {
            return Some(reached);
        }
    }
    None
}

/// Connects, and says from which address.
async fn connect(address: SocketAddr) -> io::Result<IpAddr> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prefer_stable(&socket, address);
    Ok(socket.connect(address).await?.local_addr()?.ip())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        // An IPv6 address may have a zone, which stays.
        IpAddr::V6(_) => address,
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
    }
}

/// Has the socket prefer a stable source address to a temporary one. A kernel that cannot goes on as it would.
fn prefer_stable(socket: &impl AsRawFd, destination: SocketAddr) {
    /// Linux, `linux/in6.h`.
    const IPV6_ADDR_PREFERENCES: libc::c_int = 72;
    static IPV6_PREFER_SRC_PUBLIC: libc::c_int = 0x0002;
    if destination.is_ipv4() {
        return;
    }
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    // SAFETY: setsockopt(2) reads `length` bytes of a static value, and the descriptor is open while it is borrowed.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            IPV6_ADDR_PREFERENCES,
            (&raw const IPV6_PREFER_SRC_PUBLIC).cast(),
            length,
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::clock;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn the_way_to_an_own_address_starts_at_that_address() {
        for own in ["127.0.0.1", "127.8.7.6", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            let source = towards(SocketAddr::new(own, 8756)).unwrap();
            assert!(source.is_loopback() && source.is_ipv4() == own.is_ipv4(), "{own}: {source}");
        }
    }

    #[test]
    fn an_ipv4_address_mapped_to_ipv6_is_an_ipv4_address() {
        assert!(towards("[::ffff:127.0.0.1]:8756".parse().unwrap()).unwrap().is_ipv4());
    }

    #[test]
    fn a_destination_that_cannot_be_sent_to_is_an_error() {
        assert!(towards("255.255.255.255:8756".parse().unwrap()).is_err());
    }

    #[test]
    fn each_source_is_named_once_and_a_destination_without_a_route_has_none() {
        let destinations =
            ["127.0.0.1:1", "255.255.255.255:1", "[::1]:1", "127.0.0.1:2"].map(|text| text.parse().unwrap());
        assert_eq!(sources(&destinations), ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let good = listener.local_addr().unwrap();
        // Bound and not listening.
        let closed = TcpSocket::new_v6().unwrap();
        closed.bind((Ipv6Addr::LOCALHOST, 0).into()).unwrap();
        let refusing = closed.local_addr().unwrap();
        let start = clock::monotonic();
        assert_eq!(reachable(&[refusing, good], LIMIT), Some((good, Ipv4Addr::LOCALHOST.into())));
        assert!(clock::monotonic() - start < NEXT_AFTER, "nothing was waited for");
        assert_eq!(reachable(&[refusing], LIMIT), None);
        assert_eq!(reachable(&[], LIMIT), None);
    }
}
