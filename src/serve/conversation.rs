//! The task of one connection.
//!
//! A connection is in one of three states. Only *active* needs hyper's state, which is large:
//!
//! * *idle*: the client has sent nothing since the connection was opened, or (with many idle connections) since the last answer;
//! * *active*: hyper reads requests and writes answers, and may wait for the next request;
//! * *parked*: a handler has returned [`later`](super::later()). Only the socket and the future of the answer are kept.
//!
//! hyper's state is created when the client sends something, not when it connects. Otherwise its buffers would lie in memory
//! between those of other connections, and the allocator could not reuse them as a whole.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use http::header::CONNECTION;
use http::{HeaderValue, Request};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use warp::reply::Response;

use super::connections::Slot;
use super::later::{self, Asked, Begin, UntilSent};
use super::patience::Patient;
use super::{GREETING, HEAD_BYTES, LINGER, Peer, Shared, Stage, Waited};

/// How many idle connections keep hyper's state (20 KiB each), which saves a few microseconds at the next request. Enough for
/// clients that send requests all the time, and few enough to need little memory.
const WARM: usize = 128;

/// How the active state ended.
enum Ended {
    /// The connection is closed or has to be.
    Over,
    /// The answer comes later.
    Parked(Patient, Parked),
    /// The answer has been sent, and hyper's state is not worth its memory.
    Idle(Patient),
}

/// A parked request.
struct Parked {
    asked: Asked,
    answer: Begin,
}

/// Serves `stream` until either side closes it.
pub(super) async fn converse<S>(stream: TcpStream, peer: Peer, slot: Arc<Slot>, shared: Arc<Shared<S>>)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let mut stage = shared.stage.subscribe();
    let mut stream = Patient::new(stream, shared.limits.write_time);
    let mut answer = None;
    loop {
        if !stream.has_read_ahead() && !sends(&mut stream, &slot, &shared, &mut stage).await {
            return;
        }
        // Boxed because a future is as large as its largest state: the box exists only in this state.
        let ended = Box::pin(exchange(stream, answer.take(), peer, &slot, &shared, &mut stage)).await;
        match ended {
            Ended::Over => return,
            Ended::Idle(idle) => stream = idle,
            Ended::Parked(parked, Parked { asked, answer: later }) => {
                stream = parked;
                answer = tokio::select! {
                    biased;
                    answer = later::guarded(later()) => Some(answer),
                    () = gone(&stream) => return,
                    () = slot.evicted() => return,
                    _ = stage.wait_for(|stage| *stage == Stage::Cut) => return,
                };
                stream.read_first(asked.request().as_bytes());
            }
        }
    }
}

/// Waits until the client sends something. False if the connection is closed or has to be.
async fn sends<S>(stream: &mut Patient, slot: &Slot, shared: &Shared<S>, stage: &mut watch::Receiver<Stage>) -> bool {
    let mut sent = pin!(timeout(shared.limits.head_time, stream.read_ahead()));
    let has_sent = |sent| matches!(sent, Ok(Ok(true)));
    tokio::select! {
        biased;
        sent = &mut sent => return has_sent(sent),
        () = slot.evicted() => return false,
        _ = stage.wait_for(|stage| *stage != Stage::Open) => {}
    }
    // A socket that systemd holds open accepts clients while this process stops, so a new connection is still served.
    slot.is_new()
        && tokio::select! {
            biased;
            sent = sent => has_sent(sent),
            () = sleep(GREETING) => false,
            _ = stage.wait_for(|stage| *stage == Stage::Cut) => false,
        }
}

/// Returns when the client of a parked request has closed the connection. If the client has sent more, this is not noticed
/// before the answer is sent.
async fn gone(stream: &Patient) {
    if let Ok(1..) = stream.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}

