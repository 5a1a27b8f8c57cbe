//! Connects a process to the others: the process listens on its own address, and dials the processes with a smaller
//! index.
//!
//! A client that connects has [`HANDSHAKE_TIMEOUT`] for its handshake. At most [`MAX_HANDSHAKES`] handshakes are open
//! at once. If one more client connects, the oldest handshake is aborted. A failed handshake is logged and has no other
//! effect.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    config::Cluster,
    coordinator::{Connection, Event},
    handshake::{self, HANDSHAKE_TIMEOUT, Handshake, HandshakeReply},
};
use crate::{Stop, StreamsError};

/// Maximum number of open handshakes. A cluster has some dozen processes with two connections each, so this limit
/// leaves space for connections of port scanners.
const MAX_HANDSHAKES: usize = 64;

/// Pause between two attempts to connect: short enough that a process that starts is connected without a visible delay.
const DIAL_RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Pause after a failed accept, which mostly means that the process has too many open files.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Capacity of the queue of events. Senders wait when it is full.
pub const EVENT_QUEUE: usize = 64;

/// An event of a connection. It comes with the socket if the coordinator decides what happens to the connection.
pub type ConnectionEvent = (Event, Option<TcpStream>);

/// Binds the address of this process. Returns `None` if a stop is requested before that succeeds. The function retries
/// the lookup of the DNS name until the join timeout, since the name may become known only after the machine has
/// started.
pub async fn bind(cluster: &Cluster, stop: &Stop) -> Result<Option<TcpListener>, StreamsError> {
    let host = &cluster.hosts[cluster.index];
    let listen = |detail: String| StreamsError::Listen {
        host: host.clone(),
        detail,
    };
    let since = Instant::now();
    loop {
        let unknown = match timeout(HANDSHAKE_TIMEOUT, lookup_host(host)).await {
            Ok(Ok(addresses)) => {
                let addresses: Vec<SocketAddr> = addresses.collect();
                let bound = TcpListener::bind(&addresses[..]).await;
                return bound.map(Some).map_err(|error| listen(error.to_string()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no response to the DNS lookup within {HANDSHAKE_TIMEOUT:?}"),
        };
        if stop.is_requested() {
            return Ok(None);
        }
        if since.elapsed() >= cluster.join_timeout {
            return Err(listen(unknown));
        }
        tracing::warn!("the address of this process, {host}, cannot be resolved yet: {unknown}");
        sleep(DIAL_RETRY_PAUSE).await;
    }
}

/// Accepts connections and reads their handshakes. The future never completes, so the caller aborts its task.
pub async fn listen(listener: TcpListener, events: mpsc::Sender<ConnectionEvent>) {
    let mut handshakes: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(MAX_HANDSHAKES);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection cannot be accepted: {error}");
                sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        handshakes.retain(|handshake| !handshake.is_finished());
        if handshakes.len() >= MAX_HANDSHAKES
            && let Some(oldest) = handshakes.pop_front()
        {
            // The oldest handshake is aborted, so that clients that send nothing cannot block a process of the cluster,
            // which sends its handshake at once.
            oldest.abort();
            tracing::warn!(
                "too many connections without a handshake; the oldest of them is closed"
            );
        }
        handshakes.push_back(tokio::spawn(receive(stream, from, events.clone())));
    }
}

async fn receive(mut stream: TcpStream, from: SocketAddr, events: mpsc::Sender<ConnectionEvent>) {
    match timeout(HANDSHAKE_TIMEOUT, handshake::receive(&mut stream)).await {
        Ok(Ok(handshake)) => {
            // The send fails only if the event loop has ended, so that no task receives events any more.
            let _ = events
                .send((Event::Incoming(handshake), Some(stream)))
                .await;
        }
        Ok(Err(error)) => {
            tracing::warn!("{from} connected, but is not a process of this cluster: {error}");
        }
        Err(_) => {
            tracing::warn!("{from} connected, but sent no handshake within {HANDSHAKE_TIMEOUT:?}")
        }
    }
}

/// Dials a process until it accepts the connection, or rejects it for a reason that a retry does not change.
pub async fn dial(
    cluster: Arc<Cluster>,
    handshake: Handshake,
    events: mpsc::Sender<ConnectionEvent>,
) {
    let (process, purpose) = (handshake.to, handshake.purpose);
    let connected = Event::Connected(Connection { process, purpose });
    loop {
        let unreachable = |why| (Event::Unreachable { process, why }, None);
        let event = match timeout(HANDSHAKE_TIMEOUT, attempt(&cluster, &handshake)).await {
            Ok(Ok((stream, HandshakeReply::Accepted))) => (connected.clone(), Some(stream)),
            Ok(Ok((_, reply))) => (rejection(&cluster, &handshake, reply), None),
            Ok(Err(error)) => unreachable(error.to_string()),
            Err(_) => unreachable(format!("no response within {HANDSHAKE_TIMEOUT:?}")),
        };
        let retries = matches!(event.0, Event::Unreachable { .. });
        if events.send(event).await.is_err() || !retries {
            return;
        }
        sleep(DIAL_RETRY_PAUSE).await;
    }
}

async fn attempt(
    cluster: &Cluster,
    handshake: &Handshake,
) -> std::io::Result<(TcpStream, HandshakeReply)> {
    let mut stream = TcpStream::connect(&cluster.hosts[handshake.to]).await?;
    stream.set_nodelay(true)?;
    let reply = handshake::send(&mut stream, handshake).await?;
    Ok((stream, reply))
}

fn rejection(cluster: &Cluster, handshake: &Handshake, reply: HandshakeReply) -> Event {
    let process = handshake.to;
    let peer = cluster.name(process);
    match reply {
        HandshakeReply::Duplicate | HandshakeReply::Accepted => Event::Unreachable {
            process,
            why: format!(
                "the process has a connection from process {} already",
                handshake.process
            ),
        },
        HandshakeReply::WrongToken => Event::Failed(StreamsError::WrongToken { peer }),
        HandshakeReply::WrongIndex(index) => Event::Failed(StreamsError::Disagreement {
            difference: format!(
                "{peer} replied that it is process {index}: its --hosts is not the same as here"
            ),
        }),
        HandshakeReply::DifferentSettings(theirs) => {
            let difference = handshake.settings.difference(&theirs, &peer);
            Event::Failed(StreamsError::Disagreement {
                difference: difference.unwrap_or_else(|| format!("{peer} counts otherwise")),
            })
        }
    }
}
