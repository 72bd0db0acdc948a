//! An HTTP/1.1 GET request on a connection of its own, phase by phase.
//!
//! Every hop is a new connection. Up to [`REDIRECTS_MAX`] redirects to the same host and port are followed; a redirect to
//! another place, or one too many, is itself the answer and judged by its status. The phases are those of the last hop; the
//! total and the time limit cover all of them.
//!
//! What ends a probe early, and with which result:
//!
//! | the peer | result |
//! | --- | --- |
//! | closes before the end of the head, or before the end that the answer's own framing gives to the body | `reset` |
//! | sends something that is not HTTP, or a head of more than [`HEAD_MAX`] bytes or 100 fields | `body` |
//! | answers with a status that does not count | `status`, at once, without waiting for the body |
//! | is silent, or slow | `timeout`, at the limit |
//! | sends a body of more than [`Limits::http_body_limit`] | success: the probe reads so much and closes the connection |
//!
//! The request allows gzip, because the pages of a large ring are long, and the body is only looked into where it says who
//! answered.

mod answer;
mod answerer;
mod authority;

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::tcp::{self, Connected, NotConnected, ReportedBy};
use super::{Answerer, Budget, Failure, Limits, LocalCause, Outcome, Reason, Timings};
use crate::clock;
use answer::{AnswerError, Body, HEAD_MAX, Head};
pub(super) use authority::Authority;

/// How many redirects are followed.
const REDIRECTS_MAX: u32 = 5;

/// How many bytes a read of the head takes, and a read of the body, to which it comes with large answers only. The allocator
/// keeps freed blocks of up to 1,032 bytes at hand for each thread; larger ones cost noticeably more.
const HEAD_READ: usize = 1_000;
const BODY_READ: usize = 16 << 10;

/// How a probe names itself to the peer.
const NAME: &str = concat!("netring/", env!("CARGO_PKG_VERSION"));

/// Gets `endpoint` from `authority` at `address` before the budget is spent.
pub(super) async fn probe(
    address: SocketAddr,
    authority: &Authority,
    endpoint: &str,
    limits: &Limits,
    budget: &Budget,
) -> Outcome {
    let mut aside = Aside::default();
    let result = follow(address, authority, endpoint, limits, budget, &mut aside).await;
    let Aside { syn_retransmits, source, answered_by } = aside;
    Outcome { result, syn_retransmits, source, answered_by }
}

/// What is found beside the result of a probe: the other fields of its [`Outcome`].
#[derive(Default)]
struct Aside {
    syn_retransmits: u32,
    source: Option<IpAddr>,
    answered_by: Option<Answerer>,
}

async fn follow(
    address: SocketAddr,
    authority: &Authority,
    endpoint: &str,
    limits: &Limits,
    budget: &Budget,
    aside: &mut Aside,
) -> Result<Timings, Failure> {
    let internal = |detail| Failure { reason: Reason::Local(LocalCause::Internal), detail };
    let mut path: PathAndQuery =
        endpoint.parse().map_err(|_| internal(format!("{endpoint:?} is not a path that can be requested")))?;
    if !authority.is_valid() {
        return Err(internal(format!("\"{authority}\" is not a host that can be requested")));
    }
    let mut redirects = 0;
    loop {
        let connected = match tcp::connect(address, Some(receive_buffer(limits)), budget).await {
            Ok(connected) => connected,
            Err(NotConnected { failure, syn_retransmits, source }) => {
                aside.syn_retransmits += syn_retransmits;
                aside.source = source;
                return Err(failure);
            }
        };
        aside.syn_retransmits += connected.syn_retransmits;
        let mut hop = Hop::new(connected, limits, answerer::is_health(endpoint));
        let found = tokio::time::timeout_at(budget.deadline(), hop.go(authority, &path, redirects)).await;
        aside.answered_by = hop.answered_by.take();
        match found {
            Ok(Ok(Answer::Final(timings))) => return Ok(Timings { total: budget.spent(), ..timings }),
            Ok(Ok(Answer::Redirect(onward))) => {
                path = onward;
                redirects += 1;
            }
            Ok(Err(failure)) => {
                aside.source = tcp::source(&hop.stream);
                return Err(failure);
            }
            Err(_) => {
                aside.source = tcp::source(&hop.stream);
                return Err(hop.timeout(budget.limit));
            }
        }
    }
}

