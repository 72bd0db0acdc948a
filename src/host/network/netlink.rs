//! The part of rtnetlink(7) that netring needs: the route to an address, the state of a neighbour, and a notice when an
//! interface or an address changes.
//!
//! None of it needs privileges. Where there is no netlink, as in some sandboxes, opening a socket fails.
//!
//! The kernel answers a request before send(2) returns, so nothing here waits for the network. A request for a neighbour may
//! block, on many kernels, while another process changes interfaces, because both take one lock (RTNL). All messages are parsed
//! with bounds checks; an invalid one is an error, never a panic.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// The length of `struct nlmsghdr` (linux/netlink.h).
const HEADER: usize = 16;

/// The length of `struct rtmsg` and of `struct ndmsg` (linux/rtnetlink.h, linux/neighbour.h).
const BODY: usize = 12;

/// The length of `struct rtattr`, and the boundary to which attributes are padded.
const ATTRIBUTE: usize = 4;

/// `RTA_VIA` (linux/rtnetlink.h): a gateway of another family than the route's. The libc crate has it for glibc alone.
const RTA_VIA: u16 = 18;

/// Room for one answer. A route has less than 500 bytes of attributes.
const ANSWER_MAX: usize = 4096;

/// How many datagrams are read while waiting for one answer.
const DATAGRAMS_MAX: usize = 16;

/// A connection to the kernel that asks.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A notice of changes, by multicast.
#[derive(Debug)]
pub(super) struct Changes(OwnedFd);

/// How packets for an address leave this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// `RTN_UNICAST`, `RTN_LOCAL`, `RTN_UNREACHABLE`, ... (rtnetlink(7)).
    pub(super) kind: u8,
    /// The gateway, where the address is not on the link itself.
    pub(super) gateway: Option<IpAddr>,
    /// The index of the interface.
    pub(super) interface: Option<u32>,
    /// The address that packets are sent from.
    pub(super) source: Option<IpAddr>,
}

/// What the kernel says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Route(Route),
    /// `NUD_REACHABLE`, `NUD_FAILED`, ... (linux/neighbour.h).
    Neighbour(u16),
    Refused(Errno),
}

impl Netlink {
    /// # Errors
    ///
    /// The host has no netlink, or no descriptor is left.
    pub(super) fn open() -> io::Result<Self> {
        let socket = open(SockFlag::empty(), 0)?;
        // The answer is there when send(2) returns. The limit is for a kernel that gives none.
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The route to `target` for packets from `source`, or from whatever source the kernel would choose.
    ///
    /// # Errors
    ///
    /// `ENETUNREACH` and its like where there is no route or this host does not have the source address, and whatever the
    /// socket meets.
    pub(super) fn route(&mut self, target: IpAddr, source: Option<IpAddr>) -> Result<Route, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        match self.ask(&route_request(self.sequence, target, source))? {
            Answer::Route(route) => Ok(route),
            Answer::Refused(errno) => Err(errno),
            Answer::Neighbour(_) => Err(Errno::EBADMSG),
        }
    }

    /// The state (`NUD_*`) of the neighbour with this address on this interface; `None` where the kernel has no entry for it.
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked for a single neighbour (before Linux 5.0), and whatever the socket meets.
    pub(super) fn neighbour(&mut self, interface: u32, address: IpAddr) -> Result<Option<u16>, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        match self.ask(&neighbour_request(self.sequence, interface, address))? {
            Answer::Neighbour(state) => Ok(Some(state)),
            Answer::Refused(Errno::ENOENT) => Ok(None),
            Answer::Refused(errno) => Err(errno),
            Answer::Route(_) => Err(Errno::EBADMSG),
        }
    }

    fn ask(&self, request: &[u8]) -> Result<Answer, Errno> {
        send(self.socket.as_raw_fd(), request, MsgFlags::empty())?;
        let mut datagram = [0; ANSWER_MAX];
        // An answer to an earlier request, which came after its time limit, is passed over.
        for _ in 0..DATAGRAMS_MAX {
            let length = recv(self.socket.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
            if let Some(answer) = answer(&datagram[..length], self.sequence) {
                return Ok(answer);
            }
        }
        Err(Errno::EBADMSG)
    }
}

