//! A TCP stream with a time limit on writing, and with bytes that were read in advance.
//!
//! A client that does not read its answer, or reads it very slowly, would keep the answer in memory and its connection open
//! for an unlimited time. [`Patient`] limits the time between two flushes; hyper flushes at the end of each answer.

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

/// A stream whose writes fail with `TimedOut` if an answer is not sent within the limit.
pub(super) struct Patient {
    stream: TcpStream,
    limit: Duration,
    /// Whether bytes have been written that have not been flushed.
    unflushed: Arc<AtomicBool>,
    deadline: Option<Instant>,
    /// Bytes to read before those of the socket.
    ahead: Bytes,
    /// Created only when a write has to wait, which is rare.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    pub(super) fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, unflushed: Arc::default(), deadline: None, ahead: Bytes::new(), alarm: None }
    }

    /// A shared flag: whether an answer is being sent.
    pub(super) fn unflushed(&self) -> Arc<AtomicBool> {
        self.unflushed.clone()
    }

    /// Puts `bytes` in front of everything else that will be read.
    pub(super) fn read_first(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.ahead = [bytes, &self.ahead].concat().into();
        }
    }

    /// Whether bytes are buffered that can be read without the socket.
    pub(super) fn has_read_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Waits until the client has sent something, and buffers it. False if the client has closed the connection.
    pub(super) async fn read_ahead(&mut self) -> io::Result<bool> {
        loop {
            self.stream.readable().await?;
            // For a new connection `readable` returns at once, whether there is something to read or not.
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

    /// Waits until the socket has something to read or has been closed, and copies it without removing it.
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

/// Reads what is available, enough for most requests. A separate function, so that the buffer is not part of the future of a
/// connection.
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
