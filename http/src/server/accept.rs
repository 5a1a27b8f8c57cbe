//! The accept loop: which connections are accepted, which get 503, and how all of them are drained.

#![allow(clippy::disallowed_methods, reason = "the accept loop")]

use std::{
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use tokio::{
    io::AsyncWriteExt,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Limits, Listener, Problem,
    net::tcp::ClientTcpStream,
    server::connection::{Serving, Shutdown},
    server::rate_limiter::RateLimiter,
    server::respond::Responder,
};

/// How long accepting pauses after an error. The usual one is a lack of file descriptors, which only
/// time mends; trying on at once would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many refused clients are told so at once. Beyond it they are closed without a word, so that a
/// flood of connections costs nothing; in TLS all are, since a word would cost a handshake.
const REFUSALS: usize = 64;

/// How long a refused client may take to read it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Number of connections that were open at the deadline, detached ones included.
    pub remaining: usize,
}

/// Serves `listener` until `shutdown`; then accepts no more, lets requests in flight finish within
/// [`Limits::drain`], and returns.
///
/// Handlers have to end endless responses and detached sockets when `shutdown` is cancelled: the drain waits for them
/// too.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> DrainOutcome {
    let Listener { tcp, tls } = listener.into();
    let mut requested = pin!(shutdown.cancelled());
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let serving = Arc::new(Serving {
        responder: Responder::new(router),
        tls: tls.map(|tls| tls.acceptor()),
        beside: Arc::new(Semaphore::new(limits.connections as usize)),
        limits,
        shutdown: Shutdown {
            graceful: shutdown.clone(),
            forced: CancellationToken::new(),
        },
    });
    let mut accept_rate = serving
        .limits
        .connection_rate
        .map(|rate| RateLimiter::new(rate, Instant::now()));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = &mut requested => break,
            accepted = tcp.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "no connection is accepted until this ends");
                }
                pause_after(&error).await;
                continue;
            }
        };
        failing = false;
        let in_time = accept_rate
            .as_mut()
            .is_none_or(|rate| rate.try_acquire(Instant::now()));
        let place = match in_time {
            true => places.clone().try_acquire_owned().ok(),
            false => None,
        };
        if let Some(place) = place {
            // A socket that is already broken shows itself at its first read.
            let _ = stream.set_nodelay(true);
            let wire = ClientTcpStream::new(stream, place, serving.limits.unread);
            tokio::spawn(serving.clone().connection(wire, peer));
        } else if serving.tls.is_none()
            && let Ok(place) = refusals.clone().try_acquire_owned()
        {
            let why = match in_time {
                true => "too many connections; come back later",
                false => "too many new connections at once; come back later",
            };
            tokio::spawn(refuse(
                ClientTcpStream::new(stream, place, REFUSAL_TIME),
                why,
            ));
        }
    }
    drop(tcp);
    let Limits {
        connections, drain, ..
    } = serving.limits;
    let drained = drained(&places, connections, drain).await;
    serving.shutdown.forced.cancel();
    drained
}

/// A connection that was reset before it was accepted is no reason to wait for the next one.
pub(crate) async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    let harmless = [
        ConnectionAborted,
        ConnectionRefused,
        ConnectionReset,
        Interrupted,
    ];
    if !harmless.contains(&error.kind()) {
        sleep(ACCEPT_PAUSE).await;
    }
}

async fn drained(places: &Semaphore, all: u32, within: Duration) -> DrainOutcome {
    // Every place is free again when every connection has ended.
    let ended = timeout(within, places.acquire_many(all)).await.is_ok();
    let remaining = if ended {
        0
    } else {
        all as usize - places.available_permits()
    };
    DrainOutcome { remaining }
}

/// Tells a client that there is no place for it.
async fn refuse(mut wire: ClientTcpStream, why: &'static str) -> io::Result<()> {
    let response = Problem::unavailable(why).closing_response();
    wire.write_all(response.as_bytes()).await?;
    wire.shutdown().await
}
