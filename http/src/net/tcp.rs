//! A client's TCP stream, with its permit of the connection limit and its write timeout.
//!
//! HTTP and TLS are the layers above it ([`crate::net::socket`]). This layer detects clients that do not read, so the
//! detection does not depend on the number of bytes that the layers above buffer.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep},
};

/// After the server has closed its sending side, a connection waits until the client closes, too. These are the maximum
/// time of this wait, and the maximum bytes that are read and discarded during the wait.
///
/// When a body is refused, the rest of the body is still in transit. Closing a socket that has unread bytes resets the
/// connection, and the client might lose the response that names the error. So these bytes are read before the socket
/// is closed.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 << 20;

/// A client's TCP stream. A write fails if the client reads nothing for longer than the write timeout.
#[derive(Debug)]
pub(crate) struct ClientTcpStream {
    stream: TcpStream,
    /// The permit of the connection limit, released when the stream is dropped.
    permit: OwnedSemaphorePermit,
    /// Bytes that were read to detect the protocol, and that the next reads return again.
    read_ahead: Bytes,
    write_timeout: Duration,
    /// Timer that runs while a write waits for the client.
    waiting: Option<Pin<Box<Sleep>>>,
    /// The timer of [`LINGER`], and the number of bytes that may still be discarded. `None` until the sending side is
    /// closed.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl ClientTcpStream {
    /// Creates a stream whose writes fail when the client has read nothing for `write_timeout`.
    pub(crate) fn new(
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        write_timeout: Duration,
    ) -> Self {
        Self {
            stream,
            permit,
            read_ahead: Bytes::new(),
            write_timeout,
            waiting: None,
            lingering: None,
        }
    }

    /// Returns the TCP stream, its permit, and the bytes that were put back and not read again.
    pub(crate) fn into_parts(self) -> (TcpStream, OwnedSemaphorePermit, Bytes) {
        (self.stream, self.permit, self.read_ahead)
    }

    /// Puts bytes back, so that the next reads return them again.
    pub(crate) fn put_back(&mut self, read_ahead: &[u8]) {
        self.read_ahead = Bytes::copy_from_slice(read_ahead);
    }

    /// Peeks at the first byte; `None` if the client has closed the connection.
    pub(crate) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = self.stream.peek(&mut byte).await?;
        Ok((read > 0).then_some(byte[0]))
    }

    /// Returns the result of a write, or an error when the write timeout has passed.
    fn poll_write_timeout<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let write_timeout = self.write_timeout;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(sleep(write_timeout)));
        ready!(waiting.as_mut().poll(cx));
        // The timeout is reset, so that it starts again if the caller polls again after the error.
        waiting.as_mut().reset(Instant::now() + write_timeout);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientTcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let bytes = self.read_ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.read_ahead[..bytes]);
        self.read_ahead.advance(bytes);
        if self.read_ahead.is_empty() && buffer.remaining() > 0 {
            // The buffer also has space for bytes that have arrived in the meantime. An error is ignored here, since
            // the next read returns the same error.
            let _ = Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientTcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.poll_write_timeout(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.poll_write_timeout(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Closes the sending side, then discards received bytes until the client closes too or [`LINGER`] is over.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let (timer, bytes_left) = this
            .lingering
            .get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut scrap = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut buffer);
            let bytes = buffer.filled().len();
            match read {
                Poll::Pending => return timer.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(())) if bytes > 0 && bytes <= *bytes_left => *bytes_left -= bytes,
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
