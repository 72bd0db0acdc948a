//! Answers that come later: many clients can wait for an answer at little cost.
//!
//! A handler that has no answer yet returns [`later`]. The server then *parks* the request: it drops hyper's state of the
//! connection and the futures of the routes (20 KiB) and keeps only the socket and the future of the answer. When that
//! resolves, hyper sends the answer like any other.
//!
//! A request is not parked if it is not HTTP/1.1, has a body, or an earlier answer is still being sent on its connection. The
//! server then waits for the same future but keeps hyper's state. The client sees no difference.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::CONNECTION;
use http::{Method, Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use warp::reply::Response;

use super::refusal::error;

/// Creates the future of an answer.
pub(super) type Begin = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Response> + Send>> + Send>;

/// An extension of the placeholder that [`later`] returns. Extensions must be `Clone` and `Sync`, so the content is taken out of
/// a mutex, once.
#[derive(Clone)]
struct Later(Arc<Mutex<Option<Begin>>>);

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

/// A placeholder that makes the server wait for the future created by `begin` and send the response of that.
///
/// `begin` is called after hyper's state has been dropped. It should not own memory that the handler has allocated: such memory
/// lies between hyper's buffers and would keep the allocator from reusing the freed buffers as a whole for the next request.
#[must_use]
pub fn later<F>(begin: impl FnOnce() -> F + Send + 'static) -> Response
where
    F: Future<Output = Response> + Send + 'static,
{
    // Only sent by a server other than `serve::run`.
    let mut response = error(StatusCode::INTERNAL_SERVER_ERROR, "internal error: the answer comes later");
    let begin: Begin = Box::new(|| Box::pin(begin()));
    let _ = response.extensions_mut().insert(Later(Arc::new(Mutex::new(Some(begin)))));
    response
}

/// An extension of an answer that keeps something until the answer has been sent.
#[derive(Clone)]
pub(super) struct UntilSent {
    _guard: Arc<dyn Send + Sync>,
}

/// Keeps `guard` until `response`, the result of a [`later`] future, has been sent or its connection has been closed.
pub fn until_sent(response: &mut Response, guard: impl Send + Sync + 'static) {
    let _ = response.extensions_mut().insert(UntilSent { _guard: Arc::new(guard) });
}

/// Whether `response` was made by [`later`].
#[must_use]
pub fn is_later<B>(response: &http::Response<B>) -> bool {
    response.extensions().get::<Later>().is_some()
}

/// Takes what creates the future of the answer, if `response` was made by [`later`].
pub(super) fn take<B>(response: &http::Response<B>) -> Option<Begin> {
    let Later(answer) = response.extensions().get()?;
    answer.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Waits for the answer if it comes later (`Err`). For tests that call routes without the server.
#[cfg(test)]
pub(crate) async fn settle<B>(response: http::Response<B>) -> Result<http::Response<B>, Response> {
    match take(&response) {
        Some(begin) => Err(begin().await),
        None => Ok(response),
    }
}

/// The properties of a parked request that its answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    head: bool,
    close: bool,
}

impl Asked {
    /// The properties of `request`. `None` if it cannot be parked.
    pub(super) fn of(request: &Request<Incoming>) -> Option<Self> {
        let head = *request.method() == Method::HEAD;
        let bodyless = request.body().is_end_stream() && (head || *request.method() == Method::GET);
        let (mut close, mut plain) = (false, true);
        for value in request.headers().get_all(CONNECTION) {
            for option in value.to_str().unwrap_or("?").split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    close = true;
                } else if !option.eq_ignore_ascii_case("keep-alive") {
                    // For example an upgrade.
                    plain = false;
                }
            }
        }
        (request.version() == Version::HTTP_11 && bodyless && plain).then_some(Self { head, close })
    }

    /// A minimal request with the same properties. hyper reads it instead of the parked one, and so writes this answer, too.
    pub(super) fn request(self) -> &'static str {
        match (self.head, self.close) {
            (false, false) => "GET / HTTP/1.1\r\n\r\n",
            (false, true) => "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            (true, false) => "HEAD / HTTP/1.1\r\n\r\n",
            (true, true) => "HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n",
        }
    }
}

/// The answer of `handler`, or 500 if it panics.
pub(super) async fn guarded(handler: impl Future<Output = Response>) -> Response {
    let mut handler = pin!(handler);
    std::future::poll_fn(|cx| {
        // Unwind safety: the future is not polled again after a panic, and state shared with other requests is behind locks.
        catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))).unwrap_or_else(|_| {
            tracing::error!("a request handler panicked");
            error(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the log").into()
        })
    })
    .await
}
