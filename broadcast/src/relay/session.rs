//! The session of one relay below this node.
//!
//! ```text
//!  challenge, hello, welcome ─▶ snapshot of the rooms ─▶ batches of the update log … ─▶ end
//!                                         ▲                   │ the cursor was truncated
//!                                         └───────────────────┘
//! ```
//!
//! During the session the relay reports its audience, and both sides send heartbeats.

use std::sync::Arc;

use emostream_model::{
    MAX_PATH, MAX_UP_BYTES, NodeId, ReadRange, Refusal, RelayBatch, RelayDown, RelayHandshake,
    RelayHello, RelaySide, RelayUp, RelayUpdate, RelayWelcome,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::hub::updates::{Updates, now_us};
use crate::hub::{rooms::Hub, upstream_status::UpstreamStatus};
use crate::relay::audience::DownstreamAudience;
use crate::relay::auth::{RelayToken, nonce};
use crate::relay::transport::{
    self, AsyncStream, HEARTBEAT, HELLO_TIMEOUT, LinkError, MessageReader,
};

/// Maximum number of characters of a relay's name in the log.
const NAME_CHARS: usize = 64;

/// Number of bytes at which a part of a snapshot is sent. The kernel can transmit this part while the next rooms are
/// read.
const PIECE_BYTES: usize = 64 << 10;

/// An authenticated relay.
pub(super) struct AcceptedPeer {
    hello: RelayHello,
    reader: MessageReader<ReadHalf<Box<dyn AsyncStream>>>,
    writer: WriteHalf<Box<dyn AsyncStream>>,
    _permit: OwnedSemaphorePermit,
}

/// Authenticates a peer, and accepts it if there is a permit. A refused peer receives the reason.
pub(super) async fn accept(
    updates: &Updates,
    token: &RelayToken,
    permits: &Arc<Semaphore>,
    stream: Box<dyn AsyncStream>,
) -> Result<AcceptedPeer, LinkError> {
    let (reading, mut writer) = split(stream);
    let mut reader = MessageReader::new(reading, MAX_UP_BYTES);
    let handshake = handshake(updates, token, permits, &mut reader, &mut writer);
    match timeout(HELLO_TIMEOUT, handshake).await {
        Ok(Ok((hello, permit))) => Ok(AcceptedPeer {
            hello,
            reader,
            writer,
            _permit: permit,
        }),
        Ok(Err(error)) => {
            if let LinkError::Refused(refusal) = &error {
                // The results are ignored, since the peer may have closed the connection.
                let _ = transport::write(&mut writer, &RelayDown::Refused(*refusal).frame()).await;
                let _ = timeout(HELLO_TIMEOUT, writer.shutdown()).await;
            }
            Err(error)
        }
        Err(_) => Err(LinkError::Silent(HELLO_TIMEOUT)),
    }
}

impl AcceptedPeer {
    /// Returns the relay's name for the log, without control characters and of limited length.
    pub(super) fn name(&self) -> String {
        let name = self.hello.name.chars().filter(|c| !c.is_control());
        name.take(NAME_CHARS).collect()
    }

    /// Serves the relay, and returns why its session ended.
    pub(super) async fn serve(self, updates: &Updates) -> LinkError {
        let Self {
            hello,
            mut reader,
            mut writer,
            _permit,
        } = self;
        let _attached = Attached::new(updates);
        let sending = send_updates(updates, hello, &mut writer);
        tokio::select! {
            Err(error) = sending => error,
            Err(error) = receive(&updates.hub, &mut reader) => error,
        }
    }
}

/// Authenticates the relay, and acquires a permit for it.
async fn handshake(
    updates: &Updates,
    token: &RelayToken,
    permits: &Arc<Semaphore>,
    reader: &mut MessageReader<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(RelayHello, OwnedSemaphorePermit), LinkError> {
    let challenge = nonce();
    transport::write(writer, &RelayDown::Challenge(challenge).frame()).await?;
    let hello = reader.up().await.map_err(|error| match error {
        LinkError::Closed => LinkError::ClosedBeforeHello,
        error => error,
    })?;
    let RelayUp::Hello(hello) = hello else {
        return Err(LinkError::UnexpectedMessage);
    };
    let handshake = RelayHandshake {
        challenge,
        answer: hello.nonce,
        relay: hello.node,
    };
    if !token.verifies(RelaySide::Relay, &handshake, &hello.proof) {
        return Err(Refusal::WrongToken.into());
    }
    let status = updates.hub.upstream_status.borrow().clone();
    let UpstreamStatus::Connected(way) = status else {
        return Err(Refusal::Disconnected.into());
    };
    let path = path(updates.hub.node, &way);
    if path.contains(&hello.node) {
        return Err(Refusal::Loop.into());
    }
    let permit = permits.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Refusal::Full)?;
    let welcome = RelayWelcome {
        proof: token.prove(RelaySide::Upstream, &handshake),
        path,
        window_settings: updates.hub.window_settings(),
    };
    transport::write(writer, &RelayDown::Welcome(welcome).frame()).await?;
    Ok((hello, permit))
}

fn path(id: NodeId, way: &[NodeId]) -> Vec<NodeId> {
    let path = std::iter::once(id).chain(way.iter().copied());
    path.take(MAX_PATH).collect()
}

/// Receives the relay's heartbeats and reports of its audience.
async fn receive(
    hub: &Arc<Hub>,
    reader: &mut MessageReader<impl AsyncRead + Unpin>,
) -> Result<(), LinkError> {
    let mut audience = DownstreamAudience::new(hub.clone());
    loop {
        match reader.up().await? {
            RelayUp::Heartbeat => {}
            RelayUp::Audience(counts) => audience.apply(counts),
            RelayUp::Hello(_) => return Err(LinkError::UnexpectedMessage),
        }
    }
}

/// Sends a snapshot of the rooms, then the updates that follow. If the relay lags too far behind, it receives a new
/// snapshot.
async fn send_updates(
    updates: &Updates,
    hello: RelayHello,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    let mut has = hello.has;
    loop {
        // The cursor is read before the rooms. So an update that is applied in between may be sent twice, but none is
        // missed.
        let mut cursor = updates.log.cursor();
        let reads = updates.hub.offsets.all();
        send_snapshot(updates, &has, &reads, writer).await?;
        send_batches(updates, &mut cursor, writer).await?;
        tracing::warn!(
            name = hello.name,
            "a relay lagged too far behind and is sent a snapshot of all rooms"
        );
        updates.metrics.relay_resyncs.inc();
        has = reads;
    }
}

/// Sends the snapshots of all rooms that have results, in several messages.
async fn send_snapshot(
    updates: &Updates,
    has: &[ReadRange],
    reads: &[ReadRange],
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    transport::write(writer, &RelayDown::Snapshot.frame()).await?;
    let (origin_us, mut piece) = (now_us(), RelayBatch::default());
    for (room, entry) in updates.hub.all() {
        let update = {
            let state = entry.state();
            if state.is_idle() {
                continue;
            }
            let has = |id| has.iter().any(|range| range.is_behind(id));
            RelayUpdate::Room(state.snapshot(&room, has))
        };
        piece.push(origin_us, &update);
        if piece.bytes() >= PIECE_BYTES {
            send(updates, piece.take(), writer).await?;
        }
    }
    if let Some(leaders) = updates.hub.last_leaders() {
        piece.push(origin_us, &RelayUpdate::Leaders(leaders));
    }
    for range in reads {
        piece.push(origin_us, &RelayUpdate::Read(*range));
    }
    send(updates, piece.take(), writer).await?;
    transport::write(writer, &RelayDown::SnapshotEnd.frame()).await
}

async fn send(
    updates: &Updates,
    frame: Option<Vec<u8>>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    if let Some(frame) = frame {
        transport::write(writer, &frame).await?;
        updates.metrics.relay_bytes.inc_by(frame.len() as u64);
    }
    Ok(())
}

/// Sends the batch at the cursor and each later one, until the batch at the cursor is not in the ring any more.
async fn send_batches(
    updates: &Updates,
    cursor: &mut u64,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    let mut sealed = updates.log.watch();
    let mut status = updates.hub.upstream_status.subscribe();
    // The path to the publisher may have changed since the welcome was sent, so the path is sent again.
    status.mark_changed();
    let mut counting = updates.hub.counting.subscribe();
    counting.mark_changed();
    let mut heartbeat = interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        sealed.mark_unchanged();
        let Ok(batches) = updates.log.batches(cursor) else {
            return Ok(());
        };
        for batch in &batches {
            transport::write(writer, batch).await?;
            updates.metrics.relay_bytes.inc_by(batch.len() as u64);
        }
        tokio::select! {
            // The results are ignored: both senders exist as long as this node.
            _ = sealed.changed() => {}
            _ = status.changed() => {
                let now = status.borrow_and_update().clone();
                if let UpstreamStatus::Connected(way) = now {
                    let frame = RelayDown::Path(path(updates.hub.node, &way)).frame();
                    transport::write(writer, &frame).await?;
                }
            }
            _ = counting.changed() => {
                let is_counting = *counting.borrow_and_update();
                transport::write(writer, &RelayDown::Counting(is_counting).frame()).await?;
            }
            _ = heartbeat.tick() => {
                let is_connected = status.borrow().is_connected();
                if is_connected {
                    transport::write(writer, &RelayDown::Heartbeat.frame()).await?;
                }
            }
        }
    }
}

