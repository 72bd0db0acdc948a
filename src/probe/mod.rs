//! One measurement: a TCP connect or an HTTP GET, with the time of each phase.
//!
//! A probe opens a connection of its own, measures, and closes it. It never retries, never logs and never looks at any
//! other probe. What it says is an [`Outcome`]: timings, or a failure of a fixed kind.

pub mod schedule;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The kind of a probe, as the metric label `check_type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CheckType {
    /// A TCP connection is opened and closed.
    Tcp,
    /// An HTTP/1.1 GET on a fresh connection.
    Http,
}

impl CheckType {
    /// The value of the label `check_type`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        }
    }
}

/// What a probe aims at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// What to do there.
    pub check: Check,
}

/// What to do at the address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Check {
    /// Connect.
    Tcp,
    /// Get this path (with its query), such as `/health`.
    Http {
        /// The request target, starting with a slash.
        endpoint: Arc<str>,
    },
}

impl Check {
    /// Its kind.
    #[must_use]
    pub const fn check_type(&self) -> CheckType {
        match self {
            Self::Tcp => CheckType::Tcp,
            Self::Http { .. } => CheckType::Http,
        }
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Timings, or why there are none.
    pub result: Result<Timings, Failure>,
    /// SYN segments the kernel had to send again, where it told (TCP_INFO `tcpi_total_retrans`, tcp(7)).
    pub syn_retransmits: u32,
}

/// How long a successful probe took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From the start of the probe to its end.
    pub total: Duration,
    /// Name to address; absent where the target is an address.
    pub resolve: Option<Duration>,
    /// SYN to established, by our own clock.
    pub connect: Duration,
    /// The kernel's own SYN round trip (TCP_INFO `tcpi_rtt`), where it is sound: no SYN was sent again and the kernel
    /// measured it to the microsecond.
    pub rtt: Option<Duration>,
    /// HTTP: request written to first byte of the answer's head, of the last answer where there were redirects.
    pub first_byte: Option<Duration>,
    /// HTTP: head to end of the body (or to the cap on its size).
    pub transfer: Option<Duration>,
    /// HTTP: the status of the last answer.
    pub status: Option<u16>,
}

/// Why a probe failed: the kind that metrics count, and the detail for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The fixed kind.
    pub reason: Reason,
    /// One clause for people: `connection refused`, `status 503`.
    pub detail: String,
}

/// The kinds of failure, as the metric label `reason` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The name has no address.
    Resolve,
    /// The peer's host answered that nobody listens (RST to the SYN).
    Refused,
    /// No answer within the time limit.
    Timeout,
    /// A router or host said that there is no way (ICMP), or there is no route.
    Unreachable,
    /// The connection was made and then broken off.
    Reset,
    /// The TLS handshake failed.
    Tls,
    /// The answer's status does not count as connected.
    Status,
    /// The answer was no HTTP.
    Body,
    /// This host could not even try (no descriptors, no local port, not permitted): says nothing about the peer.
    Local,
}

impl Reason {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Resolve,
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Reset,
        Self::Tls,
        Self::Status,
        Self::Body,
        Self::Local,
    ];

    /// The value of the label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Tls => "tls",
            Self::Status => "status",
            Self::Body => "body",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
