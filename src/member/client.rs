//! Talking to the registry: four requests, each bounded in time and size.
//!
//! Blocking, for threads that may block: the workers of the member's control thread, and the command line. Never used in the
//! probe path.
//!
//! The registry's name is resolved by a thread of its own (see `lookup`) and not for each connection, so that a name server
//! that is away delays no request. After the name has got other addresses, a connection to the old ones is used for one more
//! request at most.
//!
//! A redirect of a question is followed. A redirect of a POST is an error that names the new address: to follow it would turn
//! most of them into questions (RFC 9110, section 15.4), and the configuration is the place to say where the registry is.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};

use crate::config::RegistryLink;
use crate::host::vitals::Vitals;
use crate::wire::{ErrorBody, Identification, InstanceId, MembersReply, RegisteredReply, Registration, STALE_HEADER};

use super::lock;
use super::lookup::{Addresses, NoAddress};

/// The largest answer taken: a roster of 20,000 members is about 5 MB.
const ANSWER_MAX: u64 = 32 * 1024 * 1024;

/// As many addresses as the HTTP client takes of one name.
const ADDRESSES_MAX: usize = 16;

/// How long a connection is kept for the next request: less than the registry keeps an idle one.
const IDLE_MAX: Duration = Duration::from_secs(8);

/// Why the registry did not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// No answer: no connection, no name, no time left, or something that is no HTTP.
    Unreachable(String),
    /// An answer that is no success, or makes no sense.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What the registry said.
        message: String,
    },
    /// The answer sends the request to another address.
    Redirected {
        /// The HTTP status.
        status: u16,
        /// The other address.
        to: String,
    },
    /// The registry keeps requests for the roster until it changes, and has no room for another one.
    NoRoom,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Refused { status, message } => write!(f, "it answered {status}: {message}"),
            Self::Redirected { status, to } => {
                write!(
                    f,
                    "it answered {status}, which redirects the request to {to}; set member.registry.url to where the registry is"
                )
            }
            Self::NoRoom => f.write_str("it has no room for another request that waits"),
        }
    }
}

impl std::error::Error for ClientError {}

/// The answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// The lease was renewed.
    Renewed,
    /// The registry does not know this member.
    Unknown,
}

/// The answer to a question for the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterReply {
    /// The roster; nothing where it is the one asked with.
    pub changed: Option<(MembersReply, Option<String>)>,
    /// How old it is: nothing unless the registry's store is away, and unknown where the registry says it in a way that
    /// makes no sense.
    pub stale: Option<Duration>,
}

/// A client of one registry, with one kept-alive connection.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    agent: ureq::Agent,
    base: String,
    timeout: Duration,
    way: Way,
    made: Made,
}

/// How many connections a client has made.
#[derive(Clone, Debug, Default)]
struct Made(Arc<AtomicU64>);

/// The way to the registry.
#[derive(Clone, Debug)]
struct Way {
    addresses: Arc<Addresses>,
    /// The addresses that the last connection was made by.
    taken: Arc<Mutex<Vec<SocketAddr>>>,
}

