//! An HTTP/1.1 GET on a connection of its own, phase by phase.
//!
//! Every hop is a fresh connection. Up to [`REDIRECTS_MAX`] redirects to the same host and port are followed; a redirect
//! to elsewhere, or one too many, is itself the answer and judged by its status. The phases are of the last hop; the total
//! and the time limit span all of them.
//!
//! What ends a probe early, and as what:
//!
//! | the peer | kind |
//! | --- | --- |
//! | closes before the end of the head, or before the end that the answer's own framing gives to the body | `reset` |
//! | sends something that is no HTTP, or a head of more than [`HEAD_MAX`] or 100 fields | `body` |
//! | answers with a status that does not count | `status`, at once, whatever its body does |
//! | is silent, or slow | `timeout`, at the limit |
//! | sends a body of more than [`BODY_MAX`] | none: it is read up to there and counts as answered |

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, LOCATION, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::tcp::{self, Connected, NotConnected, ReportedBy};
use super::{Budget, Failure, LocalCause, Outcome, Reason, StatusRanges, Timings};
use crate::clock;

/// How many redirects are followed.
const REDIRECTS_MAX: u32 = 5;

/// How much of a body is read, in bytes.
const BODY_MAX: usize = 1 << 20;

/// The size, in bytes, at which the head of an answer is given up if it is not complete. hyper looks after each read, so
/// a longer one may pass if its end comes with the same read; twice this is the most that is ever buffered.
const HEAD_MAX: usize = 64 << 10;

/// How a probe names itself to the peer.
const NAME: &str = concat!("netring/", env!("CARGO_PKG_VERSION"));

/// Gets `endpoint` from `site` at `address` before the budget is spent.
pub(super) async fn probe(
    address: SocketAddr,
    site: &Site,
    endpoint: &str,
    ok_status: &StatusRanges,
    budget: &Budget,
) -> Outcome {
    let mut outcome = Outcome { result: Ok(Timings::default()), syn_retransmits: 0, source: None, answered_by: None };
    outcome.result = follow(address, site, endpoint, ok_status, budget, &mut outcome).await;
    outcome
}

async fn follow(
    address: SocketAddr,
    site: &Site,
    endpoint: &str,
    ok_status: &StatusRanges,
    budget: &Budget,
    so_far: &mut Outcome,
) -> Result<Timings, Failure> {
    let mut path: PathAndQuery = endpoint.parse().map_err(|_| Failure {
        reason: Reason::Local(LocalCause::Internal),
        detail: format!("{endpoint:?} is no path that can be asked for"),
    })?;
    let mut redirects = 0;
    loop {
        let connected = match tcp::connect(address, budget).await {
            Ok(connected) => connected,
            Err(NotConnected { failure, syn_retransmits, source }) => {
                so_far.syn_retransmits += syn_retransmits;
                so_far.source = source;
                return Err(failure);
            }
        };
        so_far.syn_retransmits += connected.syn_retransmits;
        so_far.source = tcp::source(&connected.stream);
        if let Some(error) = &connected.broken_off {
            let Failure { reason, detail } = tcp::failure(ReportedBy::Network, error);
            return Err(Failure { reason, detail: format!("{detail} before the answer") });
        }
        let hop = Hop { site, path: &path, ok_status, redirects, marks: Marks::default() };
        match tokio::time::timeout_at(budget.deadline(), hop.go(connected)).await {
            Ok(Ok(Answer::Final(timings))) => return Ok(Timings { total: budget.spent(), ..timings }),
            Ok(Ok(Answer::Redirect(onward))) => {
                path = onward;
                redirects += 1;
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Err(hop.marks.timeout(budget.limit)),
        }
    }
}

/// What one hop ends in, if it does not fail.
enum Answer {
    /// The timings, with `total` still to be filled in.
    Final(Timings),
    /// The path to ask for next.
    Redirect(PathAndQuery),
}

/// One request on one connection.
struct Hop<'a> {
    site: &'a Site,
    path: &'a PathAndQuery,
    ok_status: &'a StatusRanges,
    /// How many redirects were followed before.
    redirects: u32,
    marks: Marks,
}

/// The moments of one exchange, set once each as they pass. Not a return value, because a time limit cuts the exchange
/// off and still wants to know how far it came.
#[derive(Default)]
struct Marks {
    /// The request is handed to the kernel.
    written: OnceLock<Instant>,
    /// The first byte of the answer was read.
    answered: OnceLock<Instant>,
    /// The head of the answer was complete.
    head: OnceLock<Instant>,
}

