//! One relay below, from its first byte to its end.
//!
//! ```text
//!  challenge, hello, welcome ─▶ rooms as they stand ─▶ batches from the ring … ─▶ end
//!                                       ▲                  │ the ring moved on without it
//!                                       └──────────────────┘
//! ```
//!
//! Meanwhile the relay tells its audience, and each that it lives.

use std::sync::Arc;

use emostream_model::{
    MAX_PATH, MAX_UP_BYTES, NodeId, ReadRange, Refusal, RelayBatch, RelayDown, RelayHello,
    RelayMeeting, RelaySide, RelayUp, RelayUpdate, RelayWelcome,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    hub::{
        rooms::Hub,
        updates::{Updates, now_us},
        upstream_status::UpstreamStatus,
    },
    relay::{
        audience::Below,
        auth::{RelayToken, nonce},
        node::Node,
        transport::{self, HEARTBEAT, HELLO_PATIENCE, Incoming, LinkError, Wire},
    },
};

/// A name is for people who read logs.
const NAME_CHARS: usize = 64;

/// Pieces of a snapshot: what goes out while the next rooms are looked at.
const PIECE_BYTES: usize = 64 << 10;

/// A relay that was let in.
pub(super) struct Guest {
    hello: RelayHello,
    incoming: Incoming<ReadHalf<Box<dyn Wire>>>,
    writing: WriteHalf<Box<dyn Wire>>,
    _place: OwnedSemaphorePermit,
}

/// Finds out who is there; lets in who knows the token, as long as there is a place. Others are told why not.
pub(super) async fn meet(
    node: &Node,
    token: &RelayToken,
    places: &Arc<Semaphore>,
    wire: Box<dyn Wire>,
) -> Result<Guest, LinkError> {
    let (reading, mut writing) = split(wire);
    let mut incoming = Incoming::new(reading, MAX_UP_BYTES);
    let greeting = greet(node, token, places, &mut incoming, &mut writing);
    match timeout(HELLO_PATIENCE, greeting).await {
        Ok(Ok((hello, place))) => Ok(Guest {
            hello,
            incoming,
            writing,
            _place: place,
        }),
        Ok(Err(error)) => {
            if let LinkError::Refused(refusal) = &error {
                // Nobody waits for whether it was heard.
                let _ = transport::write(&mut writing, &RelayDown::Refused(*refusal).frame()).await;
                let _ = timeout(HELLO_PATIENCE, writing.shutdown()).await;
            }
            Err(error)
        }
        Err(_) => Err(LinkError::Silent(HELLO_PATIENCE)),
    }
}

impl Guest {
    /// What it calls itself, as far as a log wants to know.
    pub(super) fn name(&self) -> String {
        let name = self.hello.name.chars().filter(|c| !c.is_control());
        name.take(NAME_CHARS).collect()
    }

    /// Feeds it; why it ended.
    pub(super) async fn feed(self, node: &Node) -> LinkError {
        let Self {
            hello,
            mut incoming,
            mut writing,
            _place,
        } = self;
        let updates = &node.updates;
        let _attached = Attached::new(updates);
        let telling = tell(node, hello, &mut writing);
        tokio::select! {
            Err(error) = telling => error,
            Err(error) = hear(&updates.hub, &mut incoming) => error,
        }
    }
}

/// Finds out who is there, and lets it in.
async fn greet(
    node: &Node,
    token: &RelayToken,
    places: &Arc<Semaphore>,
    incoming: &mut Incoming<impl AsyncRead + Unpin>,
    writing: &mut (impl AsyncWrite + Unpin),
) -> Result<(RelayHello, OwnedSemaphorePermit), LinkError> {
    let challenge = nonce();
    transport::write(writing, &RelayDown::Challenge(challenge).frame()).await?;
    let RelayUp::Hello(hello) = incoming.up().await? else {
        return Err(LinkError::OutOfTurn);
    };
    let meeting = RelayMeeting {
        challenge,
        answer: hello.nonce,
        relay: hello.node,
    };
    if !token.verifies(RelaySide::Relay, &meeting, &hello.proof) {
        return Err(Refusal::WrongToken.into());
    }
    let status = node.updates.hub.upstream_status().borrow().clone();
    let UpstreamStatus::Connected(way) = status else {
        return Err(Refusal::CutOff.into());
    };
    let path = path(node.id, &way);
    if path.contains(&hello.node) {
        return Err(Refusal::Loop.into());
    }
    let place = places.clone().try_acquire_owned();
    let place = place.map_err(|_| Refusal::Full)?;
    let welcome = RelayWelcome {
        proof: token.prove(RelaySide::Upstream, &meeting),
        path,
        window_settings: node.updates.hub.window_settings(),
    };
    transport::write(writing, &RelayDown::Welcome(welcome).frame()).await?;
    Ok((hello, place))
}

