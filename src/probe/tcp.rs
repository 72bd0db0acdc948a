//! Opening a connection, and what the kernel tells of it.
//!
//! The time of a connect by our own clock holds whatever this process was doing when the answer came; the kernel's own
//! SYN round trip does not. Both are taken. A lost SYN is told as a count, since its time says how long the kernel
//! waits before sending another, and nothing of the path.
//!
//! Also decides the kind of a failure from the system's error number. What matters is who said it, not only the number:
//! the same EACCES is this host's own `prohibit` route where connect(2) returns it at once, and a distant firewall's
//! "administratively prohibited" (ICMPv6) where the connection attempt ends with it later.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Budget, Failure, LocalCause, Outcome, Reason, Timings};
use crate::clock;

/// A connection just made, and what was measured on the way.
pub(super) struct Connected {
    pub(super) stream: TcpStream,
    /// From the start of the attempt to the moment we saw it established.
    pub(super) connect: Duration,
    /// The kernel's SYN round trip where it is sound.
    pub(super) rtt: Option<Duration>,
    pub(super) syn_retransmits: u32,
}

/// A connection that was not made.
pub(super) struct NotConnected {
    pub(super) failure: Failure,
    pub(super) syn_retransmits: u32,
    /// Where the attempt went out from, if it did.
    pub(super) source: Option<IpAddr>,
}

impl From<NotConnected> for Outcome {
    fn from(NotConnected { failure, syn_retransmits, source }: NotConnected) -> Self {
        Self { result: Err(failure), syn_retransmits, source, answered_by: None }
    }
}

/// Who found that something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReportedBy {
    /// This host's kernel, before anything was sent: a system call returned the error at once.
    ThisHost,
    /// The network or the peer, or the kernel while waiting for them.
    Network,
}

/// Connects, measures, and closes the connection in the ordinary way (FIN).
pub(super) async fn probe(address: SocketAddr, budget: &Budget) -> Outcome {
    match connect(address, budget).await {
        Ok(Connected { connect, rtt, syn_retransmits, stream: _ }) => Outcome {
            result: Ok(Timings { total: budget.spent(), connect, rtt, ..Timings::default() }),
            syn_retransmits,
            source: None,
            answered_by: None,
        },
        Err(not_connected) => not_connected.into(),
    }
}

/// Connects to `address` before the budget is spent.
pub(super) async fn connect(address: SocketAddr, budget: &Budget) -> Result<Connected, NotConnected> {
    let started = clock::monotonic();
    let stream = begin(address).map_err(|error| NotConnected {
        failure: failure(ReportedBy::ThisHost, &error),
        syn_retransmits: 0,
        source: None,
    })?;
    let established = stream.async_io(Interest::WRITABLE, || {
        let info = TcpInfo::of(&stream)?;
        if info.stage == Stage::Made {
            return Ok(info);
        }
        // A router's word can be there while the kernel still waits for the peer.
        Err(match (stream.take_error()?, info.stage) {
            (Some(error), _) => error,
            (None, Stage::Connecting) => io::ErrorKind::WouldBlock.into(),
            (None, _) => io::ErrorKind::NotConnected.into(),
        })
    });
    match tokio::time::timeout_at(budget.deadline(), established).await {
        Ok(Ok(info)) => {
            let connect = clock::monotonic() - started;
            let TcpInfo { rtt, syn_retransmits, .. } = info;
            Ok(Connected { stream, connect, rtt: valid_rtt(rtt, syn_retransmits, connect), syn_retransmits })
        }
        Ok(Err(error)) => Err(NotConnected {
            failure: failure(ReportedBy::Network, &error),
            syn_retransmits: TcpInfo::of(&stream).map_or(0, |info| info.syn_retransmits),
            source: source(&stream),
        }),
        Err(_) => {
            let syn_retransmits = TcpInfo::of(&stream).map_or(0, |info| info.syn_retransmits);
            // A router's word that came while the kernel was busy with the socket is kept back until asked for.
            let failure = match stream.take_error() {
                Ok(Some(error)) => failure(ReportedBy::Network, &error),
                _ => no_answer(budget.limit, syn_retransmits),
            };
            Err(NotConnected { failure, syn_retransmits, source: source(&stream) })
        }
    }
}

/// The address of this host that a connection goes out from.
pub(super) fn source(stream: &TcpStream) -> Option<IpAddr> {
    stream.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}

/// A socket with the connection attempt under way, known to the runtime. In this order: a socket that the runtime's
/// epoll sees before connect(2) reads as ready at once.
fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
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

/// What TCP_INFO says of a socket (tcp(7)).
#[derive(Clone, Copy)]
struct TcpInfo {
    stage: Stage,
    /// The smoothed round-trip time, which right after the handshake is the one of the SYN; zero where not measured.
    rtt: Duration,
    /// Segments sent again, which up to the end of the handshake can only be SYNs.
    syn_retransmits: u32,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The SYN is not answered yet.
    Connecting,
    /// It was made, whatever became of it since.
    Made,
    /// It was not made, or was broken off; the socket's error says why.
    Closed,
}

impl TcpInfo {
    fn of(stream: &TcpStream) -> io::Result<Self> {
        // Of the kernel's `enum` in `tcp_states.h`; the values are part of its interface (`/proc/net/tcp`).
        const SYN_SENT: u8 = 2;
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
                SYN_SENT => Stage::Connecting,
                CLOSE => Stage::Closed,
                _ => Stage::Made,
            },
            rtt: Duration::from_micros(info.tcpi_rtt.into()),
            syn_retransmits: info.tcpi_total_retrans,
        })
    }
}

/// The kernel's round-trip time, if it can be believed. With a SYN sent again it has the grain of a millisecond; so it
/// has now and then without, and then shows by being longer than all the time we waited.
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
        // No address of ours that leads there, or no port of it is left.
        libc::EADDRNOTAVAIL | libc::EPERM | libc::ENETDOWN => Reason::Local(LocalCause::NoRoute),
        // The rest: ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL and their like are this host's own lack of a route, or its
        // rules, when it says so at once: a host whose link is down blames nobody. When they come over the wire they are
        // one of the many ways in which ICMP says no.
        _ => match reported_by {
            ReportedBy::ThisHost => Reason::Local(LocalCause::NoRoute),
            ReportedBy::Network => Reason::Unreachable,
        },
    }
}

/// The system's words for an error, as a clause: `connection refused`.
fn text(error: &io::Error) -> String {
    let whole = error.to_string();
    let words = whole.split(" (os error").next().unwrap_or(&whole);
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests;
