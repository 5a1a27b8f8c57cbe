//! A client's socket as HTTP uses it: with or without TLS.
//!
//! ```text
//!  HTTP
//!  Socket ── plain ────────────┐
//!      └──── TLS (rustls) ─────┴──▶ ClientTcpStream: permit, write timeout ──▶ TCP
//! ```

use std::io;

use bytes::Bytes;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::{NonBlockingStream, net::tcp::ClientTcpStream};

/// A client's socket. TLS is boxed, since its state is large and most sockets have none.
///
/// It counts against the limit of connections until it is dropped. A write or a flush that waits for a client that does
/// not read fails after the write timeout.
pub(crate) type Socket = Either<ClientTcpStream, Box<TlsStream<ClientTcpStream>>>;

/// Detaches a socket from the runtime. Returns it and the bytes to read before its own: `read`, then the bytes that the
/// stream has read ahead.
///
/// Call it in a tokio runtime, when no written bytes are unsent.
pub(crate) fn detach(socket: Socket, read: &[u8]) -> io::Result<(NonBlockingStream, Bytes)> {
    let (tcp, tls) = match socket {
        Either::Left(tcp) => (tcp, None),
        Either::Right(stream) => {
            let (tcp, tls) = stream.into_inner();
            (tcp, Some(tls))
        }
    };
    let (stream, permit, behind) = tcp.into_parts();
    let read_ahead = [read, &behind].concat();
    Ok((
        NonBlockingStream::new(stream.into_std()?, tls, permit),
        read_ahead.into(),
    ))
}
