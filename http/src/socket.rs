//! A client's socket as HTTP sees it, and whoever an upgrade hands it to: in the clear, or in TLS.
//!
//! ```text
//!  HTTP, or an upgraded stream
//!  Socket ── plain ────────────┐
//!      └──── TLS (rustls) ─────┴──▶ Wire: place in the limit, patience ──▶ TCP
//! ```

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::wire::Wire;

/// A client's socket.
///
/// It counts against the limit of connections until it is dropped. A write or a flush that waits for a
/// client that has stopped reading fails in time.
#[derive(Debug)]
pub struct Socket(Layer);

#[derive(Debug)]
enum Layer {
    Plain(Wire),
    /// Apart, since it is large and most sockets have none.
    Tls(Box<TlsStream<Wire>>),
}

impl From<Wire> for Socket {
    fn from(wire: Wire) -> Self {
        Self(Layer::Plain(wire))
    }
}

impl From<TlsStream<Wire>> for Socket {
    fn from(stream: TlsStream<Wire>) -> Self {
        Self(Layer::Tls(Box::new(stream)))
    }
}

/// The socket that an upgrade hands over, and what was read from it beyond the request.
///
/// Gives the upgrade back if it is none of [`crate::serve()`]'s.
pub fn upgraded_socket(upgraded: Upgraded) -> Result<(Socket, Bytes), Upgraded> {
    let parts = upgraded.downcast::<TokioIo<Socket>>()?;
    Ok((parts.io.into_inner(), parts.read_buf))
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