impl Changes {
    /// Subscribes to changes of interfaces and of their addresses.
    ///
    /// # Errors
    ///
    /// The host has no netlink, or no descriptor is left.
    pub(super) fn open() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        Ok(Self(open(SockFlag::SOCK_NONBLOCK, groups.cast_unsigned())?))
    }

    /// Whether anything has changed since the last call. Notices that the kernel had to drop count as a change (`ENOBUFS`).
    pub(super) fn any(&self) -> bool {
        let mut changed = false;
        // Only that there is a notice matters. What is not read now is read by the next call.
        for _ in 0..1000 {
            match recv(self.0.as_raw_fd(), &mut [0; HEADER], MsgFlags::empty()) {
                Err(Errno::EAGAIN) => break,
                Ok(_) | Err(_) => changed = true,
            }
        }
        changed
    }
}

fn open(flags: SockFlag, groups: u32) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(socket)
}

fn route_request(sequence: u32, target: IpAddr, source: Option<IpAddr>) -> Vec<u8> {
    // A whole address, and no filter by table, protocol, scope or type.
    let mut body = [0; BODY];
    body[0] = family(target);
    body[1] = bits(target);
    body[2] = source.map_or(0, bits);
    let mut request = header(libc::RTM_GETROUTE, sequence, body);
    attribute(&mut request, libc::RTA_DST, target);
    if let Some(source) = source {
        attribute(&mut request, libc::RTA_SRC, source);
    }
    finish(request)
}

fn neighbour_request(sequence: u32, interface: u32, address: IpAddr) -> Vec<u8> {
    let mut body = [0; BODY];
    body[0] = family(address);
    body[4..8].copy_from_slice(&interface.to_ne_bytes());
    let mut request = header(libc::RTM_GETNEIGH, sequence, body);
    attribute(&mut request, libc::NDA_DST, address);
    finish(request)
}