/// One answer, read whole.
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl RegistryClient {
    /// A client for the registry at `link`. Nothing is connected yet. The thread that looks its name up, where it has one, is
    /// put on these vitals.
    #[must_use]
    pub fn new(link: &RegistryLink, vitals: &Vitals) -> Self {
        let addresses = Addresses::of(&link.url.host, link.url.port, vitals);
        Self::on(link.url.base.clone(), Arc::new(addresses), link.timeout)
    }

    /// A client for the same registry that gives each request this time. It has a connection of its own and is not shut
    /// down with this one; what is known of the registry's name they share.
    pub(super) fn with_timeout(&self, timeout: Duration) -> Self {
        Self::on(self.base.clone(), Arc::clone(&self.way.addresses), timeout)
    }

    fn on(base: String, addresses: Arc<Addresses>, timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(3)
            .timeout_global(Some(timeout))
            .max_idle_age(IDLE_MAX)
            .user_agent(concat!("netring/", env!("CARGO_PKG_VERSION")))
            .build();
        let way = Way { addresses, taken: Arc::default() };
        let made = Made::default();
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default().chain(made.clone()), way.clone());
        Self { agent, base, timeout, way, made }
    }

    /// The base address of the registry.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// How many connections this client and its clones have made. An answer on a connection that was open before does not show
    /// that another one could be made.
    pub(super) fn connections(&self) -> u64 {
        self.made.0.load(Ordering::Relaxed)
    }

    /// Where the registry is.
    pub(super) fn addresses(&self) -> &Addresses {
        &self.way.addresses
    }

    /// Asks to be on the roster.
    ///
    /// # Errors
    ///
    /// Where the registry is silent or does not want this member.
    pub fn register(&self, registration: &Registration) -> Result<RegisteredReply, ClientError> {
        let answer = self.post("/register", registration)?;
        let answer = answer.success()?;
        RegisteredReply::from_json(&answer.body).map_err(|e| answer.nonsense(&e))
    }

    /// Renews the lease.
    ///
    /// # Errors
    ///
    /// Where the registry is silent or cannot renew.
    pub fn heartbeat(&self, id: &InstanceId) -> Result<Heartbeat, ClientError> {
        let answer = self.post("/heartbeat", &Identification { instance_id: id.clone() })?;
        if answer.status == 404 && answer.error().is_some() {
            return Ok(Heartbeat::Unknown);
        }
        answer.success().map(|_| Heartbeat::Renewed)
    }

    /// Leaves the roster. An older registry that has no such request answers 404: its lease will end.
    ///
    /// # Errors
    ///
    /// Where the registry is silent or cannot take the member off.
    pub fn deregister(&self, id: &InstanceId) -> Result<(), ClientError> {
        self.post("/deregister", &Identification { instance_id: id.clone() })?.success().map(|_| ())
    }

    /// Asks for the roster, or for word that it is still the one that `etag` came with. The registry may keep the request for
    /// as long as `wait` until there is another roster; an older one answers at once.
    ///
    /// # Errors
    ///
    /// Where the registry is silent, its answer holds no roster, or it has no room for a request that waits.
    pub fn members(&self, etag: Option<&str>, wait: Duration) -> Result<RosterReply, ClientError> {
        let query = if wait.is_zero() { String::new() } else { format!("?wait={}", wait.as_secs_f64()) };
        let mut request = self.way.onto(self.agent.get(format!("{}/members{query}", self.base)));
        if let Some(etag) = etag {
            request = request.header("if-none-match", etag);
        }
        let request = request.config().timeout_global(Some(self.timeout + wait)).build();
        let answer = self.read(request.call())?;
        if answer.status == 429 && !wait.is_zero() {
            return Err(ClientError::NoRoom);
        }
        let stale = match answer.headers.get(STALE_HEADER) {
            None => Some(Duration::ZERO),
            Some(_) => answer.header(STALE_HEADER).and_then(|text| text.parse().ok()).map(Duration::from_secs),
        };
        if answer.status == 304 && etag.is_some() {
            return Ok(RosterReply { changed: None, stale });
        }
        let answer = answer.success()?;
        let members = MembersReply::from_json(&answer.body).map_err(|e| answer.nonsense(&e))?;
        Ok(RosterReply { changed: Some((members, answer.header("etag").map(str::to_owned))), stale })
    }

    /// Breaks off whatever request is under way on any thread; every later one fails. A connection that is still being
    /// made is not broken off.
    pub fn shutdown(&self) {
        self.agent.clone().shutdown();
    }

    fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).expect("names, numbers and addresses always have a JSON form");
        let request = self.way.onto(self.agent.post(format!("{}{path}", self.base)));
        let request = request.config().max_redirects(0).build();
        let answer = self.read(request.content_type("application/json").send(&body[..]))?;
        match answer.header("location") {
            Some(to) if (300..400).contains(&answer.status) => {
                Err(ClientError::Redirected { status: answer.status, to: one_line(to) })
            }
            _ => Ok(answer),
        }
    }

    fn read(&self, result: Result<http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, ClientError> {
        let lost = |error: ureq::Error| {
            // The registry may have moved to where its name has led for a while.
            self.way.addresses.doubt();
            ClientError::Unreachable(said(&error))
        };
        let (parts, mut body) = result.map_err(lost)?.into_parts();
        let body = body.with_config().limit(ANSWER_MAX).read_to_vec().map_err(lost)?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl Way {
    /// A request that does not keep the connection it is sent on where the registry's name leads elsewhere by now.
    fn onto<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        let taken = sorted(lock(&self.taken).clone());
        let moved = self.addresses.get(Duration::ZERO).is_ok_and(|now| !taken.is_empty() && sorted(now) != taken);
        if moved { request.header("connection", "close") } else { request }
    }
}

/// In an order of their own: a name server may turn them round with every answer.
fn sorted(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses
}

impl<T: Transport> Connector<T> for Made {
    type Out = T;

    /// Is called after a connection was made, and not where one is used again.
    fn connect(&self, _: &ConnectionDetails<'_>, made: Option<T>) -> Result<Option<T>, ureq::Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(made)
    }
}

impl Resolver for Way {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if !host.eq_ignore_ascii_case(self.addresses.host()) {
            // The registry sent us on to another one.
            return DefaultResolver::default().resolve(uri, config, timeout);
        }
        let found = self.addresses.get(*timeout.after).map_err(|problem| match problem {
            NoAddress::Unknown => ureq::Error::HostNotFound,
            NoAddress::Pending => ureq::Error::Timeout(ureq::Timeout::Resolve),
        })?;
        let mut resolved = self.empty();
        for address in found.iter().take(ADDRESSES_MAX) {
            // A registry may send us on to another port of its own.
            resolved.push(SocketAddr::new(address.ip(), uri.port_u16().unwrap_or(80)));
        }
        *lock(&self.taken) = found;
        Ok(resolved)
    }
}

/// An error of the HTTP client as an operator would say it.
fn said(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(ureq::Timeout::Resolve) => "the resolver does not answer".into(),
        ureq::Error::Timeout(_) => "no answer within the time limit".into(),
        ureq::Error::HostNotFound => "its name has no address".into(),
        ureq::Error::ConnectionFailed => "no connection".into(),
        ureq::Error::TlsRequired => "it redirects to an https:// address, and TLS is not built in yet".into(),
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn error(&self) -> Option<String> {
        serde_json::from_slice(&self.body).ok().map(|body: ErrorBody| body.error)
    }

    fn success(self) -> Result<Self, ClientError> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let message = self.error().unwrap_or_else(|| "with no reason that can be read".into());
        Err(ClientError::Refused { status: self.status, message: one_line(&message) })
    }

    fn nonsense(&self, what: &dyn fmt::Display) -> ClientError {
        ClientError::Refused {
            status: self.status,
            message: one_line(&format!("but the answer makes no sense: {what}")),
        }
    }
}

/// A text from outside, fit for a log line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests;
