//! The accept loop. It accepts connections, refuses those beyond the limits with 503, and drains all of them at
//! shutdown.

#![allow(
    clippy::disallowed_methods,
    reason = "the accept loop pauses and reads the clock"
)]

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

/// Pause after an error of `accept`. The usual error is a lack of file descriptors. It recurs until connections close,
/// and without the pause, the loop would use a whole core until then.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of refused connections that receive a 503 at the same time. Further connections are closed without a
/// response, so that a flood of connections costs little. With TLS, refused connections are always closed without a
/// response, since a response would require a handshake.
const MAX_REFUSALS: usize = 64;

/// Maximum time for a refused client to read the 503.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Result of the drain at shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Number of connections that were open at the deadline, detached ones included.
    pub remaining: usize,
}

/// Serves `listener` until `shutdown` is cancelled. Then the function accepts no more connections, waits up to
/// [`Limits::drain`] for requests in flight, and returns.
///
/// The drain also waits for responses without an end and for detached sockets. So handlers have to end these when
/// `shutdown` is cancelled.
pub async fn serve(
    listener: impl Into<Listener>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> DrainOutcome {
    let Listener { tcp, tls } = listener.into();
    let mut requested = pin!(shutdown.cancelled());
    let permits = Arc::new(Semaphore::new(limits.connections as usize));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    let serving = Arc::new(Serving {
        responder: Responder::new(router),
        tls: tls.map(|tls| tls.acceptor()),
        extra_streams: Arc::new(Semaphore::new(limits.connections as usize)),
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
                    tracing::warn!(%error, "connections cannot be accepted");
                }
                pause_after(&error).await;
                continue;
            }
        };
        failing = false;
        let in_time = accept_rate
            .as_mut()
            .is_none_or(|rate| rate.try_acquire(Instant::now()));
        let permit = match in_time {
            true => permits.clone().try_acquire_owned().ok(),
            false => None,
        };
        if let Some(permit) = permit {
            // An error is ignored, since a broken socket fails again at its first read.
            let _ = stream.set_nodelay(true);
            let tcp = ClientTcpStream::new(stream, permit, serving.limits.write_timeout);
            tokio::spawn(serving.clone().connection(tcp, peer));
        } else if serving.tls.is_none()
            && let Ok(permit) = refusals.clone().try_acquire_owned()
        {
            let why = match in_time {
                true => "too many connections; retry later",
                false => "too many new connections at once; retry later",
            };
            tokio::spawn(refuse(
                ClientTcpStream::new(stream, permit, REFUSAL_TIMEOUT),
                why,
            ));
        }
    }
    drop(tcp);
    let Limits {
        connections, drain, ..
    } = serving.limits;
    let drained = drained(&permits, connections, drain).await;
    serving.shutdown.forced.cancel();
    drained
}

/// Pauses after an error of `accept`. If the error concerns only one connection, for example a connection that was
/// reset before `accept`, this function does not pause.
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

async fn drained(permits: &Semaphore, all: u32, within: Duration) -> DrainOutcome {
    // When all connections have closed, all permits are free.
    let ended = timeout(within, permits.acquire_many(all)).await.is_ok();
    let remaining = if ended {
        0
    } else {
        all as usize - permits.available_permits()
    };
    DrainOutcome { remaining }
}

/// Sends a 503 to a client, and closes the connection.
async fn refuse(mut tcp: ClientTcpStream, why: &'static str) -> io::Result<()> {
    let response = Problem::unavailable(why).closing_response();
    tcp.write_all(response.as_bytes()).await?;
    tcp.shutdown().await
}
