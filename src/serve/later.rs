//! Answers that come later: how a handler lets many clients wait at little cost.
//!
//! A handler that has nothing to say yet returns [`later`] in the place of an answer. The server then gives up everything
//! that HTTP needs to serve a connection (hyper's buffers and state and the routes' futures, 20 KiB) and keeps only the
//! socket and the handler's future until that resolves with the answer. The answer is then sent through hyper like any other.
//!
//! Where the request cannot be parked in this way, because it is not HTTP/1.1, has a body, or an earlier answer is still being
//! sent on its connection, the server waits for the same future with hyper's state in place. The client sees no difference.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::CONNECTION;
use http::{Method, Request, StatusCode, Version};
use hyper::body::{Body, Incoming};
use warp::reply::Response;

use super::refusal::error;

/// What begins to wait for an answer.
pub(super) type Begin = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Response> + Send>> + Send>;

/// In the extensions of a response that stands in for an answer that comes later. The extensions want a type that can be
/// cloned and shared, so what it holds is taken out of it, once.
#[derive(Clone)]
struct Later(Arc<Mutex<Option<Begin>>>);

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Later")
    }
}

/// The response that makes the server wait for the future that `begin` makes, and send what it resolves with.
///
/// `begin` is called when the request has been parked. It should own nothing that it allocated for itself: what stays
/// allocated between hyper's buffers keeps the allocator from using their memory for the next request, and then each client
/// that waits costs as much as if it had kept them.
#[must_use]
pub fn later<F>(begin: impl FnOnce() -> F + Send + 'static) -> Response
where
    F: Future<Output = Response> + Send + 'static,
{
    // Without this module's server, which looks for the extension, this is what a client would get.
    let mut response = error(StatusCode::INTERNAL_SERVER_ERROR, "the answer comes later, and nobody waited for it");
    let begin: Begin = Box::new(|| Box::pin(begin()));
    let _ = response.extensions_mut().insert(Later(Arc::new(Mutex::new(Some(begin)))));
    response
}

/// Whether `response` was made by [`later`].
#[must_use]
pub fn is_later<B>(response: &http::Response<B>) -> bool {
    response.extensions().get::<Later>().is_some()
}

/// What begins to wait for the answer where `response` was made by [`later`].
pub(super) fn take<B>(response: &http::Response<B>) -> Option<Begin> {
    let Later(answer) = response.extensions().get()?;
    answer.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The answer itself: waits for one that comes later. For callers without the server, such as tests of routes.
#[cfg(test)]
pub(crate) async fn settle<B>(response: http::Response<B>) -> Result<http::Response<B>, Response> {
    match take(&response) {
        Some(begin) => Err(begin().await),
        None => Ok(response),
    }
}

/// What the answer to a parked request needs to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    head: bool,
    close: bool,
}

impl Asked {
    /// What to keep of `request`; nothing where it cannot be parked.
    pub(super) fn of(request: &Request<Incoming>) -> Option<Self> {
        let head = *request.method() == Method::HEAD;
        let bodyless = request.body().is_end_stream() && (head || *request.method() == Method::GET);
        let (mut close, mut plain) = (false, true);
        for value in request.headers().get_all(CONNECTION) {
            for option in value.to_str().unwrap_or("?").split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    close = true;
                } else if !option.eq_ignore_ascii_case("keep-alive") {
                    // An upgrade is hyper's business.
                    plain = false;
                }
            }
        }
        (request.version() == Version::HTTP_11 && bodyless && plain).then_some(Self { head, close })
    }

    /// The shortest request with the same needs. hyper reads it in the place of the one that was parked, so that it is hyper
    /// that writes every answer.
    pub(super) fn request(self) -> &'static str {
        match (self.head, self.close) {
            (false, false) => "GET / HTTP/1.1\r\n\r\n",
            (false, true) => "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
            (true, false) => "HEAD / HTTP/1.1\r\n\r\n",
            (true, true) => "HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n",
        }
    }
}

/// What `handler` answers; 500 where it panics.
pub(super) async fn guarded(handler: impl Future<Output = Response>) -> Response {
    let mut handler = pin!(handler);
    std::future::poll_fn(|cx| {
        // The future is not polled again after a panic, and what it shares with other requests is behind their own locks.
        catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))).unwrap_or_else(|_| {
            tracing::error!("a request handler panicked");
            error(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be handled; the log says why").into()
        })
    })
    .await
}
