//! One measurement: a TCP connect or an HTTP GET, with the time of each phase.
//!
//! A probe opens a connection of its own, measures, and closes it. It never retries, never logs and does not depend on any
//! other probe. Its result is an [`Outcome`]: timings, or a failure of a fixed kind. A probe ends at its time limit at the
//! latest, and holds no more than about 200 KiB, whatever a peer sends.
//!
//! [`run`] measures a target with an address and needs a tokio runtime with I/O and time; a member's prober calls it.
//! [`run_by_name`] looks a name up first; the command line calls it. [`schedule`] decides when each target is probed and knows
//! nothing of sockets.

pub mod schedule;
pub mod stats;

mod http;
mod status;
mod tcp;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::wire::{InstanceId, Location};
use http::Authority;

/// How much of the body of an HTTP answer is read unless set otherwise, in bytes.
pub const HTTP_BODY_LIMIT: usize = 16 << 10;

pub use status::{InvalidStatus, StatusRanges};

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
    /// SYN segments that the kernel sent again (TCP_INFO `tcpi_total_retrans`, tcp(7)).
    pub syn_retransmits: u32,
    /// The local address of a probe that failed, where the kernel had chosen one: whoever judges the failure can look whether
    /// the interface with that address still has a network.
    pub source: Option<IpAddr>,
    /// Who answered, where the answer to a request for `/health` says it.
    pub answered_by: Option<Answerer>,
}

impl Outcome {
    /// The outcome of a probe that failed before anything was sent.
    #[must_use]
    pub const fn failed(failure: Failure) -> Self {
        Self { result: Err(failure), syn_retransmits: 0, source: None, answered_by: None }
    }
}

/// Who answered a request for `/health`, as the answer says it. A program that gives neither is no [`Answerer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answerer {
    /// Its location, where it gives a valid one.
    pub location: Option<Location>,
    /// Its identity, where it gives a valid one.
    pub instance_id: Option<InstanceId>,
}

/// How long a successful probe took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From the start of the probe to its end.
    pub total: Duration,
    /// Name to address; absent where the target is an address.
    pub resolve: Option<Duration>,
    /// From the start of the connection attempt to the moment we saw it established, by our own clock; of the last
    /// connection where there were redirects.
    pub connect: Duration,
    /// The kernel's own SYN round trip (TCP_INFO `tcpi_rtt`), where it is valid: no SYN was sent again, and the kernel measured
    /// it to the microsecond. What it measures to the millisecond only can be longer than all the time we waited.
    pub rtt: Option<Duration>,
    /// HTTP: request written to first byte of the answer's head, of the last answer where there were redirects.
    pub first_byte: Option<Duration>,
    /// HTTP: first byte of the answer to the end of its body, or to the limit on its size.
    pub transfer: Option<Duration>,
    /// HTTP: the status of the last answer.
    pub status: Option<u16>,
    /// Whether this process was stalled for so long meanwhile that all times but the kernel's are too long. The peer did answer.
    /// A probe cannot know this itself: whoever runs many of them sets it.
    pub disturbed: bool,
}

impl Timings {
    /// What this process added to the time of the connection: ours less the kernel's, where that is known. It contains the time
    /// until the answer was noticed, and so shows how busy this host is.
    #[must_use]
    pub fn overhead(&self) -> Option<Duration> {
        self.rtt.map(|rtt| self.connect.saturating_sub(rtt))
    }
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
    /// The kernel has no route: a router or firewall sent an ICMP error, or nobody answers for the next hop.
    Unreachable,
    /// The connection was made and then broken off before the answer was complete.
    Reset,
    /// The TLS handshake failed.
    Tls,
    /// The answer's status does not count as connected.
    Status,
    /// The answer was not HTTP.
    Body,
    /// Somebody else answered at this address. Set by whoever knows who was expected there: a probe does not.
    Identity,
    /// This host could not make the probe, or disturbed it. The result says nothing about the peer.
    Local(LocalCause),
}

/// How this host caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LocalCause {
    /// The host ran out of file descriptors, memory or buffers.
    Resources,
    /// The host has no route to the peer, no link, no local address or port, or its own firewall rejected the packet.
    NoRoute,
    /// The process was stalled while the probe ran.
    Stalled,
    /// Nothing outside this host answered at that time: its own connection to the network is the likelier cause.
    Isolated,
    /// The target cannot be probed at all, or netring has a bug.
    Internal,
}

