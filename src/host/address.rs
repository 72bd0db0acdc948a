//! Which address of this host others see.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The address this host sends from when it sends to `destination`, as its routing table says at this moment. Nothing is
/// sent: connecting a UDP socket only looks up the route (udp(7)).
///
/// # Errors
///
/// There is no route, or the host lacks that address family.
pub fn towards(destination: SocketAddr) -> io::Result<IpAddr> {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(destination)?;
    Ok(socket.local_addr()?.ip())
}

/// PLACEHOLDER
#[must_use]
pub fn sources(addresses: &[SocketAddr]) -> Vec<IpAddr> {
    addresses.iter().filter_map(|a| towards(*a).ok()).collect()
}

/// PLACEHOLDER
#[must_use]
pub fn reachable(addresses: &[SocketAddr], limit: std::time::Duration) -> Option<(SocketAddr, IpAddr)> {
    addresses.iter().find_map(|a| {
        let s = std::net::TcpStream::connect_timeout(a, limit).ok()?;
        Some((*a, s.local_addr().ok()?.ip()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_an_own_address_starts_at_that_address() {
        for own in ["127.0.0.1", "127.8.7.6", "::1"] {
            let own: IpAddr = own.parse().unwrap();
            let source = towards(SocketAddr::new(own, 8756)).unwrap();
            assert!(source.is_loopback() && source.is_ipv4() == own.is_ipv4(), "{own}: {source}");
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_an_ipv4_address() {
        assert!(towards("[::ffff:127.0.0.1]:8756".parse().unwrap()).unwrap().is_ipv4());
    }

    #[test]
    fn a_destination_that_cannot_be_sent_to_is_an_error() {
        assert!(towards("255.255.255.255:8756".parse().unwrap()).is_err());
    }
}
