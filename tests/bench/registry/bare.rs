//! The limit to compare with: hyper's HTTP/1.1 server with nothing around it, on one thread, with one answer for all.
//!
//! What a registry on this machine cannot do without: to accept, to read a request, and to write that many bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::support::process::{Process, Usage};
use crate::support::{SOON, Scratch, eventually, socket};

/// The first word on the command line of the other side.
pub const WORD: &str = "bare-server";

/// A running one.
pub struct Bare {
    process: Process,
    /// Where it listens.
    pub server: SocketAddr,
    _scratch: Scratch,
}

impl Bare {
    /// Starts one that answers 304 to whoever has an entity tag, and this many bytes to all others.
    #[must_use]
    pub fn start(bytes: usize) -> Self {
        let (server, scratch) = (socket(), Scratch::new());
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args([WORD, &server.to_string(), &bytes.to_string()]);
        let process = Process::start(&mut command, &scratch, WORD);
        eventually(SOON, "the bare server accepts", || std::net::TcpStream::connect(server));
        Self { process, server, _scratch: scratch }
    }

    /// What it has used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.process.usage()
    }
}

/// The other side: serves on the command line's address for ever, `bare-server ADDRESS BYTES`.
pub fn main() -> ExitCode {
    let mut words = std::env::args().skip(2);
    let (server, bytes) = (words.next().expect("an address"), words.next().expect("a number"));
    let server: SocketAddr = server.parse().expect("an address and a port");
    let body = Bytes::from(vec![b'x'; bytes.parse().expect("a number")]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let listener = netring::serve::bind(server.ip(), server.port()).expect("an address of our own");
        let listener = tokio::net::TcpListener::from_std(listener).expect("the runtime has an I/O driver");
        loop {
            let (stream, _) = listener.accept().await.expect("a client comes");
            let _ = stream.set_nodelay(true);
            let body = body.clone();
            tokio::spawn(http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(move |request: Request<Incoming>| answer(request, body.clone())),
            ));
        }
    })
}

async fn answer(request: Request<Incoming>, body: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key(header::IF_NONE_MATCH) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    // A client that goes away in the middle has no answer either.
    let _ = request.into_body().collect().await;
    Ok(Response::new(Full::new(body)))
}
