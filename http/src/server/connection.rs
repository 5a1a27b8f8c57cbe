//! One connection, from its first byte to its end.
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

/// What connections of one listener have in common.
pub(crate) struct Serving {
    pub(crate) responder: Responder,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
    /// Places for requests beside a connection's first, which only HTTP/2 has.
    ///
    /// As many as connections: what is allowed to each, such as a small body, is then held twice at most for
    /// each place, not a hundred times.
    pub(crate) beside: Arc<Semaphore>,
}

/// When the server ends its connections.
pub(crate) struct Shutdown {
    /// Connections close after their requests in flight.
    pub(crate) graceful: CancellationToken,
    /// Connections close at once: the deadline of the drain has passed.
    pub(crate) forced: CancellationToken,
}

/// What a connection turned out to speak.
enum Spoken {
    Http1(Socket),
    Http2(Socket),
}

impl Serving {
    /// Serves a connection to its end.
    pub(crate) async fn connection(self: Arc<Self>, wire: ClientTcpStream, peer: SocketAddr) {
        let spoken = tokio::select! {
            biased;
            spoken = self.begin(wire) => spoken,
            // The client has not sent a request yet.
            () = self.shutdown.graceful.cancelled() => return,
        };
        let ended = match spoken {
            Ok(Spoken::Http1(socket)) => self.http1(socket, peer).await,
            Ok(Spoken::Http2(socket)) => self.http2(socket, peer).await,
            Err(error) => {
                tracing::debug!(%peer, %error, "a connection did not begin");
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection broke off");
        }
    }

    /// Finds out what is spoken, in time.
    async fn begin(&self, mut wire: ClientTcpStream) -> io::Result<Spoken> {
        let Some(tls) = &self.tls else {
            let begun = timeout(self.limits.head, begins_http2(&mut wire)).await;
            return Ok(match begun.map_err(|_| io::ErrorKind::TimedOut)?? {
                true => Spoken::Http2(Either::Left(wire)),
                false => Spoken::Http1(Either::Left(wire)),
            });
        };
        let shaken = timeout(self.limits.handshake, shake_hands(tls, wire)).await;
        let stream = Box::new(shaken.map_err(|_| io::ErrorKind::TimedOut)??);
        let agreed = stream.get_ref().1.alpn_protocol();
        Ok(match agreed == Some(HTTP2) {
            true => Spoken::Http2(Either::Right(stream)),
            false => Spoken::Http1(Either::Right(stream)),
        })
    }
}

async fn shake_hands(
    tls: &TlsAcceptor,
    mut wire: ClientTcpStream,
) -> io::Result<TlsStream<ClientTcpStream>> {
    // A TLS record begins with its type, which is no letter; a method in the clear does.
    if wire
        .first_byte()
        .await?
        .is_some_and(|byte| byte.is_ascii_uppercase())
    {
        let problem = Problem::bad_request("this address speaks TLS; ask for https://");
        wire.write_all(problem.closing_response().as_bytes())
            .await?;
        wire.shutdown().await?;
        return Err(io::Error::other(
            "HTTP in the clear came where TLS is spoken",
        ));
    }
    tls.accept(wire).await
}
