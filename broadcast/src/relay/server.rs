//! Where relays connect: a listener of its own, with a limit.

use std::{collections::VecDeque, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use emostream_http::{Shutdown, Tls};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{interval, sleep, timeout},
};

use crate::relay::{
    auth::RelayToken,
    log_limit::{Lines, SPAN},
    node::Node,
    session::{self, Guest},
    transport::{HELLO_PATIENCE, LinkError, Wire},
};

/// How long accepting pauses after an error, which is a lack of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many may be about to say who they are, at once. A relay does so within a round trip, so some dozen come
/// and go unnoticed; one more, and who has been silent longest goes. Places for relays are not taken by it:
/// whoever knows no token can neither fill them nor keep relays out by saying nothing.
const STRANGERS: usize = 256;

/// Where relays connect, and which.
#[derive(Debug)]
pub struct RelayPort {
    /// The address.
    pub listener: TcpListener,
    /// What is spoken there, if it is TLS.
    pub tls: Option<Tls>,
    /// What a relay must know.
    pub token: RelayToken,
    /// The most relays at once. Each costs a socket, and a copy of all news in the kernel's buffer: some
    /// megabytes when it is slow.
    pub max_relays: u32,
}

/// Serves relays until `shutdown`; then their connections are closed, and they look for another upstream.
pub(crate) async fn serve(node: Arc<Node>, port: RelayPort, shutdown: Shutdown) {
    let updates = node.updates.clone();
    tokio::select! {
        () = updates.log.run() => {}
        () = accept(node, port, shutdown) => {}
    }
}

async fn accept(node: Arc<Node>, port: RelayPort, shutdown: Shutdown) {
    let RelayPort {
        listener,
        tls,
        token,
        max_relays,
    } = port;
    let door = Arc::new(Door {
        node,
        tls,
        token,
        places: Arc::new(Semaphore::new(max_relays as usize)),
        lines: Lines::default(),
        shutdown: shutdown.clone(),
    });
    let mut requested = pin!(shutdown.requested());
    let mut spans = interval(SPAN);
    let mut strangers: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = &mut requested => break,
            accepted = listener.accept() => accepted,
            _ = spans.tick() => {
                door.tell_the_rest();
                continue;
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if door.lines.has_one() {
                    tracing::warn!(%error, "a relay could not be accepted");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        strangers.retain(|stranger| !stranger.is_finished());
        if strangers.len() >= STRANGERS
            && let Some(longest) = strangers.pop_front()
        {
            longest.abort();
            if door.lines.has_one() {
                tracing::warn!(
                    "too many strangers at the relays' port; who has been silent longest is let go"
                );
            }
        }
        strangers.push_back(tokio::spawn(door.clone().meet(stream, peer)));
    }
    strangers.iter().for_each(JoinHandle::abort);
}

/// Whom who comes has to pass.
struct Door {
    node: Arc<Node>,
    tls: Option<Tls>,
    token: RelayToken,
    places: Arc<Semaphore>,
    lines: Lines,
    shutdown: Shutdown,
}

impl Door {
    /// Finds out who has come; a relay is fed from then on.
    async fn meet(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let met = match self.wire(stream).await {
            Ok(wire) => session::meet(&self.node, &self.token, &self.places, wire).await,
            Err(error) => Err(error),
        };
        match met {
            Ok(guest) => drop(tokio::spawn(self.feed(guest, peer))),
            Err(_) if !self.lines.has_one() => {}
            Err(LinkError::Refused(refusal)) => {
                tracing::warn!(%peer, "a relay is refused, and told: {refusal}");
            }
            Err(error) => tracing::warn!(%peer, "no relay, and let go: {error}"),
        }
    }

    async fn wire(&self, stream: TcpStream) -> Result<Box<dyn Wire>, LinkError> {
        // A socket that is already broken shows itself at its first read.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok(Box::new(stream));
        };
        match timeout(HELLO_PATIENCE, tls.accept(stream)).await {
            Ok(accepted) => Ok(Box::new(accepted.map_err(LinkError::Io)?)),
            Err(_) => Err(LinkError::Silent(HELLO_PATIENCE)),
        }
    }

    async fn feed(self: Arc<Self>, guest: Guest, peer: SocketAddr) {
        let name = guest.name();
        if self.lines.has_one() {
            tracing::info!(%peer, name, "a relay is fed from now on");
        }
        let ended = tokio::select! {
            () = self.shutdown.requested() => return,
            ended = guest.feed(&self.node) => ended,
        };
        if self.lines.has_one() {
            tracing::warn!(%peer, name, "a relay is let go: {ended}");
        }
    }

    fn tell_the_rest(&self) {
        let untold = self.lines.turn();
        if untold > 0 {
            tracing::warn!(
                "at the relays' port {untold} more came or went within {SPAN:?}: strangers, whom a firewall keeps \
                 off, or relays that do not stay"
            );
        }
    }
}
