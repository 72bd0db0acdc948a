//! Opens a connection and reads what the kernel knows of it.
//!
//! Two times are taken. The time of the connect by our own clock includes every delay of this process; the kernel's SYN round
//! trip does not. A lost SYN is reported as a count, because the time of such a connect shows how long the kernel waits before
//! it sends the SYN again, and not how long the path is.
//!
//! A connection counts as made when the handshake was complete, whatever happened to it afterwards. Proxies and load balancers
//! accept a connection and close it with a reset; whether that reset arrives before or after we look at the socket depends on
//! how busy this host is, so it must not change the result.
//!
//! This file also maps the system's error numbers to the kinds of failure. The number alone does not decide it: EACCES is this
//! host's own `prohibit` route where connect(2) returns it at once, and a distant firewall's "administratively prohibited"
//! (ICMPv6) where the connection attempt ends with it later.

use std::fs;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Budget, Failure, LocalCause, Outcome, Reason, Timings};
use crate::clock;

/// A connection whose handshake was complete, and what was measured on the way.
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    /// From the start of the attempt to the moment we saw that it was established.
    pub(super) connect: Duration,
    /// The kernel's SYN round trip where it is valid.
    pub(super) rtt: Option<Duration>,
    pub(super) syn_retransmits: u32,
    /// The error with which the peer broke off the connection before we looked, if it did.
    pub(super) broken_off: Option<io::Error>,
}

/// A connection that was not made.
pub(super) struct NotConnected {
    pub(super) failure: Failure,
    pub(super) syn_retransmits: u32,
    /// The local address of the attempt, if the kernel chose one.
    pub(super) source: Option<IpAddr>,
}

impl From<NotConnected> for Outcome {
    fn from(NotConnected { failure, syn_retransmits, source }: NotConnected) -> Self {
        Self { result: Err(failure), syn_retransmits, source, answered_by: None }
    }
}

/// Who reported that something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportedBy {
    /// This host's kernel, before anything was sent: a system call returned the error at once.
    ThisHost,
    /// The network or the peer, or the kernel while it waited for them.
    Network,
}

/// Connects, measures, and closes the connection in the ordinary way (FIN).
pub(super) async fn probe(address: SocketAddr, budget: &Budget) -> Outcome {
    match connect(address, None, budget).await {
        Ok(Connected { connect, rtt, syn_retransmits, .. }) => Outcome {
            result: Ok(Timings { total: budget.spent(), connect, rtt, ..Timings::default() }),
            syn_retransmits,
            source: None,
            answered_by: None,
        },
        Err(not_connected) => not_connected.into(),
    }
}

/// Connects to `address` before the budget is spent, with a receive buffer of so many bytes instead of the kernel's default.
pub(super) async fn connect(
    address: SocketAddr,
    receive_buffer: Option<usize>,
    budget: &Budget,
) -> Result<Connected, NotConnected> {
    let started = clock::monotonic();
    let stream = begin(address, receive_buffer).map_err(|error| NotConnected {
        failure: failure(ReportedBy::ThisHost, &error),
        syn_retransmits: 0,
        source: None,
    })?;
    let established = stream.async_io(Interest::WRITABLE, || Look::at(&stream)?.settled());
    let found = match tokio::time::timeout_at(budget.deadline(), established).await {
        Ok(found) => found,
        // The handshake may have been completed, or refused, since the runtime last asked the kernel.
        Err(_) => Look::at(&stream).and_then(Look::settled),
    };
    let connect = clock::monotonic() - started;
    let failed = |failure| NotConnected {
        failure,
        syn_retransmits: TcpInfo::of(&stream).map_or(0, |info| info.syn_retransmits),
        source: source(&stream),
    };
    match found {
        Ok(_) if leads_to_itself(&stream, address) => {
            // With a reset the port is free again at once, where an ordinary close would keep it for a minute (TIME_WAIT).
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            Err(failed(Failure {
                reason: Reason::Refused,
                detail: "connected to itself: nothing listens on this port".into(),
            }))
        }
        Ok((TcpInfo { rtt, syn_retransmits, .. }, broken_off)) => {
            let rtt = valid_rtt(rtt, syn_retransmits, connect);
            Ok(Connected { stream, connect, rtt, syn_retransmits, broken_off })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let syn_retransmits = TcpInfo::of(&stream).map_or(0, |info| info.syn_retransmits);
            Err(failed(no_answer(budget.limit, syn_retransmits)))
        }
        Err(error) => Err(failed(failure(ReportedBy::Network, &error))),
    }
}

/// The local address of a connection.
pub(super) fn source(stream: &TcpStream) -> Option<IpAddr> {
    stream.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// Whether a connection to `address` is a connection to its own socket. The kernel chooses a local port from its ephemeral
/// range. Where that is the port that we connect to, on an address of this host, and nobody listens there, the socket answers
/// its own SYN (simultaneous open, RFC 9293 section 3.5).
fn leads_to_itself(stream: &TcpStream, address: SocketAddr) -> bool {
    let same = |own: SocketAddr| own.port() == address.port() && own.ip().to_canonical() == address.ip().to_canonical();
    ephemeral_ports().contains(&address.port()) && stream.local_addr().is_ok_and(same)
}

/// The ports from which the kernel chooses local ones, as they were when first asked for (ip(7), `ip_local_port_range`).
fn ephemeral_ports() -> &'static RangeInclusive<u16> {
    static PORTS: OnceLock<RangeInclusive<u16>> = OnceLock::new();
    PORTS.get_or_init(|| {
        let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        port_range(&text).unwrap_or(32_768..=60_999)
    })
}

