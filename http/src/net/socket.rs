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

/// A client's socket. The TLS stream is boxed, since its state is large and most sockets do not use TLS.
///
/// The socket counts against the limit of connections until it is dropped. A write or a flush fails if the client reads
/// nothing for longer than the write timeout.
pub(crate) type Socket = Either<ClientTcpStream, Box<TlsStream<ClientTcpStream>>>;

/// Detaches a socket from the tokio runtime. Returns the socket, and the bytes that the new owner has to process before
/// it reads from the socket: first the bytes in `read`, then the bytes that the stream has read ahead.
///
/// Call this function in a tokio runtime, when all written bytes are flushed.
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
