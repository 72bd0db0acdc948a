//! One connection from its first byte to its end.
//!
//! A connection is in one of three states, and only the second holds what hyper needs for it, which is large:
//!
//! * *silent*: the client has sent nothing since the connection was opened or, with many idle connections, since the last
//!   answer;
//! * *in exchange*: hyper reads requests and writes answers;
//! * *parked*: a handler has answered [`later`](super::later()), and only its future and the socket are kept.

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
use super::later::{self, Asked, Begin};
use super::patience::Patient;
use super::{GREETING, HEAD_BYTES, LINGER, Peer, Shared, Stage, Waited};

/// How many idle connections keep hyper's state, which saves some microseconds at their next request. More than a few clients
/// that ask all the time need, and few enough to cost little memory (20 KiB each).
const WARM: usize = 128;

/// How an exchange ended.
enum Ended {
    /// The connection is closed, or is to be.
    Over,
    /// The client asked for something that comes later.
    Parked(Patient, Parked),
    /// The answer is out, nothing has been asked since, and hyper's state is not worth its memory.
    Silent(Patient),
}

/// A request that waits for its answer.
struct Parked {
    asked: Asked,
    answer: Begin,
}

/// Serves `stream` until either side ends it.
pub(super) async fn converse<S>(stream: TcpStream, peer: Peer, slot: Arc<Slot>, shared: Arc<Shared<S>>)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let mut stage = shared.stage.subscribe();
    let mut stream = Patient::new(stream, shared.limits.write_time);
    let mut answer = None;
    loop {
        if !stream.has_read_ahead() && !speaks(&mut stream, &slot, &shared, &mut stage).await {
            return;
        }
        // On the heap, and only while it lasts: a future is as large as its largest state, and this one is by far the largest.
        let ended = Box::pin(exchange(stream, answer.take(), peer, &slot, &shared, &mut stage)).await;
        match ended {
            Ended::Over => return,
            Ended::Silent(silent) => stream = silent,
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

/// Waits until the client sends something. False where either side ends the connection before.
async fn speaks<S>(stream: &mut Patient, slot: &Slot, shared: &Shared<S>, stage: &mut watch::Receiver<Stage>) -> bool {
    let mut sent = pin!(timeout(shared.limits.head_time, stream.read_ahead()));
    let has_sent = |sent| matches!(sent, Ok(Ok(true)));
    tokio::select! {
        biased;
        sent = &mut sent => return has_sent(sent),
        () = slot.evicted() => return false,
        _ = stage.wait_for(|stage| *stage != Stage::Open) => {}
    }
    // A port that systemd holds refuses nobody while this process ends, so neither must a connection it took.
    slot.is_new()
        && tokio::select! {
            biased;
            sent = sent => has_sent(sent),
            () = sleep(GREETING) => false,
            _ = stage.wait_for(|stage| *stage == Stage::Cut) => false,
        }
}

/// Returns when the client of a parked request has closed the connection. What it sends meanwhile stays where it is, and
/// hides the end of the connection until the answer is tried.
async fn gone(stream: &Patient) {
    if let Ok(1..) = stream.peek(&mut [0]).await {
        std::future::pending().await
    }
}

/// Lets hyper read requests and write answers until the connection ends or can do without it. With `ready` the first thing
/// that hyper reads is [`Asked::request`], and `ready` is the answer to it.
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
    let (ready, parked) = (Mutex::new(ready), Mutex::new(None));
    let requests = AtomicUsize::new(0);
    let dispensable = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        requests.fetch_add(1, Ordering::Relaxed);
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
        // Only after one request, all of whose body has been read: nothing that belongs to it can still arrive.
        let answered = dispensable.load(Ordering::Relaxed) && requests.load(Ordering::Relaxed) == 1;
        let sent = answered && !slot.is_serving() && !unflushed.load(Ordering::Relaxed);
        if sent { Poll::Ready(Step::Silent) } else { Poll::Pending }
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
                _ = &mut connection => { shared.finished.fetch_add(1, Ordering::Relaxed); }
                _ = stage.wait_for(|stage| *stage == Stage::Cut) => {}
            }
        }
        return Ended::Over;
    };
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    match step {
        Step::Closed => {
            if *stage.borrow() != Stage::Open {
                shared.finished.fetch_add(usize::from(!slot.is_new()), Ordering::Relaxed);
            }
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
        Step::Silent => {
            stream.read_first(&parts.read_buf);
            Ended::Silent(stream)
        }
    }
}

/// What hyper is to do with a connection next.
enum Step {
    Closed,
    Parked(Parked),
    Silent,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to one request. Where it comes later and the request can be parked, that is left in `parked`, and this waits to
/// be dropped with everything else that hyper holds.
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
        // Evicted before the work began; the connection's task is about to end.
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
    // What hyper has not written yet of an earlier answer would be lost with it, and a drain looks for what it serves.
    let asked = asked.filter(|_| !unflushed.load(Ordering::Relaxed) && *shared.stage.borrow() == Stage::Open);
    let Some(asked) = asked else { return later::guarded(answer()).await };
    *lock(parked) = Some(Parked { asked, answer });
    std::future::pending().await
}

/// Ends the handler's turn. The connection ends with this answer where it is not to be kept.
fn finished<S>(mut response: Response, slot: &Slot, shared: &Shared<S>) -> Response {
    // A ring whose members come every half minute would fill the memory with connections that nobody uses again.
    let crowded = slot.idle() >= shared.limits.idle && response.extensions().get::<Waited>().is_none();
    if crowded || *shared.stage.borrow() != Stage::Open {
        let _ = response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    slot.wait();
    response
}

/// Closes our side and reads on for a moment: to close with unread bytes would send a reset, which can overtake the answer
/// (RFC 9112 section 9.6).
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

/// Reads and forgets what there is. A function of its own, so that the buffer is no part of the future of a connection.
fn discard(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; 4096])
}