/// The end of a hop that did not fail.
enum Answer {
    /// The timings, with `total` still to be filled in.
    Final(Timings),
    /// The path to request next.
    Redirect(PathAndQuery),
}

/// One request on one connection. Its fields outlive the exchange, because the time limit cuts that off and needs to know how
/// far it came.
struct Hop<'a> {
    stream: TcpStream,
    limits: &'a Limits,
    /// Whether the body is to be kept, because it says who answered.
    keeps_body: bool,
    connect: Duration,
    rtt: Option<Duration>,
    /// The error with which the peer broke off the connection before the request was sent.
    broken_off: Option<io::Error>,
    /// The request, and then what was read last.
    buffer: Vec<u8>,
    /// When the first byte of the answer was read.
    answered: Option<Instant>,
    /// Whether the head of the answer was complete.
    has_head: bool,
    answered_by: Option<Answerer>,
}

impl<'a> Hop<'a> {
    fn new(connected: Connected, limits: &'a Limits, keeps_body: bool) -> Self {
        let Connected { stream, connect, rtt, broken_off, .. } = connected;
        let buffer = Vec::new();
        let (answered, has_head, answered_by) = (None, false, None);
        Self { stream, limits, keeps_body, connect, rtt, broken_off, buffer, answered, has_head, answered_by }
    }

    async fn go(&mut self, authority: &Authority, path: &PathAndQuery, redirects: u32) -> Result<Answer, Failure> {
        if let Some(error) = self.broken_off.take() {
            return Err(self.broken(&error));
        }
        self.buffer.reserve(HEAD_READ);
        write!(
            self.buffer,
            "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: {NAME}\r\nAccept-Encoding: gzip\r\n\
             Connection: close\r\n\r\n"
        )
        .expect("memory takes what is written");
        // Before the write, not after: a thread that is suspended in between must not make the peer look faster.
        let written = clock::monotonic();
        self.stream.write_all(&self.buffer).await.map_err(|error| self.broken(&error))?;
        let head = self.head().await?;
        self.has_head = true;
        let onward = if redirects < REDIRECTS_MAX { onward(&head, authority, path) } else { None };
        if let Some(onward) = onward {
            return Ok(Answer::Redirect(onward));
        }
        let counts = self.limits.http_ok_status.contains(head.status);
        let read = self.body(&head, counts).await;
        if !counts {
            return Err(status(head.status, redirects));
        }
        read?;
        let end = clock::monotonic();
        Ok(Answer::Final(Timings {
            total: Duration::ZERO,
            resolve: None,
            connect: self.connect,
            rtt: self.rtt,
            first_byte: self.answered.map(|answered| answered.saturating_duration_since(written)),
            transfer: self.answered.map(|answered| end.saturating_duration_since(answered)),
            status: Some(head.status),
            disturbed: false,
        }))
    }

    /// Reads until the head of the answer is complete, and leaves in the buffer what came after it.
    async fn head(&mut self) -> Result<Head, Failure> {
        self.buffer.clear();
        loop {
            let before = self.buffer.len();
            if self.read(HEAD_READ).await? == 0 {
                return Err(self.closed());
            }
            // A head that comes in many small pieces is parsed once for each of its lines, and its first line, by which what is
            // not HTTP is recognised, as early as possible.
            let mut has_news = before < 16 || self.buffer[before..].contains(&b'\n');
            while has_news {
                match Head::parse(&self.buffer).map_err(|error| answer_failure(&error))? {
                    None => has_news = false,
                    Some(head) => {
                        self.buffer.drain(..head.length);
                        if !head.is_interim() {
                            return Ok(head);
                        }
                        has_news = !self.buffer.is_empty();
                    }
                }
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(answer_failure(&AnswerError::HeadTooLarge));
            }
        }
    }

