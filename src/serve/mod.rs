//! Answering HTTP safely: whatever clients do, memory, descriptors and waiting stay bounded and the others are served.
//!
//! The routes are warp filters; the accept loop is our own, because warp's server has no limit on heads, connections or
//! draining. [`run`] promises, for HTTP/1.1 on one listener:
//!
//! * a cap on connections; at the cap the one that has been the client's turn the longest is closed for the next;
//! * a cap on idle connections, beyond which an answer ends its own, where the client is not about to come back ([`Waited`]);
//! * a time limit on a request's head, on its body ([`body()`]) and on reading the answer, and none on the handler itself,
//!   so that a long poll may take its minute;
//! * a size limit on head and body;
//! * an error answer in JSON for every refusal ([`error`], [`recover`]), also for a handler that panics;
//! * an end on time: idle connections close at once, who has just connected is heard for a moment, and requests in flight get
//!   [`Limits::drain`].
//!
//! A handler learns who asks from [`Peer`] in the request's extensions: `warp::ext::optional::<Peer>()`.

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
use std::sync::atomic::{AtomicUsize, Ordering};
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
pub use later::{is_later, later};
pub use listen::{BindError, bind, bind_or_all};
pub use refusal::{error, get, post, recover, retry_after};

/// The largest head of a request, in bytes; a larger one is answered with 431. hyper adds its own cap of 100 header lines.
const HEAD_BYTES: usize = 16 * 1024;

/// How often the accept loop marks its pulse.
const PULSE: Duration = Duration::from_millis(500);

/// The pause after an accept that failed because this host is short of something: long where nothing can be done about it,
/// short where a connection was evicted and its descriptor is about to be free.
const SHORT_OF_ALL: Duration = Duration::from_millis(100);
const SHORT_OF_ONE: Duration = Duration::from_millis(1);

/// How long accepting must go well before a shortage counts as over.
const CALM: Duration = Duration::from_secs(10);

/// How long a connection without a request so far is waited for after `stop`. Whoever connects to ask sends the request
/// together with the last segment of the handshake, so this covers no path but a busy host.
const GREETING: Duration = Duration::from_millis(100);

/// How long a closed connection is read on, so that the client sees our last answer before the reset.
const LINGER: Duration = Duration::from_millis(500);

/// What one listener allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many connections may be open at once; at least 1. Requests whose handlers wait (long polls) hold theirs.
    pub connections: usize,
    /// How many connections may wait for their clients before each answer ends its connection: more than clients that come
    /// back at once need, and few enough to cost little memory.
    pub idle: usize,
    /// How long a connection may take to send a request's head, counted from its opening or from the last answer; so it is
    /// also how long a kept-alive connection may be idle.
    pub head_time: Duration,
    /// How long the body of a request may take.
    pub body_time: Duration,
    /// How many bytes the body of a request may have.
    pub body_bytes: usize,
    /// How long the client may take to read an answer.
    pub write_time: Duration,
    /// How long requests in flight may still take after `stop`.
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

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The client's address; an IPv4 client of a dual-stack listener has its IPv4 address here.
    pub address: SocketAddr,
}

/// In the extensions of an answer: the handler let the client wait. Such a client comes back at once, so its connection is
/// kept however many others there are.
#[derive(Clone, Copy, Debug)]
pub struct Waited;

/// How the requests in flight at `stop` ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Their answers went out.
    pub finished: usize,
    /// They were still in flight after [`Limits::drain`] and were cut off.
    pub cut: usize,
}

/// What every connection is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Draining,
    Cut,
}

/// Everything the connections of one listener share.
struct Shared<S> {
    service: S,
    limits: Limits,
    connections: Arc<Connections>,
    stage: watch::Sender<Stage>,
    finished: AtomicUsize,
}

/// Serves `routes` on `listener` until `stop`, then drains. Marks `pulse` at least once a second until then.
///
/// Must run inside a tokio runtime with its I/O and time drivers on. Dropped, it cuts all connections.
///
/// # Panics
///
/// Where the runtime cannot watch the listener, which takes a runtime without its I/O driver or no descriptor left.
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
    // Accepted connections inherit it. Answers are written whole; waiting for the client's ACK would only delay the last
    // segment. Failure costs 40 ms.
    let _ = SockRef::from(&listener).set_tcp_nodelay(true);
    let listener = TcpListener::from_std(listener).expect("a runtime with its I/O driver on");
    let connections = Connections::new(limits.connections);
    let shared = Arc::new(Shared {
        service: TowerToHyperService::new(warp::service(routes)),
        limits,
        connections,
        stage: watch::Sender::new(Stage::Open),
        finished: AtomicUsize::new(0),
    });
    // Whatever ends this function, a cancelled caller included, ends the connections.
    let cut = CutOnDrop(&shared.stage);
    tokio::select! {
        () = stop => {}
        () = accept(&listener, &shared) => {}
        () = beat(pulse) => {}
    }
    drop(listener);
    shared.stage.send_replace(Stage::Draining);
    let _ = timeout(shared.limits.drain, shared.connections.all_closed()).await;
    let drained = Drained { finished: shared.finished.load(Ordering::Relaxed), cut: shared.connections.open() };
    drop(cut);
    drained
}

struct CutOnDrop<'a>(&'a watch::Sender<Stage>);

impl Drop for CutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.send_replace(Stage::Cut);
    }
}

/// Marks the pulse, in the same task as the accept loop. Never ends.
async fn beat(pulse: Option<Pulse>) {
    let Some(pulse) = pulse else { return std::future::pending().await };
    let mut tick = interval(PULSE);
    loop {
        tick.tick().await;
        pulse.mark();
    }
}

/// Accepts and spawns. Never ends.
async fn accept<S>(listener: &TcpListener, shared: &Arc<Shared<S>>)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let mut last_shortage: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                if last_shortage.take_if(|last| clock::monotonic().saturating_duration_since(*last) > CALM).is_some() {
                    tracing::info!("accepting connections without trouble again");
                }
                let slot = shared.connections.admit().await;
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                tokio::spawn(converse(stream, Peer { address }, Arc::new(slot), shared.clone()));
            }
            Err(e) if is_of_one_connection(&e) => {}
            Err(e) => {
                if last_shortage.replace(clock::monotonic()).is_none() {
                    tracing::warn!("cannot accept connections, closing idle ones to go on: {e}");
                }
                sleep(if shared.connections.evict() { SHORT_OF_ONE } else { SHORT_OF_ALL }).await;
            }
        }
    }
}

/// Whether a failed accept says something about that one client only (accept(2), "Error handling").
fn is_of_one_connection(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