impl Hop<'_> {
    async fn go(&self, connected: Connected) -> Result<Answer, Failure> {
        let Connected { stream, connect, rtt, .. } = connected;
        let request = self.request()?;
        let io = TokioIo::new(Tap { stream, marks: &self.marks });
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(io)
            .await
            .map_err(|error| self.failure(&error, None))?;
        let mut exchange = pin!(async move {
            let response = sender.send_request(request).await?;
            let _ = self.marks.head.set(clock::monotonic());
            let answer = match self.onward(&response) {
                Some(path) => Ok(Answer::Redirect(path)),
                None => match self.judge(response.status()) {
                    Ok(()) => Ok(Answer::Final(self.read(response, connect, rtt).await?)),
                    Err(failure) => Err(failure),
                },
            };
            Ok(answer)
        });
        // The connection is driven here and not in a task of its own, so that nothing outlives a probe that is dropped.
        let mut connection = pin!(connection);
        let (answer, ended) = tokio::select! {
            biased;
            answer = &mut exchange => (answer, None),
            ended = &mut connection => (exchange.await, ended.err()),
        };
        answer.unwrap_or_else(|error: hyper::Error| Err(self.failure(&error, ended.as_ref())))
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, Failure> {
        Request::get(self.path.as_str())
            .header(HOST, self.site.to_string())
            .header(USER_AGENT, HeaderValue::from_static(NAME))
            .header(CONNECTION, HeaderValue::from_static("close"))
            .body(Empty::new())
            .map_err(|_| Failure {
                reason: Reason::Local(LocalCause::Internal),
                detail: format!("{:?} is no host that can be asked", self.site.host),
            })
    }

    /// Where the answer sends us on, if that is followed.
    fn onward(&self, response: &Response<Incoming>) -> Option<PathAndQuery> {
        let redirect = matches!(
            response.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        if !redirect || self.redirects == REDIRECTS_MAX {
            return None;
        }
        self.site.onward(self.path, response.headers().get(LOCATION)?.to_str().ok()?)
    }

    fn judge(&self, status: StatusCode) -> Result<(), Failure> {
        if self.ok_status.contains(status.as_u16()) {
            return Ok(());
        }
        let detail = match self.redirects {
            0 => format!("status {}", status.as_u16()),
            1 => format!("status {} after a redirect", status.as_u16()),
            n => format!("status {} after {n} redirects", status.as_u16()),
        };
        Err(Failure { reason: Reason::Status, detail })
    }

    async fn read(
        &self,
        response: Response<Incoming>,
        connect: Duration,
        rtt: Option<Duration>,
    ) -> Result<Timings, hyper::Error> {
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut size = 0;
        while let Some(frame) = body.frame().await {
            size += frame?.data_ref().map_or(0, Bytes::len);
            if size > BODY_MAX {
                break;
            }
        }
        let end = clock::monotonic();
        let (written, answered) = (self.marks.written.get(), self.marks.answered.get());
        Ok(Timings {
            total: Duration::ZERO,
            resolve: None,
            connect,
            rtt,
            first_byte: written.zip(answered).map(|(written, answered)| answered.saturating_duration_since(*written)),
            transfer: answered.map(|answered| end.saturating_duration_since(*answered)),
            status: Some(status),
            disturbed: false,
        })
    }

    /// The kind of a failed exchange. `ended` is what the connection itself ended with, if that came first: it knows
    /// more where the request was only told that there is no connection any longer.
    fn failure(&self, error: &hyper::Error, ended: Option<&hyper::Error>) -> Failure {
        let causes = || chain(error).chain(ended.into_iter().flat_map(|ended| chain(ended)));
        let system =
            causes().find_map(|cause| cause.downcast_ref::<io::Error>().filter(|e| e.raw_os_error().is_some()));
        if let Some(system) = system {
            let Failure { reason, detail } = tcp::failure(ReportedBy::Network, system);
            return Failure { reason, detail: format!("{detail} {}", self.marks.place()) };
        }
        let any = |is: fn(&hyper::Error) -> bool| causes().any(|c| c.downcast_ref::<hyper::Error>().is_some_and(is));
        let cut_short = causes()
            .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof));
        // A request that was not even begun, with no more to say about it: the peer closed first.
        let closed_first = error.is_canceled() && causes().count() == 1;
        let (reason, detail) = if any(hyper::Error::is_parse_too_large) {
            (Reason::Body, format!("the answer's head has more than {} KiB or 100 fields", HEAD_MAX >> 10))
        } else if cut_short || closed_first || any(hyper::Error::is_incomplete_message) {
            (Reason::Reset, format!("connection closed {}", self.marks.place()))
        } else {
            let cause = causes().last().expect("a chain of errors begins with one");
            (Reason::Body, format!("the answer is no HTTP: {cause}"))
        };
        Failure { reason, detail }
    }
}