fn port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut bounds = text.split_whitespace().map(str::parse);
    Some(bounds.next()?.ok()?..=bounds.next()?.ok()?)
}

/// Starts a connection attempt and registers its socket with the runtime, in this order: a socket that is registered with
/// epoll before connect(2) is reported ready at once.
fn begin(address: SocketAddr, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if let Some(size) = receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    match socket.connect(&SockAddr::from(address)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    TcpStream::from_std(StdTcpStream::from(socket))
}

fn no_answer(limit: Duration, syn_retransmits: u32) -> Failure {
    let detail = match syn_retransmits {
        0 => format!("no answer to the connection attempt within {limit:?}"),
        n => format!("no answer to the connection attempt within {limit:?}, sent {} times", n + 1),
    };
    Failure { reason: Reason::Timeout, detail }
}

/// What the kernel says of a connection attempt.
struct Look {
    info: TcpInfo,
    /// The socket's pending error, which is cleared by reading it.
    error: Option<io::Error>,
}

impl Look {
    fn at(stream: &TcpStream) -> io::Result<Self> {
        let info = TcpInfo::of(stream)?;
        // An ICMP error can be there while the kernel still waits for the peer.
        let error = if info.stage == Stage::Established { None } else { stream.take_error()? };
        Ok(Self { info, error })
    }

    /// What is known of a connection that was made, with the error that broke it off; else why it was not made, where
    /// [`io::ErrorKind::WouldBlock`] means that this is not known yet.
    fn settled(self) -> io::Result<(TcpInfo, Option<io::Error>)> {
        match (self.error, self.info.stage) {
            // A reset that answers a SYN is ECONNREFUSED. These two are set by the reset of an established connection, which
            // can have been both established and reset since its stage was read.
            (Some(error), _) if matches!(error.raw_os_error(), Some(libc::ECONNRESET | libc::EPIPE)) => {
                Ok((self.info, Some(error)))
            }
            (Some(error), _) => Err(error),
            (None, Stage::Established) => Ok((self.info, None)),
            (None, Stage::Connecting) => Err(io::ErrorKind::WouldBlock.into()),
            (None, Stage::Closed) => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// What TCP_INFO says of a socket (tcp(7)). Of a closed socket it says what was so before.
#[derive(Clone, Copy)]
struct TcpInfo {
    stage: Stage,
    /// The smoothed round-trip time, which right after the handshake is that of the SYN; zero where not measured.
    rtt: Duration,
    /// Segments sent again, which until data is sent can only be SYNs.
    syn_retransmits: u32,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The handshake is not complete.
    Connecting,
    /// The handshake was complete, and neither side has reset the connection since.
    Established,
    /// The connection was not made, or it was reset; the socket's error says which.
    Closed,
}

impl TcpInfo {
    fn of(stream: &TcpStream) -> io::Result<Self> {
        // Of the kernel's `enum` in `tcp_states.h`; the values are part of its interface (`/proc/net/tcp`).
        const SYN_SENT: u8 = 2;
        const SYN_RECV: u8 = 3;
        const CLOSE: u8 = 7;

        // SAFETY: `tcp_info` is plain integers, for which all zeroes is a value; an older kernel fills in less of it.
        let mut info: libc::tcp_info = unsafe { mem::zeroed() };
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the descriptor is open while `stream` lives, and `length` is the size of the memory pointed to.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            stage: match info.tcpi_state {
                SYN_SENT | SYN_RECV => Stage::Connecting,
                CLOSE => Stage::Closed,
                _ => Stage::Established,
            },
            rtt: Duration::from_micros(info.tcpi_rtt.into()),
            syn_retransmits: info.tcpi_total_retrans,
        })
    }
}

/// The kernel's round-trip time, if it is valid. The kernel measures with a resolution of a millisecond where a SYN was sent
/// again, and sometimes otherwise too; the time is then longer than all the time we waited.
fn valid_rtt(rtt: Duration, syn_retransmits: u32, connect: Duration) -> Option<Duration> {
    (syn_retransmits == 0 && !rtt.is_zero() && rtt <= connect).then_some(rtt)
}

/// The kind of a failure from the system's error number, and its text.
pub(super) fn failure(reported_by: ReportedBy, error: &io::Error) -> Failure {
    let reason = error.raw_os_error().map_or(Reason::Local(LocalCause::Internal), |errno| reason(reported_by, errno));
    Failure { reason, detail: text(error) }
}

fn reason(reported_by: ReportedBy, errno: i32) -> Reason {
    match errno {
        libc::ECONNREFUSED => Reason::Refused,
        libc::ETIMEDOUT => Reason::Timeout,
        libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => Reason::Reset,
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::ENOSPC => {
            Reason::Local(LocalCause::Resources)
        }
        // There is no local address that fits, or no local port is free.
        libc::EADDRNOTAVAIL | libc::EPERM | libc::ENETDOWN => Reason::Local(LocalCause::NoRoute),
        // The rest, such as ENETUNREACH, EHOSTUNREACH, EACCES and EINVAL: where connect(2) returns it at once, this host has
        // no route or its own rules forbid it, which says nothing about the peer. Where it comes later, it stands for an ICMP
        // error.
        _ => match reported_by {
            ReportedBy::ThisHost => Reason::Local(LocalCause::NoRoute),
            ReportedBy::Network => Reason::Unreachable,
        },
    }
}

/// The system's text for an error, as a clause: `connection refused`.
fn text(error: &io::Error) -> String {
    let whole = error.to_string();
    let words = whole.split(" (os error").next().unwrap_or(&whole);
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests;
