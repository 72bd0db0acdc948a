//! A TCP stream whose writes cannot last forever.
//!
//! A client that asks and then does not read, or reads a byte a second, would keep the answer in memory and its connection
//! open without end. [`Patient`] gives everything between two flushes one time limit: hyper flushes when an answer is out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock;

/// A stream that fails with `TimedOut` when an answer is not out within its limit.
pub(super) struct Patient {
    stream: TcpStream,
    limit: Duration,
    /// Whether bytes have been written that are not flushed yet.
    unflushed: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// Made only when a write has to wait, which most answers never do.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, unflushed: Arc::default(), deadline: None, alarm: None }
    }

    /// A view of whether an answer is on its way out.
    pub(super) fn unflushed(&self) -> Arc<AtomicBool> {
        self.unflushed.clone()
    }

    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.unflushed.store(true, Ordering::Relaxed);
        let deadline = *self.deadline.get_or_insert_with(|| (clock::monotonic() + self.limit).into());
        if let Poll::Ready(result) = write(Pin::new(&mut self.stream), cx) {
            return Poll::Ready(result);
        }
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        alarm.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.bounded(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bounded(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() {
            self.unflushed.store(false, Ordering::Relaxed);
            self.deadline = None;
            self.alarm = None;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