impl Reason {
    /// The values of the label `reason`, in the order of the kinds.
    pub const LABELS: [&str; 10] =
        ["resolve", "refused", "timeout", "unreachable", "reset", "tls", "status", "body", "identity", "local"];

    /// The place of its label in [`Reason::LABELS`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Resolve => 0,
            Self::Refused => 1,
            Self::Timeout => 2,
            Self::Unreachable => 3,
            Self::Reset => 4,
            Self::Tls => 5,
            Self::Status => 6,
            Self::Body => 7,
            Self::Identity => 8,
            Self::Local(_) => 9,
        }
    }

    /// The value of the label `reason`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        Self::LABELS[self.index()]
    }

    /// Whether it says nothing about the peer.
    #[must_use]
    pub const fn is_local(self) -> bool {
        matches!(self, Self::Local(_))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What every probe is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time limit of one TCP probe.
    pub tcp_timeout: Duration,
    /// Time limit of one HTTP probe, all phases and redirects together.
    pub http_timeout: Duration,
    /// The answers that count as connected.
    pub http_ok_status: StatusRanges,
    /// How much of the body of an HTTP answer is read, in bytes. A longer body counts as answered when this much has come.
    pub http_body_limit: usize,
}

impl Limits {
    /// The time limit of one probe of this kind.
    #[must_use]
    pub const fn timeout(&self, check_type: CheckType) -> Duration {
        match check_type {
            CheckType::Tcp => self.tcp_timeout,
            CheckType::Http => self.http_timeout,
        }
    }
}

/// Probes `target` once. Dropping the future breaks the probe off and closes its connection.
pub async fn run(target: &Target, limits: &Limits) -> Outcome {
    let budget = Budget::new(limits.timeout(target.check.check_type()));
    match &target.check {
        Check::Tcp => tcp::probe(target.address, &budget).await,
        Check::Http { endpoint } => {
            let authority = Authority::from(target.address);
            // In a box of its own, so that the many TCP probes in flight need not each have room for an HTTP one, which
            // is several times as large.
            Box::pin(http::probe(target.address, &authority, endpoint, limits, &budget)).await
        }
    }
}

/// Probes `host` (a name, or an address without brackets) at `port` once: the name is looked up by the system's
/// resolver and its first address probed, all within the one time limit. Says also which address that was.
///
/// A lookup that hangs keeps a thread of the runtime's blocking pool until the resolver gives up, so a program that
/// ends soon after shuts its runtime down in the background.
pub async fn run_by_name(host: &str, port: u16, check: &Check, limits: &Limits) -> (Option<SocketAddr>, Outcome) {
    let budget = Budget::new(limits.timeout(check.check_type()));
    let (address, resolve) = match host.parse::<IpAddr>() {
        Ok(ip) => (SocketAddr::new(ip, port), None),
        Err(_) => match resolve(host, port, &budget).await {
            Ok(address) => (address, Some(budget.spent())),
            Err(failure) => return (None, Outcome::failed(failure)),
        },
    };
    let mut outcome = match check {
        Check::Tcp => tcp::probe(address, &budget).await,
        Check::Http { endpoint } => http::probe(address, &Authority::new(host, port), endpoint, limits, &budget).await,
    };
    if let Ok(timings) = &mut outcome.result {
        timings.resolve = resolve;
    }
    (Some(address), outcome)
}

async fn resolve(host: &str, port: u16, budget: &Budget) -> Result<SocketAddr, Failure> {
    let failure = |detail| Err(Failure { reason: Reason::Resolve, detail });
    match tokio::time::timeout_at(budget.deadline(), tokio::net::lookup_host((host, port))).await {
        Err(_) => failure(format!("the name was not resolved within {:?}", budget.limit)),
        Ok(Err(error)) => failure(error.to_string()),
        Ok(Ok(mut addresses)) => match addresses.next() {
            Some(address) => Ok(address),
            None => failure("the name has no address".into()),
        },
    }
}

/// The time that one probe may take in all, counted from when this was made.
struct Budget {
    started: Instant,
    limit: Duration,
}

impl Budget {
    fn new(limit: Duration) -> Self {
        Self { started: clock::monotonic(), limit }
    }

    fn deadline(&self) -> tokio::time::Instant {
        (self.started + self.limit).into()
    }

    fn spent(&self) -> Duration {
        clock::monotonic() - self.started
    }
}

#[cfg(test)]
pub(crate) mod blackhole;
