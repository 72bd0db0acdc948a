//! Reading a request's body within a size and a time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::time::timeout;
use warp::{Filter, Rejection};

use super::Limits;
use super::connections::Slot;
use super::refusal::Refusal;

/// Reads the whole body of a request, with or without a `Content-Length`. Rejects a body that is larger than `limits.body_bytes`
/// with 413, one that takes longer than `limits.body_time` with 408, and one that is incomplete with 400.
///
/// While the body is being read, the connection counts as waiting for the client, so it may be evicted at the limit on
/// connections.
#[must_use]
pub fn body(limits: &Limits) -> impl Filter<Extract = (Bytes,), Error = Rejection> + Clone + use<> {
    let (most, time) = (limits.body_bytes, limits.body_time);
    warp::ext::optional::<Arc<Slot>>()
        .and(warp::header::optional::<u64>("content-length"))
        .and(warp::body::stream())
        .and_then(move |slot, announced, stream| read(slot, announced, stream, most, time))
}

async fn read<S, B>(
    slot: Option<Arc<Slot>>,
    announced: Option<u64>,
    stream: S,
    most: usize,
    time: Duration,
) -> Result<Bytes, Rejection>
where
    S: warp::Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    if announced.is_some_and(|bytes| bytes > most as u64) {
        return Err(too_large(most));
    }
    if let Some(slot) = &slot {
        slot.wait();
    }
    let body = timeout(time, collect(stream, most)).await.unwrap_or_else(|_| {
        let text = format!("the body did not arrive within {} s", time.as_secs_f64());
        Err(Refusal::rejection(StatusCode::REQUEST_TIMEOUT, text))
    });
    if let (Some(slot), Ok(_)) = (&slot, &body) {
        slot.set_body_read(true);
    }
    if slot.is_some_and(|slot| !slot.serve()) {
        // Evicted: the connection's task is about to drop this request, which must have no effect.
        std::future::pending::<()>().await;
    }
    body
}

async fn collect<S, B>(stream: S, most: usize) -> Result<Bytes, Rejection>
where
    S: warp::Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let mut stream = pin!(stream);
    let mut body = BytesMut::new();
    while let Some(chunk) = std::future::poll_fn(|cx| stream.as_mut().poll_next(cx)).await {
        let chunk = chunk.map_err(|_| Refusal::rejection(StatusCode::BAD_REQUEST, "the body is incomplete"))?;
        if chunk.remaining() > most - body.len() {
            return Err(too_large(most));
        }
        bytes::BufMut::put(&mut body, chunk);
    }
    Ok(body.freeze())
}

fn too_large(most: usize) -> Rejection {
    Refusal::rejection(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes"))
}