    /// Reads the body up to its end or the limit on its size; only what came with the head, unless `wait` is set.
    async fn body(&mut self, head: &Head, wait: bool) -> Result<(), Failure> {
        let limit = self.limits.http_body_limit;
        let mut body = Body::new(head.framing);
        let (mut size, mut kept) = (0_usize, Vec::new());
        let ended = loop {
            let fed = body.feed(&self.buffer, |content| {
                size = size.saturating_add(content.len());
                if self.keeps_body {
                    kept.extend_from_slice(&content[..content.len().min(limit - kept.len())]);
                }
            });
            if fed.is_err() || body.is_complete() || size >= limit || !wait {
                break fed.map_err(|error| answer_failure(&error));
            }
            self.buffer.clear();
            match self.read(BODY_READ).await {
                Ok(0) => break if body.ends_with_connection() { Ok(()) } else { Err(self.closed()) },
                Ok(_) => {}
                Err(failure) => break Err(failure),
            }
        };
        self.answered_by = if self.keeps_body { answerer::read(&kept, head.gzip, limit) } else { None };
        ended
    }

    /// Adds to the buffer what the peer sends next, at most about `size` bytes. Returns how many they were: none at the end of
    /// the connection.
    async fn read(&mut self, size: usize) -> Result<usize, Failure> {
        self.buffer.reserve(size);
        let length = self.stream.read_buf(&mut self.buffer).await.map_err(|error| self.broken(&error))?;
        if length > 0 {
            self.answered.get_or_insert_with(clock::monotonic);
        }
        Ok(length)
    }

    fn closed(&self) -> Failure {
        Failure { reason: Reason::Reset, detail: format!("connection closed {}", self.place()) }
    }

    fn broken(&self, error: &io::Error) -> Failure {
        let Failure { reason, detail } = tcp::failure(ReportedBy::Network, error);
        Failure { reason, detail: format!("{detail} {}", self.place()) }
    }

    /// How far the exchange came.
    const fn place(&self) -> &'static str {
        match (self.answered, self.has_head) {
            (None, _) => "before the answer",
            (Some(_), false) => "within the answer's head",
            (Some(_), true) => "within the answer's body",
        }
    }

    fn timeout(&self, limit: Duration) -> Failure {
        let detail = match (self.answered, self.has_head) {
            (None, _) => format!("connected, but no answer within {limit:?}"),
            (Some(_), false) => format!("the answer's head was not complete within {limit:?}"),
            (Some(_), true) => format!("the answer's body was not complete within {limit:?}"),
        };
        Failure { reason: Reason::Timeout, detail }
    }
}

/// The size of the receive buffer, in bytes, which is also the largest window that the peer is offered. Until our close reaches
/// it, a peer with a longer answer sends what fits, so this is a part of what is read: half of the limit. That costs no more
/// round trips than the slow start of the connection does.
fn receive_buffer(limits: &Limits) -> usize {
    (limits.http_body_limit / 2).clamp(4 << 10, 1 << 20)
}

/// The path that a redirect leads to, if this is one that is followed.
fn onward(head: &Head, authority: &Authority, path: &PathAndQuery) -> Option<PathAndQuery> {
    match head.status {
        301 | 302 | 303 | 307 | 308 => authority.onward(path, head.location.as_deref()?),
        _ => None,
    }
}

fn status(status: u16, redirects: u32) -> Failure {
    let detail = match redirects {
        0 => format!("status {status}"),
        1 => format!("status {status} after a redirect"),
        n => format!("status {status} after {n} redirects"),
    };
    Failure { reason: Reason::Status, detail }
}

fn answer_failure(error: &AnswerError) -> Failure {
    Failure { reason: Reason::Body, detail: error.to_string() }
}

#[cfg(test)]
mod tests;