fn path(id: NodeId, way: &[NodeId]) -> Vec<NodeId> {
    let path = std::iter::once(id).chain(way.iter().copied());
    path.take(MAX_PATH).collect()
}

/// Hears heartbeats and audiences.
async fn hear(
    hub: &Arc<Hub>,
    incoming: &mut Incoming<impl AsyncRead + Unpin>,
) -> Result<(), LinkError> {
    let mut below = Below::new(hub.clone());
    loop {
        match incoming.up().await? {
            RelayUp::Heartbeat => {}
            RelayUp::Audience(counts) => below.take(counts),
            RelayUp::Hello(_) => return Err(LinkError::OutOfTurn),
        }
    }
}

/// Tells all there is, then what is new.
async fn tell(
    node: &Node,
    hello: RelayHello,
    writing: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    let updates = &node.updates;
    let mut has = hello.has;
    loop {
        // In this order: what comes while the rooms are looked at comes again, and nothing is missed.
        let mut cursor = updates.log.cursor();
        let reads = updates.hub.offsets().all();
        snapshot(updates, &has, &reads, writing).await?;
        follow(node, &mut cursor, writing).await?;
        tracing::warn!(
            name = hello.name,
            "a relay fell behind; it gets the rooms as they stand"
        );
        updates.metrics.relay_resyncs.inc();
        has = reads;
    }
}

/// Every room as it stands, in pieces.
async fn snapshot(
    updates: &Updates,
    has: &[ReadRange],
    reads: &[ReadRange],
    writing: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
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
            send(updates, piece.take(), writing).await?;
        }
    }
    if let Some(leaders) = updates.hub.last_leaders() {
        piece.push(origin_us, &RelayUpdate::Leaders(leaders));
    }
    for range in reads {
        piece.push(origin_us, &RelayUpdate::Read(*range));
    }
    send(updates, piece.take(), writing).await?;
    transport::write(writing, &RelayDown::Present.frame()).await
}

async fn send(
    updates: &Updates,
    frame: Option<Vec<u8>>,
    writing: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    if let Some(frame) = frame {
        transport::write(writing, &frame).await?;
        updates.metrics.relay_bytes.inc_by(frame.len() as u64);
    }
    Ok(())
}

/// Sends what is new until the ring has moved on without this relay.
async fn follow(
    node: &Node,
    cursor: &mut u64,
    writing: &mut (impl AsyncWrite + Unpin),
) -> Result<(), LinkError> {
    let Node { id, updates } = node;
    let mut sealed = updates.log.watch();
    let mut status = updates.hub.upstream_status().subscribe();
    // The way up may have changed since the welcome.
    status.mark_changed();
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        sealed.mark_unchanged();
        let Ok(batches) = updates.log.batches(cursor) else {
            return Ok(());
        };
        for batch in &batches {
            transport::write(writing, batch).await?;
            updates.metrics.relay_bytes.inc_by(batch.len() as u64);
        }
        tokio::select! {
            // Both senders live as long as this node.
            _ = sealed.changed() => {}
            _ = status.changed() => {
                let now = status.borrow_and_update().clone();
                if let UpstreamStatus::Connected(way) = now {
                    let frame = RelayDown::Path(path(*id, &way)).frame();
                    transport::write(writing, &frame).await?;
                }
            }
            _ = beat.tick() => {
                let is_connected = status.borrow().is_connected();
                if is_connected {
                    transport::write(writing, &RelayDown::Heartbeat.frame()).await?;
                }
            }
        }
    }
}

/// A relay that is there, as long as this is.
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