/// A message up to its attributes; [`finish`] puts in its length.
fn header(kind: u16, sequence: u32, body: [u8; BODY]) -> Vec<u8> {
    let flags = u16::try_from(libc::NLM_F_REQUEST).unwrap_or_default();
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    // The port of the sender, which the kernel knows.
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, address: IpAddr) {
    let (length, octets) = match address {
        IpAddr::V4(v4) => (8_u16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (20, v6.octets().to_vec()),
    };
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(octets);
}

fn finish(mut message: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or_default();
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first message of a datagram that answers the request with this sequence number.
fn answer(mut datagram: &[u8], sequence: u32) -> Option<Answer> {
    while let Some(length) = u32_at(datagram, 0) {
        let length = usize::try_from(length).ok().filter(|length| *length >= HEADER)?;
        let message = datagram.get(..length)?;
        if u32_at(message, 8) == Some(sequence)
            && let Some(answer) = of_message(u16_at(message, 4)?, &message[HEADER..])
        {
            return Some(answer);
        }
        datagram = datagram.get(padded(length)..)?;
    }
    None
}

fn of_message(kind: u16, payload: &[u8]) -> Option<Answer> {
    /// `NLMSG_ERROR` (linux/netlink.h).
    const ERROR: u16 = 2;
    match kind {
        ERROR => {
            // Negative; zero is an acknowledgement, for which nothing here asks.
            let errno = u32_at(payload, 0)?.cast_signed().checked_neg().filter(|errno| *errno > 0)?;
            Some(Answer::Refused(Errno::from_raw(errno)))
        }
        libc::RTM_NEWNEIGH => u16_at(payload, 8).map(Answer::Neighbour),
        libc::RTM_NEWROUTE => {
            let mut route = Route { kind: *payload.get(7)?, gateway: None, interface: None, source: None };
            for (kind, value) in attributes(payload.get(BODY..)?) {
                match kind {
                    libc::RTA_GATEWAY => route.gateway = address(value),
                    // The family, two bytes, and the address.
                    RTA_VIA => route.gateway = value.get(2..).and_then(address),
                    libc::RTA_OIF => route.interface = u32_at(value, 0),
                    libc::RTA_PREFSRC => route.source = address(value),
                    _ => {}
                }
            }
            Some(Answer::Route(route))
        }
        _ => None,
    }
}

/// The attributes of a message: type and value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)?;
        let value = rest.get(ATTRIBUTE..length)?;
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn padded(length: usize) -> usize {
    length.next_multiple_of(ATTRIBUTE)
}

/// An address by its length: four bytes or sixteen.
fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into())).ok()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A message as the kernel sends it.
    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut message = header(kind, sequence, [0; BODY]);
        message.truncate(HEADER);
        message.extend(payload);
        finish(message)
    }

    fn route_message(sequence: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = vec![0; BODY];
        payload[7] = libc::RTN_UNICAST;
        for (kind, value) in attributes {
            payload.extend(u16::try_from(value.len() + ATTRIBUTE).unwrap().to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(*value);
            payload.resize(padded(payload.len()), 0);
        }
        message(libc::RTM_NEWROUTE, sequence, &payload)
    }

    #[test]
    fn the_kernel_tells_the_route_to_loopback_without_a_gateway() {
        let mut netlink = Netlink::open().unwrap();
        for own in ["127.0.0.1", "127.8.7.6", "::1"] {
            let route = netlink.route(ip(own), None).unwrap();
            assert_eq!((route.kind, route.gateway), (libc::RTN_LOCAL, None), "{own}");
            assert!(route.interface.is_some(), "{own}: {route:?}");
        }
        assert!(netlink.route(ip("127.0.0.1"), Some(ip("192.0.2.1"))).is_err(), "not an own address");
    }

    #[test]
    fn a_neighbour_that_the_kernel_does_not_know_is_none() {
        assert_eq!(Netlink::open().unwrap().neighbour(1, ip("192.0.2.1")), Ok(None));
    }

    #[test]
    fn a_route_gives_its_gateway_of_either_family_its_interface_and_its_source() {
        let via = [&[10, 0][..], &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
        for (kind, value, gateway) in
            [(libc::RTA_GATEWAY, &[10, 0, 0, 254][..], "10.0.0.254"), (RTA_VIA, &via, "fe80::1")]
        {
            let datagram = route_message(
                7,
                &[
                    (99, &[1, 2, 3]),
                    (kind, value),
                    (libc::RTA_OIF, &4_u32.to_ne_bytes()),
                    (libc::RTA_PREFSRC, &[10, 0, 0, 1]),
                ],
            );
            let route = Route {
                kind: libc::RTN_UNICAST,
                gateway: Some(ip(gateway)),
                interface: Some(4),
                source: Some(ip("10.0.0.1")),
            };
            assert_eq!(answer(&datagram, 7), Some(Answer::Route(route)));
        }
    }

    #[test]
    fn an_error_of_the_kernel_is_a_refusal_and_an_acknowledgement_is_no_answer() {
        let error = |errno: i32| message(2, 7, &[&errno.wrapping_neg().to_ne_bytes()[..], &[0; HEADER]].concat());
        assert_eq!(answer(&error(libc::ENETUNREACH), 7), Some(Answer::Refused(Errno::ENETUNREACH)));
        assert_eq!(answer(&error(0), 7), None);
        assert_eq!(answer(&error(i32::MIN), 7), None);
    }

    #[test]
    fn what_answers_another_request_is_passed_over() {
        let mut payload = [0; BODY];
        payload[8..10].copy_from_slice(&libc::NUD_FAILED.to_ne_bytes());
        let late = message(libc::RTM_NEWNEIGH, 6, &[0; BODY]);
        let datagram = [late, message(libc::RTM_NEWNEIGH, 7, &payload)].concat();
        assert_eq!(answer(&datagram, 7), Some(Answer::Neighbour(libc::NUD_FAILED)));
        assert_eq!(answer(&datagram, 8), None);
    }

    #[test]
    fn a_datagram_that_is_cut_short_or_says_wrong_lengths_is_no_answer_or_one_with_less_in_it() {
        let whole = route_message(7, &[(libc::RTA_OIF, &4_u32.to_ne_bytes()), (libc::RTA_GATEWAY, &[10, 0, 0, 254])]);
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length], 7), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 15, 16, 17, 0x7f, 0xff] {
                let mut spoilt = whole.clone();
                spoilt[at] = value;
                let _ = answer(&spoilt, 7);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_datagram_makes_the_parser_panic(datagram: Vec<u8>, sequence: u32) {
            let _ = answer(&datagram, sequence);
        }
    }

    #[test]
    fn a_host_at_rest_reports_no_changes() {
        let changes = Changes::open().unwrap();
        // Other tests may change the interfaces of this host.
        assert!((0..100).any(|_| !changes.any()));
    }
}
