//! The limit to compare with: hyper's HTTP/1.1 server with nothing around it, on one thread, with one answer for all.
//!
//! What a registry on this machine cannot do without: to accept, to read a request, and to write that many bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

use crate::support::process::{Process, Usage};
use crate::support::{SOON, Scratch, eventually, holds, http, socket};

/// The first word on the command line of the other side.
pub const WORD: &str = "bare-server";

/// What it answers beside 304 to whoever has an entity tag.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    /// How many bytes all others get.
    pub bytes: usize,
    /// Whether an answer ends its connection.
    pub close: bool,
}

/// A running one.
pub struct Bare {
    process: Process,
    /// Where it listens.
    pub server: SocketAddr,
    _scratch: Scratch,
}

impl Bare {
    /// Starts one.
    #[must_use]
    pub fn start(answers: Answers) -> Self {
        let (server, scratch) = (socket(), Scratch::new());
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        let Answers { bytes, close } = answers;
        command.args([WORD, &server.to_string(), &bytes.to_string(), &close.to_string()]);
        let process = Process::start(&mut command, &scratch, WORD);
        eventually(SOON, "the bare server accepts", || std::net::TcpStream::connect(server));
        Self { process, server, _scratch: scratch }
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.process.usage()
    }

    /// Waits until this many requests wait.
    pub fn wait_for_polls(&self, polls: usize) {
        eventually(SOON, "the bare server lets all wait", || {
            let waiting = http::get(self.server, WAITING)?.text();
            holds(waiting == polls.to_string(), waiting)
        });
    }
}

/// The path that tells how many requests wait.
const WAITING: &str = "/waiting";

/// What all its connections share.
struct Shared {
    body: Bytes,
    /// Requests that ask to wait do so until somebody registers.
    registered: Notify,
    waiting: AtomicUsize,
}

/// The other side: serves on the command line's address for ever, `bare-server ADDRESS BYTES CLOSE`.
pub fn main() -> ExitCode {
    let _ = netring::host::descriptors::raise_limit();
    let mut words = std::env::args().skip(2);
    let mut word = || words.next().expect("an address, a number and whether to close");
    let server: SocketAddr = word().parse().expect("an address and a port");
    let body = Bytes::from(vec![b'x'; word().parse().expect("a number")]);
    let close = word() == "true";
    let shared = Arc::new(Shared { body, registered: Notify::new(), waiting: AtomicUsize::new(0) });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let listener = netring::serve::bind(server.ip(), server.port()).expect("an address of our own");
        let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime has an I/O driver");
        loop {
            let (stream, _) = listener.accept().await.expect("a client comes");
            let _ = stream.set_nodelay(true);
            let shared = Arc::clone(&shared);
            tokio::spawn(http1::Builder::new().keep_alive(!close).serve_connection(
                TokioIo::new(stream),
                service_fn(move |request: Request<Incoming>| answer(request, Arc::clone(&shared))),
            ));
        }
    })
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == WAITING {
        return Ok(Response::new(Full::new(shared.waiting.load(Ordering::Relaxed).to_string().into())));
    }
    if request.uri().query().is_some() {
        let registered = shared.registered.notified();
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        registered.await;
        shared.waiting.fetch_sub(1, Ordering::Relaxed);
        return Ok(Response::new(Full::new(shared.body.clone())));
    }
    if request.headers().contains_key(header::IF_NONE_MATCH) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let registers = request.uri().path() == "/register";
    // A client that goes away in the middle has no answer either.
    let _ = request.into_body().collect().await;
    if registers {
        shared.registered.notify_waiters();
    }
    Ok(Response::new(Full::new(shared.body.clone())))
}
