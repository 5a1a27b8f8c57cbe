//! A client's TCP stream, with its permit of the connection limit and its write timeout.
//!
//! HTTP and TLS lie above it ([`crate::net::socket`]). So a client that does not read is detected here, however much
//! the layers above still buffer for it.

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

/// How long a closing connection waits for the client to close too, and how much it reads meanwhile.
///
/// Closing one with unread bytes resets it, and the client might lose the answer that says why: a body
/// that was refused unread is still on its way then.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 4 << 20;

/// A client's TCP stream. A write fails if the client reads nothing for too long.
#[derive(Debug)]
pub(crate) struct ClientTcpStream {
    stream: TcpStream,
    /// Free for another when this is dropped.
    place: OwnedSemaphorePermit,
    /// What was read to see what begins here, to be read again.
    ahead: Bytes,
    unread: Duration,
    /// Runs while a write waits for the client to read.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Runs while the client may still close, with the bytes that it may still send.
    lingering: Option<(Pin<Box<Sleep>>, usize)>,
}

impl ClientTcpStream {
    /// A write fails once the client has read nothing for `unread`.
    pub(crate) fn new(stream: TcpStream, place: OwnedSemaphorePermit, unread: Duration) -> Self {
        Self {
            stream,
            place,
            ahead: Bytes::new(),
            unread,
            waiting: None,
            lingering: None,
        }
    }

    /// The connection alone, its place, and what is to be read again.
    pub(crate) fn into_parts(self) -> (TcpStream, OwnedSemaphorePermit, Bytes) {
        (self.stream, self.place, self.ahead)
    }

    /// Gives back what was read from it, to be read again.
    pub(crate) fn give_back(&mut self, ahead: &[u8]) {
        self.ahead = Bytes::copy_from_slice(ahead);
    }

    /// The first byte that waits to be read, which stays; `None` if the client has closed.
    pub(crate) async fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        let read = self.stream.peek(&mut byte).await?;
        Ok((read > 0).then_some(byte[0]))
    }

    /// What a write came to, unless the client has not read for too long.
    fn patiently<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let unread = self.unread;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(unread)));
        ready!(waiting.as_mut().poll(cx));
        // A caller that polls on after the error gets the same patience again.
        waiting.as_mut().reset(Instant::now() + unread);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientTcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let bytes = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..bytes]);
        self.ahead.advance(bytes);
        if self.ahead.is_empty() && buffer.remaining() > 0 {
            // What came with it, in the same read. An error shows itself again at the next one.
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
        self.patiently(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says that nothing more comes, then lingers.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let (patience, left) = this
            .lingering
            .get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut scrap = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut buffer);
            let bytes = buffer.filled().len();
            match read {
                Poll::Pending => return patience.as_mut().poll(cx).map(Ok),
                Poll::Ready(Ok(())) if bytes > 0 && bytes <= *left => *left -= bytes,
                Poll::Ready(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}