/// The active state: hyper reads requests and writes answers. With `ready` the first request that hyper reads is
/// [`Asked::request`], and `ready` is the answer.
async fn exchange<S>(
    stream: Patient,
    ready: Option<Response>,
    peer: Peer,
    slot: &Arc<Slot>,
    shared: &Shared<S>,
    stage: &mut watch::Receiver<Stage>,
) -> Ended
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let unflushed = stream.unflushed();
    let resumed = ready.is_some();
    let kept = Mutex::new(ready.as_ref().and_then(|answer| answer.extensions().get::<UntilSent>().cloned()));
    let (ready, parked) = (Mutex::new(ready), Mutex::new(None));
    let requests = AtomicUsize::new(0);
    let dispensable = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        if requests.fetch_add(1, Ordering::Relaxed) > 0 {
            // hyper reads the next request when it has written the answer to the last one.
            drop(lock(&kept).take());
        }
        slot.set_body_read(false);
        let (ready, parked, dispensable, unflushed) = (lock(&ready).take(), &parked, &dispensable, &*unflushed);
        async move {
            let bodyless = request.body().is_end_stream();
            let answer = match ready {
                Some(answer) => answer,
                None => answer(request, peer, slot, shared, unflushed, parked).await,
            };
            let many = resumed || slot.idle() > WARM;
            let complete = answer.body().size_hint().exact().is_some();
            dispensable.store(many && complete && (bodyless || slot.is_body_read()), Ordering::Relaxed);
            Ok::<_, Infallible>(finished(answer, slot, shared))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.head_time)
        .max_header_size(HEAD_BYTES)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut step = std::future::poll_fn(|cx| {
        if Pin::new(&mut connection).poll(cx).is_ready() {
            return Poll::Ready(Step::Closed);
        }
        if let Some(parked) = lock(&parked).take() {
            return Poll::Ready(Step::Parked(parked));
        }
        // Only after a single request whose body has been read: the rest of a body must not be taken for the next request.
        let answered = dispensable.load(Ordering::Relaxed) && requests.load(Ordering::Relaxed) == 1;
        let sent = answered && !slot.is_serving() && !unflushed.load(Ordering::Relaxed);
        if sent { Poll::Ready(Step::Idle) } else { Poll::Pending }
    });
    let mut taken = tokio::select! {
        biased;
        step = &mut step => Some(step),
        () = slot.evicted() => return Ended::Over,
        _ = stage.wait_for(|stage| *stage != Stage::Open) => None,
    };
    if taken.is_none() && slot.is_new() {
        taken = tokio::select! {
            biased;
            step = &mut step => Some(step),
            () = sleep(GREETING) => None,
            _ = stage.wait_for(|stage| *stage == Stage::Cut) => None,
        };
    }
    let Some(step) = taken else {
        if slot.is_serving() || unflushed.load(Ordering::Relaxed) {
            Pin::new(&mut connection).graceful_shutdown();
            tokio::select! {
                biased;
                _ = &mut connection => {}
                _ = stage.wait_for(|stage| *stage == Stage::Cut) => {}
            }
        }
        return Ended::Over;
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match step {
        Step::Closed => {
            tokio::select! {
                () = linger(stream.into_inner()) => {}
                () = slot.evicted() => {}
                _ = stage.wait_for(|stage| *stage != Stage::Open) => {}
            }
            Ended::Over
        }
        Step::Parked(parked) => {
            stream.read_first(&parts.read_buf);
            Ended::Parked(stream, parked)
        }
        Step::Idle => {
            stream.read_first(&parts.read_buf);
            Ended::Idle(stream)
        }
    }
}

/// Why hyper is no longer needed.
enum Step {
    Closed,
    Parked(Parked),
    Idle,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handles one request. If the answer comes later and the request can be parked, it is put into `parked`, and this future never
/// resolves: it is dropped with hyper's state.
async fn answer<S>(
    mut request: Request<Incoming>,
    peer: Peer,
    slot: &Arc<Slot>,
    shared: &Shared<S>,
    unflushed: &AtomicBool,
    parked: &Mutex<Option<Parked>>,
) -> Response
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    if !slot.serve() {
        // Evicted before the work began: the connection's task is about to end.
        return std::future::pending().await;
    }
    let asked = Asked::of(&request);
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(slot.clone());
    let response = later::guarded(async {
        let Ok(response) = shared.service.call(request).await;
        response
    })
    .await;
    let Some(answer) = later::take(&response) else { return response };
    // Dropping hyper's state would lose what it has not written of an earlier answer. When the server stops, all requests in
    // progress are with hyper.
    let asked = asked.filter(|_| !unflushed.load(Ordering::Relaxed) && *shared.stage.borrow() == Stage::Open);
    let Some(asked) = asked else { return later::guarded(answer()).await };
    *lock(parked) = Some(Parked { asked, answer });
    std::future::pending().await
}

/// Marks the request as answered, and adds `connection: close` if the connection is not to be kept.
fn finished<S>(mut response: Response, slot: &Slot, shared: &Shared<S>) -> Response {
    // Members that send a request every half minute would otherwise fill the memory with connections that time out unused.
    let crowded = slot.idle() >= shared.limits.idle && response.extensions().get::<Waited>().is_none();
    if crowded || *shared.stage.borrow() != Stage::Open {
        let _ = response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    slot.wait();
    response
}

/// Closes the sending side and continues to read for a moment. Closing a socket with unread bytes sends a reset, which can
/// destroy the answer before the client has read it (RFC 9112 section 9.6).
async fn linger(mut stream: TcpStream) {
    let rest = async {
        stream.shutdown().await?;
        loop {
            stream.readable().await?;
            match discard(&stream) {
                Ok(0) => return io::Result::Ok(()),
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    };
    let _ = timeout(LINGER, rest).await;
}

/// Reads and discards what is available. A separate function, so that the buffer is not part of the future of a connection.
fn discard(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; 4096])
}