/// Counts a relay as connected until this value is dropped.
struct Attached<'a>(&'a Updates);

impl<'a> Attached<'a> {
    fn new(updates: &'a Updates) -> Self {
        updates.log.join();
        updates.metrics.relays.inc();
        Self(updates)
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.0.log.leave();
        self.0.metrics.relays.dec();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;
    use emostream_log::EventClock;
    use emostream_model::{RELAY_VERSION, WindowSettings};
    use prometheus::Registry;
    use tokio::{io::AsyncReadExt, sync::watch};

    /// Returns why a peer that sends these bytes after the challenge, and then closes the connection, is refused.
    async fn refused(sends: &[u8]) -> String {
        let hub = Arc::new(Hub::new(
            WindowSettings::default(),
            Arc::new([]),
            watch::Sender::new(true),
        ));
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let updates = Updates::new(hub, metrics, Duration::ZERO, EventClock::host());
        let (here, mut there) = tokio::io::duplex(1024);
        let (token, permits) = (RelayToken::default(), Arc::new(Semaphore::new(1)));
        let peer = async {
            let challenge = RelayDown::Challenge([0; 32]).frame();
            there
                .read_exact(&mut vec![0; challenge.len()])
                .await
                .unwrap();
            there.write_all(sends).await.unwrap();
            drop(there);
        };
        let accepting = accept(&updates, &token, &permits, Box::new(here));
        let (accepted, ()) = tokio::join!(accepting, peer);
        accepted.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_relay_of_another_version_is_named_in_the_log() {
        let mut heartbeat = RelayUp::Heartbeat.frame();
        heartbeat[4] = RELAY_VERSION - 1;
        let why = refused(&heartbeat).await;
        assert!(
            why.contains("version 1") && why.contains("version 2"),
            "{why}"
        );
        // A relay that does not know the version of the challenge closes the connection and sends nothing.
        let why = refused(&[]).await;
        assert!(
            why.contains("another version") && why.contains("version 2"),
            "{why}"
        );
    }
}
