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

use bytes::Bytes;
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
    /// What is read before anything comes from the socket.
    ahead: Bytes,
    /// Made only when a write has to wait, which most answers never do.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, unflushed: Arc::default(), deadline: None, ahead: Bytes::new(), alarm: None }
    }

    /// A view of whether an answer is on its way out.
    pub(super) fn unflushed(&self) -> Arc<AtomicBool> {
        self.unflushed.clone()
    }

    /// Makes `bytes` the next that are read.
    pub(super) fn read_first(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead = [bytes, &self.ahead].concat().into();
        }
    }

    /// Whether there is something to read whatever the client does.
    pub(super) fn has_read_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Waits until the client has sent something and keeps it to be read. False where the client has ended the connection.
    pub(super) async fn read_ahead(&mut self) -> io::Result<bool> {
        loop {
            self.stream.readable().await?;
            // What `readable` says of a new connection is a guess.
            match read_now(&self.stream) {
                Ok(bytes) => {
                    self.ahead = bytes;
                    return Ok(self.has_read_ahead());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until there is something to read from the socket, or its end, and gives what there is. It stays there.
    pub(super) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.peek(buffer).await
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

/// Reads what there is, up to the length of most requests. A function of its own, so that the buffer is no part of the future
/// of a connection.
fn read_now(stream: &TcpStream) -> io::Result<Bytes> {
    let mut buffer = [0; 2048];
    let read = stream.try_read(&mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..read]))
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_read_ahead() {
            let now = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(now));
            return Poll::Ready(Ok(()));
        }
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