/// An error, what it came from, and so on.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

impl Marks {
    /// How far the exchange came.
    fn place(&self) -> &'static str {
        match (self.answered.get(), self.head.get()) {
            (None, _) => "before the answer",
            (Some(_), None) => "within the answer's head",
            (Some(_), Some(_)) => "within the answer's body",
        }
    }

    fn timeout(&self, limit: Duration) -> Failure {
        let detail = match (self.answered.get(), self.head.get()) {
            (None, _) => format!("connected, but no answer within {limit:?}"),
            (Some(_), None) => format!("the answer's head was not complete within {limit:?}"),
            (Some(_), Some(_)) => format!("the answer's body was not complete within {limit:?}"),
        };
        Failure { reason: Reason::Timeout, detail }
    }
}

/// The connection as hyper sees it, with the moments noted at which its first bytes pass. hyper itself speaks up only
/// when the head is complete, which with a slow peer is much later than its first byte.
struct Tap<'a> {
    stream: TcpStream,
    marks: &'a Marks,
}

impl AsyncRead for Tap<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.marks.answered.get_or_init(clock::monotonic);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Before the write, not after: a thread that is put aside in between must not make the peer look faster.
        self.marks.written.get_or_init(clock::monotonic);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection is closed as soon as the exchange is over, which says the same to the peer by one call less.
        Poll::Ready(Ok(()))
    }
}

/// The host and port that a request is for: what its Host header says, and what a redirect has to stay on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// A name in lower case, or an address in its shortest form, IPv6 in brackets and without a zone.
    host: String,
    port: u16,
}

impl From<SocketAddr> for Site {
    fn from(address: SocketAddr) -> Self {
        let host = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: address.port() }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            80 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

impl Site {
    /// `host` is a name or an address, the latter without brackets.
    pub(super) fn new(host: &str, port: u16) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, port).into(),
            Err(_) => Self { host: host.to_ascii_lowercase(), port },
        }
    }

    /// Reads the authority of a URL: `HOST`, `HOST:PORT`, `[V6]:PORT`.
    fn parse(authority: &str) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, if port.is_empty() { 80 } else { port.parse().ok()? }),
            _ => (authority, 80),
        };
        match host.strip_prefix('[') {
            Some(rest) => Some(Self::new(rest.strip_suffix(']')?, port)),
            None => Some(Self::new(host, port)),
        }
    }

    /// The path that a `Location` header, found at `path`, sends a request to, if that is still on this site over plain
    /// HTTP (RFC 3986, section 5).
    fn onward(&self, path: &PathAndQuery, location: &str) -> Option<PathAndQuery> {
        let location = location.trim().split('#').next()?;
        let scheme_end = location.find([':', '/', '?']).filter(|&at| location[at..].starts_with(':'));
        let relative = match scheme_end {
            Some(at) if location[..at].eq_ignore_ascii_case("http") => &location[at + 1..],
            Some(_) => return None,
            None => location,
        };
        let target = if let Some(rest) = relative.strip_prefix("//") {
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if Self::parse(authority)? != *self {
                return None;
            }
            if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
        } else if scheme_end.is_some() {
            return None;
        } else if relative.starts_with('/') {
            relative.to_owned()
        } else if relative.starts_with('?') {
            format!("{}{relative}", path.path())
        } else if relative.is_empty() {
            path.as_str().to_owned()
        } else {
            let directory = path.path().rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{relative}")
        };
        without_dots(&target).parse().ok()
    }
}

/// The request target with `.` and `..` in its path carried out (RFC 3986, section 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if !matches!(segment, "." | "..") {
            kept.push(segment);
            continue;
        }
        if segment == ".." {
            kept.pop();
        }
        // What ends in a dot segment names a directory.
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests;
