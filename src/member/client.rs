//! The HTTP client for the registry: four requests, each with a limit on time and size.
//!
//! The client blocks. It is for threads that may block: the workers of the member's control thread, and the command line. The
//! probe thread never uses it.
//!
//! The name of the registry is resolved by a separate thread (see `lookup`) and not for each connection, so that an unavailable
//! name server delays no request. When the addresses of the name change, a connection to an old address is used for at most one
//! more request.
//!
//! A redirect of a GET is followed. A redirect of a POST is an error that names the new address: to follow it would turn most
//! of them into a GET (RFC 9110, section 15.4), and the address of the registry belongs in the configuration.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

use crate::config::RegistryLink;
use crate::host::vitals::Vitals;
use crate::wire::{ErrorBody, Identification, InstanceId, MembersReply, RegisteredReply, Registration, STALE_HEADER};

use super::lock;
use super::lookup::{Addresses, NoAddress};

/// The largest answer that is read. A roster of 20,000 members is about 5 MB.
const ANSWER_MAX: u64 = 32 * 1024 * 1024;

/// How many addresses of one name the HTTP client accepts.
const ADDRESSES_MAX: usize = 16;

/// How long an idle connection is kept for the next request: shorter than the registry keeps it.
const IDLE_MAX: Duration = Duration::from_secs(8);

/// Why a request to the registry failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// There was no answer: the name was not resolved, the connection failed, the time was over, or the answer was not HTTP.
    Unreachable(String),
    /// The answer was an error, or cannot be understood.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error message of the registry.
        message: String,
    },
    /// The answer redirects the request to another address.
    Redirected {
        /// The HTTP status.
        status: u16,
        /// The other address.
        to: String,
    },
    /// The registry supports long polls, but too many requests are waiting there already.
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
                    "it answered {status}, which redirects the request to {to}; set member.registry.url to the address of the registry"
                )
            }
            Self::NoRoom => f.write_str("too many requests are waiting there already"),
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

/// The answer to a request for the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterReply {
    /// The roster and its entity tag; `None` if the roster has not changed.
    pub changed: Option<(MembersReply, Option<String>)>,
    /// How old the roster is: zero unless the registry's store is unavailable, `None` if the registry states it in a form that
    /// cannot be read.
    pub stale: Option<Duration>,
}

/// A client of one registry, with one persistent connection.
#[derive(Clone, Debug)]
pub struct RegistryClient {
    agent: ureq::Agent,
    base: String,
    timeout: Duration,
    way: Way,
}

/// The addresses of the registry, and those of the current connection.
#[derive(Clone, Debug)]
struct Way {
    addresses: Arc<Addresses>,
    /// The addresses that were known when the last connection was made.
    taken: Arc<Mutex<Vec<SocketAddr>>>,
}

