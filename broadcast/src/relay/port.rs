//! Where relays connect: a listener of its own, with a limit.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use emostream_http::{Shutdown, Tls};
use emostream_model::{NodeId, Refusal, RelayDown};
use rand::RngExt;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

use super::{
    HELLO_PATIENCE, RelayToken, downstream,
    link::{self, LinkError, Wire},
};
use crate::{BroadcastError, feed::Feed};

/// How long accepting pauses after an error, which is a lack of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many relays beyond the limit are told so at once; further ones are closed without a word.
const REFUSALS: usize = 16;

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

/// A node of the tree.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(super) node: NodeId,
    pub(super) feed: Arc<Feed>,
}

impl Tree {
    /// A node of a number of its own.
    pub(crate) fn new(feed: Arc<Feed>) -> Self {
        Self {
            node: NodeId(rand::rng().random()),
            feed,
        }
    }

    /// What it takes in by.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Returns once this node cannot go on, and why.
    pub(crate) async fn failed(&self) -> BroadcastError {
        BroadcastError::OtherLog(self.feed.failed().await.to_string())
    }

    /// Serves relays until `shutdown`; then they are let go, to find another upstream.
    pub(crate) async fn serve(self: Arc<Self>, port: RelayPort, shutdown: Shutdown) {
        let outlet = self.feed.outlet.clone();
        tokio::select! {
            () = outlet.run() => {}
            () = self.accept(port, shutdown) => {}
        }
    }

    async fn accept(self: Arc<Self>, port: RelayPort, shutdown: Shutdown) {
        let RelayPort {
            listener,
            tls,
            token,
            max_relays,
        } = port;
        let places = Arc::new(Semaphore::new(max_relays as usize));
        let refusals = Arc::new(Semaphore::new(REFUSALS));
        let mut requested = pin!(shutdown.requested());
        loop {
            let (stream, peer) = tokio::select! {
                () = &mut requested => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a relay could not be accepted");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let visit = Visit {
                tree: self.clone(),
                tls: tls.clone(),
                token: token.clone(),
                peer,
            };
            let shutdown = shutdown.clone();
            if let Ok(place) = places.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    tokio::select! {
                        () = shutdown.requested() => {}
                        () = visit.serve(stream, place) => {}
                    }
                });
            } else {
                tracing::warn!(%peer, max_relays, "a relay is refused; raise --max-relays, or name it another upstream");
                if let Ok(place) = refusals.clone().try_acquire_owned() {
                    tokio::spawn(visit.refuse(stream, place));
                }
            }
        }
    }
}

/// Somebody who has connected.
struct Visit {
    tree: Arc<Tree>,
    tls: Option<Tls>,
    token: RelayToken,
    peer: SocketAddr,
}

impl Visit {
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

    async fn serve(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let ended = match self.wire(stream).await {
            Ok(wire) => downstream::serve(&self.tree, &self.token, wire, self.peer).await,
            Err(error) => error,
        };
        tracing::warn!(peer = %self.peer, "a relay is let go: {ended}");
    }

    async fn refuse(self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        if let Ok(mut wire) = self.wire(stream).await {
            // Nobody waits for whether it was heard.
            let _ = link::write(&mut wire, &RelayDown::Refused(Refusal::Full).frame()).await;
            let _ = timeout(HELLO_PATIENCE, wire.shutdown()).await;
        }
    }
}
