//! Accepts relays at a listener of their own, with limits.

use std::{collections::VecDeque, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use emostream_http::Tls;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::hub::updates::Updates;
use crate::relay::auth::RelayToken;
use crate::relay::log_limit::{LogRateLimit, SPAN};
use crate::relay::session::{self, AcceptedPeer};
use crate::relay::transport::{AsyncStream, HELLO_TIMEOUT, LinkError};

/// Pause after a failed accept, whose usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of unauthenticated connections. A relay authenticates within a round trip, so normally there are few
/// of them. Beyond the limit the oldest one is closed. Unauthenticated connections take no permit, so clients without
/// the token cannot use up the permits of relays.
const MAX_UNAUTHENTICATED: usize = 256;

/// The listener for relays.
#[derive(Debug)]
pub struct RelayPort {
    /// The bound listener.
    pub listener: TcpListener,
    /// The configuration of TLS, or `None` without TLS.
    pub tls: Option<Tls>,
    /// The token that relays have to know.
    pub token: RelayToken,
    /// Maximum number of relays. Each relay has a socket, whose send buffer can be megabytes if the relay is slow.
    pub max_relays: u32,
}

/// Serves relays until `shutdown` is cancelled. Then it closes the connections, and the relays connect to another
/// upstream.
pub(crate) async fn serve(updates: Arc<Updates>, port: RelayPort, shutdown: CancellationToken) {
    tokio::select! {
        () = updates.log.run() => {}
        () = accept(updates.clone(), port, shutdown) => {}
    }
}

async fn accept(updates: Arc<Updates>, port: RelayPort, shutdown: CancellationToken) {
    let RelayPort {
        listener,
        tls,
        token,
        max_relays,
    } = port;
    let server = Arc::new(Server {
        updates,
        tls,
        token,
        permits: Arc::new(Semaphore::new(max_relays as usize)),
        log_limit: LogRateLimit::default(),
        shutdown: shutdown.clone(),
    });
    let mut requested = pin!(shutdown.cancelled());
    let mut spans = interval(SPAN);
    let mut unauthenticated: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = &mut requested => break,
            accepted = listener.accept() => accepted,
            _ = spans.tick() => {
                server.log_dropped();
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if server.log_limit.try_acquire() {
                    tracing::warn!(%error, "a relay could not be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        unauthenticated.retain(|task| !task.is_finished());
        if unauthenticated.len() >= MAX_UNAUTHENTICATED
            && let Some(oldest) = unauthenticated.pop_front()
        {
            oldest.abort();
            if server.log_limit.try_acquire() {
                tracing::warn!(
                    "too many unauthenticated connections at --relay-listen; the oldest one is closed"
                );
            }
        }
        unauthenticated.push_back(tokio::spawn(server.clone().authenticate(stream, peer)));
    }
    unauthenticated.iter().for_each(JoinHandle::abort);
}

/// The state that the tasks of all connections share.
struct Server {
    updates: Arc<Updates>,
    tls: Option<Tls>,
    token: RelayToken,
    permits: Arc<Semaphore>,
    log_limit: LogRateLimit,
    shutdown: CancellationToken,
}

impl Server {
    /// Authenticates a peer. If it is a relay, another task serves it, since this task counts as unauthenticated.
    async fn authenticate(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let accepted = match self.handshake(stream).await {
            Ok(stream) => session::accept(&self.updates, &self.token, &self.permits, stream).await,
            Err(error) => Err(error),
        };
        match accepted {
            Ok(relay) => drop(tokio::spawn(self.serve(relay, peer))),
            Err(_) if !self.log_limit.try_acquire() => {}
            Err(LinkError::Refused(refusal)) => {
                tracing::warn!(%peer, "a relay was refused: {refusal}");
            }
            Err(error) => {
                tracing::warn!(%peer, "a connection was closed before it was authenticated: {error}");
            }
        }
    }

    async fn handshake(&self, stream: TcpStream) -> Result<Box<dyn AsyncStream>, LinkError> {
        // The error is ignored: a broken socket fails at its first read.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        match timeout(HELLO_TIMEOUT, tls.accept(stream)).await {
            Ok(accepted) => Ok(Box::new(accepted.map_err(LinkError::Io)?)),
            Err(_) => Err(LinkError::Silent(HELLO_TIMEOUT)),
        }
    }

    async fn serve(self: Arc<Self>, relay: AcceptedPeer, peer: SocketAddr) {
        let name = relay.name();
        if self.log_limit.try_acquire() {
            tracing::info!(%peer, name, "a relay has connected");
        }
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => return,
            ended = relay.serve(&self.updates) => ended,
        };
        if self.log_limit.try_acquire() {
            tracing::warn!(%peer, name, "a relay has disconnected: {ended}");
        }
    }

    fn log_dropped(&self) {
        let dropped = self.log_limit.rotate();
        if dropped > 0 {
            tracing::warn!(
                "{dropped} more log lines about connections at --relay-listen were dropped within {SPAN:?}: other \
                 clients connect to this port, which a firewall can prevent, or relays reconnect repeatedly"
            );
        }
    }
}
