//! A connection from its first byte to its end.
//!
//! ```text
//!  ClientTcpStream ── plain: first bytes ──▶ Socket ─┬▶ HTTP/1: requests one after another
//!         └────────── TLS: handshake, ALPN ─────┘    └▶ HTTP/2: concurrent requests
//! ```

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{io::AsyncWriteExt, sync::Semaphore, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, sync::CancellationToken};

use crate::{
    Limits, Problem,
    net::{socket::Socket, tcp::ClientTcpStream, tls::HTTP2},
    server::{respond::Responder, sniff::begins_http2},
};

/// State that the connections of a listener share.
pub(crate) struct Serving {
    pub(crate) responder: Responder,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
    /// Permits for the concurrent requests of HTTP/2 connections beyond the first of each.
    ///
    /// As many as connections: the memory that each request may use, such as a small body, is then bounded by twice the
    /// number of connections, not by a hundred times.
    pub(crate) extra_streams: Arc<Semaphore>,
}

/// The two stages of a shutdown.
pub(crate) struct Shutdown {
    /// Connections close after their requests in flight.
    pub(crate) graceful: CancellationToken,
    /// Connections close at once: the deadline of the drain has passed.
    pub(crate) forced: CancellationToken,
}

/// The protocol of a connection.
enum Protocol {
    Http1(Socket),
    Http2(Socket),
}

impl Serving {
    /// Serves a connection to its end.
    pub(crate) async fn connection(self: Arc<Self>, tcp: ClientTcpStream, peer: SocketAddr) {
        let protocol = tokio::select! {
            biased;
            protocol = self.begin(tcp) => protocol,
            // The client has not sent a request yet.
            () = self.shutdown.graceful.cancelled() => return,
        };
        let ended = match protocol {
            Ok(Protocol::Http1(socket)) => self.http1(socket, peer).await,
            Ok(Protocol::Http2(socket)) => self.http2(socket, peer).await,
            Err(error) => {
                tracing::debug!(%peer, %error, "a connection failed before its first request");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke off");
        }
    }

    /// Detects the protocol, or performs the TLS handshake. Both have a timeout.
    async fn begin(&self, mut tcp: ClientTcpStream) -> io::Result<Protocol> {
        let Some(tls) = &self.tls else {
            let begun = timeout(self.limits.head, begins_http2(&mut tcp)).await;
            return Ok(match begun.map_err(|_| io::ErrorKind::TimedOut)?? {
                true => Protocol::Http2(Either::Left(tcp)),
                false => Protocol::Http1(Either::Left(tcp)),
            });
        };
        let handshake = timeout(self.limits.handshake, tls_handshake(tls, tcp)).await;
        let stream = Box::new(handshake.map_err(|_| io::ErrorKind::TimedOut)??);
        let agreed = stream.get_ref().1.alpn_protocol();
        Ok(match agreed == Some(HTTP2) {
            true => Protocol::Http2(Either::Right(stream)),
            false => Protocol::Http1(Either::Right(stream)),
        })
    }
}

async fn tls_handshake(
    tls: &TlsAcceptor,
    mut tcp: ClientTcpStream,
) -> io::Result<TlsStream<ClientTcpStream>> {
    // A TLS record begins with its type, which is not a letter; a plain HTTP request begins with a method.
    if tcp
        .first_byte()
        .await?
        .is_some_and(|byte| byte.is_ascii_uppercase())
    {
        let problem = Problem::bad_request("this address speaks TLS; use https://");
        tcp.write_all(problem.closing_response().as_bytes()).await?;
        tcp.shutdown().await?;
        return Err(io::Error::other("received plain HTTP on a TLS port"));
    }
    tls.accept(tcp).await
}