/// One complete answer.
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl RegistryClient {
    /// A client for the registry at `link`. It does not connect yet. The thread that resolves its name, if there is one, is
    /// added to `vitals`.
    #[must_use]
    pub fn new(link: &RegistryLink, vitals: &Vitals) -> Self {
        let addresses = Addresses::of(&link.url.host, link.url.port, vitals);
        Self::on(link.url.base.clone(), Arc::new(addresses), link.timeout)
    }

    /// A client for the same registry with another time limit. It has a connection of its own and is not shut down with this
    /// one. Both share the resolved addresses.
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
        let agent = ureq::Agent::with_parts(config, DefaultConnector::default(), way.clone());
        Self { agent, base, timeout, way }
    }

    /// The base address of the registry.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The addresses of the registry.
    pub(super) fn addresses(&self) -> &Addresses {
        &self.way.addresses
    }

    /// Registers this member.
    ///
    /// # Errors
    ///
    /// The registry does not answer, or refuses this member.
    pub fn register(&self, registration: &Registration) -> Result<RegisteredReply, ClientError> {
        let answer = self.post("/register", registration)?;
        let answer = answer.success()?;
        RegisteredReply::from_json(&answer.body).map_err(|e| answer.invalid(&e))
    }

    /// Renews the lease.
    ///
    /// # Errors
    ///
    /// The registry does not answer, or cannot renew the lease.
    pub fn heartbeat(&self, id: &InstanceId) -> Result<Heartbeat, ClientError> {
        let answer = self.post("/heartbeat", &Identification { instance_id: id.clone() })?;
        if answer.status == 404 && answer.error().is_some() {
            return Ok(Heartbeat::Unknown);
        }
        answer.success().map(|_| Heartbeat::Renewed)
    }

    /// Leaves the roster. An older registry does not have this request and answers 404; the lease then ends later.
    ///
    /// # Errors
    ///
    /// The registry does not answer, or cannot remove the member.
    pub fn deregister(&self, id: &InstanceId) -> Result<(), ClientError> {
        self.post("/deregister", &Identification { instance_id: id.clone() })?.success().map(|_| ())
    }

    /// Requests the roster, unless it is still the one with the entity tag `etag`. With `wait`, the registry may delay the
    /// answer for this time until the roster changes; an older registry answers at once.
    ///
    /// # Errors
    ///
    /// The registry does not answer, its answer contains no roster, or too many requests are waiting there already.
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
        let members = MembersReply::from_json(&answer.body).map_err(|e| answer.invalid(&e))?;
        Ok(RosterReply { changed: Some((members, answer.header("etag").map(str::to_owned))), stale })
    }

    /// Aborts the request in progress on any thread; every later request fails. A connection attempt in progress is not
    /// aborted.
    pub fn shutdown(&self) {
        self.agent.clone().shutdown();
    }

    fn post(&self, path: &str, body: &impl serde::Serialize) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).expect("names, numbers and addresses always have a JSON form");
        let request = self.way.onto(self.agent.post(format!("{}{path}", self.base)));
        // On a connection of its own, so that an answer shows that new connections can be made: what has long been connected
        // outlives a full connection tracking table and many a firewall rule.
        let request = request.config().max_redirects(0).build().header("connection", "close");
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
            // The name of the registry may have another address by now.
            self.way.addresses.doubt();
            ClientError::Unreachable(in_words(&error))
        };
        let (parts, mut body) = result.map_err(lost)?.into_parts();
        let body = body.with_config().limit(ANSWER_MAX).read_to_vec().map_err(lost)?;
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl Way {
    /// The request, with a header that closes the connection if the name of the registry has other addresses by now.
    fn onto<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        let taken = sorted(lock(&self.taken).clone());
        let moved = self.addresses.get(Duration::ZERO).is_ok_and(|now| !taken.is_empty() && sorted(now) != taken);
        if moved { request.header("connection", "close") } else { request }
    }
}

/// The addresses in a fixed order, because a name server may rotate them with each answer.
fn sorted(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses
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
            // A redirect to another host.
            return DefaultResolver::default().resolve(uri, config, timeout);
        }
        let found = self.addresses.get(*timeout.after).map_err(|problem| match problem {
            NoAddress::Unknown => ureq::Error::HostNotFound,
            NoAddress::Pending => ureq::Error::Timeout(ureq::Timeout::Resolve),
        })?;
        let mut resolved = self.empty();
        for address in found.iter().take(ADDRESSES_MAX) {
            // A redirect may lead to another port of the same host.
            resolved.push(SocketAddr::new(address.ip(), uri.port_u16().unwrap_or(80)));
        }
        *lock(&self.taken) = found;
        Ok(resolved)
    }
}

/// An error of the HTTP client in plain words.
fn in_words(error: &ureq::Error) -> String {
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
        let message = self.error().unwrap_or_else(|| "no readable reason".into());
        Err(ClientError::Refused { status: self.status, message: one_line(&message) })
    }

    fn invalid(&self, what: &dyn fmt::Display) -> ClientError {
        ClientError::Refused { status: self.status, message: one_line(&format!("invalid answer: {what}")) }
    }
}

/// A text from outside, made safe for a log line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

#[cfg(test)]
mod tests;
