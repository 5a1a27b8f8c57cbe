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
    /// Permits for concurrent HTTP/2 requests. The first concurrent request of each connection needs no permit.
    ///
    /// There are as many permits as connections are allowed. Each request may use memory for a small body. With these
    /// permits, the number of concurrent requests is at most twice the maximum number of connections, and not a hundred
    /// times this number.
    pub(crate) extra_streams: Arc<Semaphore>,
}

/// The two stages of a shutdown.
pub(crate) struct Shutdown {
    /// Cancelled when shutdown is requested: connections close after their requests in flight.
    pub(crate) graceful: CancellationToken,
    /// Cancelled when the deadline of the drain has passed: connections close at once.
    pub(crate) forced: CancellationToken,
}

/// The HTTP version that a connection uses, with the bytes that were read to detect it.
enum Protocol {
    Http1(Socket),
    Http2(Socket),
}

impl Serving {
    /// Serves a connection until it ends.
    pub(crate) async fn connection(self: Arc<Self>, tcp: ClientTcpStream, peer: SocketAddr) {
        let protocol = tokio::select! {
            biased;
            protocol = self.begin(tcp) => protocol,
            // The shutdown was requested before the client has sent a request, so the connection is closed without a
            // response.
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
            tracing::debug!(%peer, %error, "a connection ended unexpectedly");
        }
    }

    /// Detects the protocol of a connection: from the first bytes, or with TLS from the ALPN result of the handshake.
    /// Both have a timeout.
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
    // A TLS record begins with its type, which is not a letter. A plain HTTP request begins with a method in capital
    // letters, so the client gets a 400 that names https.
    if tcp
        .first_byte()
        .await?
        .is_some_and(|byte| byte.is_ascii_uppercase())
    {
        let problem = Problem::bad_request("this address requires TLS; use https://");
        tcp.write_all(problem.closing_response().as_bytes()).await?;
        tcp.shutdown().await?;
        return Err(io::Error::other("received plain HTTP on a TLS port"));
    }
    tls.accept(tcp).await
}
