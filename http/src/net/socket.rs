//! A client's socket as HTTP sees it: in the clear, or in TLS.
//!
//! ```text
//!  HTTP
//!  Socket ── plain ────────────┐
//!      └──── TLS (rustls) ─────┴──▶ ClientTcpStream: permit, write timeout ──▶ TCP
//! ```

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::{NonBlockingStream, net::tcp::ClientTcpStream};

/// A client's socket.
///
/// It counts against the limit of connections until it is dropped. A write or a flush that waits for a
/// client that has stopped reading fails in time.
#[derive(Debug)]
pub(crate) struct Socket(Layer);

#[derive(Debug)]
enum Layer {
    Plain(ClientTcpStream),
    /// Apart, since it is large and most sockets have none.
    Tls(Box<TlsStream<ClientTcpStream>>),
}

impl From<ClientTcpStream> for Socket {
    fn from(wire: ClientTcpStream) -> Self {
        Self(Layer::Plain(wire))
    }
}

impl From<TlsStream<ClientTcpStream>> for Socket {
    fn from(stream: TlsStream<ClientTcpStream>) -> Self {
        Self(Layer::Tls(Box::new(stream)))
    }
}

impl Socket {
    /// Detaches the socket from the runtime. Returns it and the bytes to read before its own: `read`, then those that
    /// the stream has read ahead.
    ///
    /// Call it in a tokio runtime, when no written bytes are unsent.
    pub(crate) fn detach(self, read: &[u8]) -> io::Result<(NonBlockingStream, Bytes)> {
        let (wire, tls) = match self.0 {
            Layer::Plain(wire) => (wire, None),
            Layer::Tls(stream) => {
                let (wire, tls) = stream.into_inner();
                (wire, Some(tls))
            }
        };
        let (stream, place, behind) = wire.into_parts();
        let read_ahead = [read, &behind].concat();
        Ok((
            NonBlockingStream::new(stream.into_std()?, tls, place),
            read_ahead.into(),
        ))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(wire) => Pin::new(wire).poll_read(cx, buffer),
            Layer::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layer::Plain(wire) => Pin::new(wire).poll_write(cx, bytes),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Layer::Plain(wire) => Pin::new(wire).poll_write_vectored(cx, slices),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Layer::Plain(wire) => wire.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
