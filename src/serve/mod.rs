//! An HTTP server with limits: no client can use unbounded memory, descriptors or time, or keep others from being served.
//!
//! The routes are warp filters. The accept loop is part of this module because warp's server has no limits on request heads,
//! connections or draining. [`run`] provides, for HTTP/1.1 on one listener:
//!
//! * a limit on connections. At the limit, the connection that has been waiting longest for its client is closed;
//! * a limit on idle connections. Beyond it a connection is closed after its answer, unless the client had to wait ([`Waited`]);
//! * time limits for a request's head, for its body ([`body()`]) and for reading the answer, but none for the handler, so that
//!   long polls are possible;
//! * size limits for head and body;
//! * answers that come later at little cost ([`later()`]), for long polls;
//! * errors in JSON for all rejected requests ([`error`], [`recover`]), also if a handler panics;
//! * a bounded shutdown: idle connections are closed at once, new connections may still send a request for a moment, and
//!   requests in progress get [`Limits::drain`].
//!
//! A handler gets the address of the client from [`Peer`] in the request's extensions: `warp::ext::optional::<Peer>()`.

mod body;
mod connections;
mod conversation;
mod later;
mod listen;
mod patience;
mod refusal;
pub mod text;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};
use warp::reply::Response;
use warp::{Filter, Reply};

use crate::clock;
use crate::host::vitals::Pulse;
use connections::Connections;
use conversation::converse;

pub use body::body;
#[cfg(test)]
pub(crate) use later::settle;
pub use later::{is_later, later, until_sent};
pub use listen::{BindError, bind, bind_or_all};
pub use refusal::{error, get, post, recover, retry_after};

/// The maximum size of a request head in bytes; a larger one is answered with 431. hyper also limits it to 100 header lines.
const HEAD_BYTES: usize = 16 * 1024;

/// How often the accept loop marks its pulse.
const PULSE: Duration = Duration::from_millis(500);

/// The pause after a failed accept for lack of descriptors or memory.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The same if an idle connection was closed to free its descriptor.
const RETRY_PAUSE_AFTER_EVICTION: Duration = Duration::from_millis(1);

/// How long accepting must work before a shortage counts as over.
const SHORTAGE_OVER_AFTER: Duration = Duration::from_secs(10);

/// How long a connection without a request may still send one after `stop`. A client sends its request together with the last
/// segment of the TCP handshake, so this time does not have to cover the network, only a busy host.
const GREETING: Duration = Duration::from_millis(100);

/// How long the server continues to read from a connection that it closes, so that the client can read the last answer before
/// it gets a reset.
const LINGER: Duration = Duration::from_millis(500);

/// The limits of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open at once, at least 1. Waiting requests (long polls) keep their connections open.
    pub connections: usize,
    /// How many connections may be idle before each further one is closed after its answer. Enough for clients that send
    /// requests all the time, and few enough to need little memory.
    pub idle: usize,
    /// How long a connection may be idle, and how long a request head may take from its first byte.
    pub head_time: Duration,
    /// How long a request body may take.
    pub body_time: Duration,
    /// The maximum size of a request body in bytes.
    pub body_bytes: usize,
    /// How long a client may take to read an answer.
    pub write_time: Duration,
    /// How long requests in progress may still take after `stop`.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            idle: 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            body_bytes: 64 * 1024,
            write_time: Duration::from_secs(30),
            drain: Duration::from_millis(500),
        }
    }
}

/// The client that sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address. For an IPv4 client of a dual-stack listener this is the IPv4 address.
    pub address: SocketAddr,
}

/// In the extensions of an answer: the handler let the client wait. Such a client sends the next request at once, so its
/// connection is kept however many idle connections there are.
#[derive(Clone, Copy, Debug)]
pub struct Waited;

/// How the requests that were in progress at `stop` ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// They were still in progress after [`Limits::drain`], and their connections were closed.
    pub cut: usize,
}

/// The state of the server, which every connection watches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Draining,
    Cut,
}

/// State shared by all connections of one listener.
struct Shared<S> {
    service: S,
    limits: Limits,
    connections: Arc<Connections>,
    stage: watch::Sender<Stage>,
}

/// Serves `routes` on `listener` until `stop`, then drains. Marks `pulse` at least once a second until `stop`.
///
/// Must run in a tokio runtime with I/O and time drivers. Dropping the future closes all connections.
///
/// # Panics
///
/// If the runtime cannot register the listener: it has no I/O driver, or no descriptor is left.
pub async fn run<F>(
    listener: std::net::TcpListener,
    routes: F,
    limits: Limits,
    pulse: Option<Pulse>,
    stop: impl Future<Output = ()>,
) -> Drained
where
    F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
{
    // Accepted connections inherit this option. Answers are written as a whole, so Nagle's algorithm would only delay their
    // last segment. If this fails, answers take up to 40 ms longer.
    let _ = SockRef::from(&listener).set_tcp_nodelay(true);
    let listener = TcpListener::from_std(listener).expect("the runtime has an I/O driver");
    let connections = Connections::new(limits.connections);
    let shared = Arc::new(Shared {
        service: TowerToHyperService::new(warp::service(routes)),
        limits,
        connections,
        stage: watch::Sender::new(Stage::Open),
    });
    // However this function ends, also by cancellation, all connections are closed.
    let cut = CutOnDrop(&shared.stage);
    tokio::select! {
        () = stop => {}
        () = accept(&listener, &shared) => {}
        () = beat(pulse) => {}
    }
    drop(listener);
    shared.stage.send_replace(Stage::Draining);
    let _ = timeout(shared.limits.drain, shared.connections.all_closed()).await;
    let drained = Drained { cut: shared.connections.open() };
    drop(cut);
    drained
}

struct CutOnDrop<'a>(&'a watch::Sender<Stage>);

impl Drop for CutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Stage::Cut);
    }
}

/// Marks the pulse in the task of the accept loop. Never returns.
async fn beat(pulse: Option<Pulse>) {
    let Some(pulse) = pulse else { return std::future::pending().await };
    let mut tick = interval(PULSE);
    loop {
        tick.tick().await;
        pulse.mark();
    }
}

/// Accepts connections and spawns their tasks. Never returns.
async fn accept<S>(listener: &TcpListener, shared: &Arc<Shared<S>>)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let mut last_shortage: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if last_shortage
                    .take_if(|last| clock::monotonic().saturating_duration_since(*last) > SHORTAGE_OVER_AFTER)
                    .is_some()
                {
                    tracing::info!("accepting connections works again");
                }
                let slot = shared.connections.admit().await;
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                tokio::spawn(converse(stream, Peer { address }, Arc::new(slot), shared.clone()));
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(e) => {
                if last_shortage.replace(clock::monotonic()).is_none() {
                    tracing::warn!("cannot accept connections, closing idle ones: {e}");
                }
                sleep(if shared.connections.evict() { RETRY_PAUSE_AFTER_EVICTION } else { RETRY_PAUSE }).await;
            }
        }
    }
}

/// Whether the error of a failed accept concerns only that one client (accept(2), "Error handling").
fn is_of_one_connection(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
