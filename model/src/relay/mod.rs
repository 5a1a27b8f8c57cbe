//! The protocol between a publisher or relay and the relays that connect to it.
//!
//! ```text
//!   relay                                upstream (a publisher, or another relay)
//!     ◀──────────────────────────── Challenge
//!     Hello ───────────────────────▶          checks token, permits, own upstream
//!     ◀──────────────────────────── Welcome, or Refused
//!     ◀──────────────────────────── Snapshot, Updates …  the state of all rooms, then SnapshotEnd
//!     ◀──────────────────────────── Updates …  until the connection is closed
//!     Audience, Heartbeat ─────────▶
//!     ◀──────────────────────────── Heartbeat, Path
//!
//!  ┌────────────────────┬─────────┬────────────────────────────────────┐
//!  │ length: u32, big e.│ version │ bincode 2, standard configuration  │
//!  └────────────────────┴─────────┴────────────────────────────────────┘
//! ```
//!
//! A snapshot consists of updates, so the relay applies it in the same way as later updates. It does not matter which
//! updates the relay has missed. A snapshot contains no room without results. So the relay removes a room that is not
//! in the snapshot, if the upstream has read the room's newest final.
//!
//! The token is never sent: each side proves with an HMAC over both nonces that it knows the token.

mod handshake;
mod update;

use bincode::{BorrowDecode, Encode, config, error::DecodeError};

use crate::{ResultId, RoomCount};

pub use handshake::{Handshake, Side};
pub use update::{Batch, Final, RoomSnapshot, TrendingNow, Update};

/// Version of the protocol: the first byte of every message. Version 1 (EmoStream 0.1) has no messages for totals that
/// begin at 0 again.
pub const RELAY_VERSION: u8 = 2;

/// Maximum length of a message from a relay, and of a message from an upstream that is not authenticated yet, in bytes.
/// The longest messages are a hello, which lists all partitions, and an audience, which lists at most a thousand rooms.
pub const MAX_UP_BYTES: usize = 256 << 10;

/// Maximum length of a message from an upstream, in bytes. The longest message is the snapshot of a room with a full
/// ring of finals.
pub const MAX_DOWN_BYTES: usize = 32 << 20;

/// Maximum memory that decoding a message from a relay may allocate, in bytes. It is a small multiple of
/// [`MAX_UP_BYTES`], since decoded elements of a list are larger than encoded ones.
const MAX_UP_CLAIM: usize = 4 << 20;
/// Maximum memory that decoding a message from an upstream may allocate, in bytes.
const MAX_DOWN_CLAIM: usize = 256 << 20;

/// Maximum depth of a tree of relays. The depth is limited because messages contain the whole path to the publisher.
pub const MAX_PATH: usize = 16;

/// A random number that makes a proof unique. Proofs have this type too.
pub type Nonce = [u8; 32];

/// Id of a publisher or relay: a random number that each process chooses. Relays detect loops by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub struct NodeId(pub u64);

/// The offsets of a partition of the `windows` topic that a node has read: `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct ReadRange {
    /// The partition.
    pub partition: u32,
    /// The first offset. The node has not read earlier offsets.
    pub start: u64,
    /// The offset after the last offset that was read.
    pub end: u64,
}

impl ReadRange {
    /// Returns whether `id` is in this partition and before the end of the range.
    pub fn is_behind(&self, id: ResultId) -> bool {
        id.partition == self.partition && id.offset < self.end
    }
}

/// The message with which a relay identifies and authenticates itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Hello {
    /// The relay's id.
    pub node: NodeId,
    /// The relay's name, for the logs of its upstream.
    pub name: String,
    /// The nonce for the upstream's proof.
    pub nonce: Nonce,
    /// The proof that the sender knows the token.
    pub proof: Nonce,
    /// The ranges of finals that the relay has, which the snapshot need not contain.
    pub has: Vec<ReadRange>,
}

/// The message with which an upstream accepts a relay and authenticates itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Welcome {
    /// The proof that the sender knows the token.
    pub proof: Nonce,
    /// The ids of the upstream, of its own upstream, and so on up to the publisher.
    pub path: Vec<NodeId>,
    /// The settings of the dataflow's windows, which the relay sends to its subscribers in `hello` frames.
    pub window_settings: WindowSettings,
}

/// The settings of the dataflow's windows, as subscribers receive them in a `hello` frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub struct WindowSettings {
    /// Length of a window, in milliseconds.
    pub window_ms: u64,
    /// Number of identical emojis in a swarm.
    pub swarm_size: u64,
    /// Minimum time between two live tallies of a room, in milliseconds.
    pub live_ms: u64,
}

/// The reason why an upstream refuses a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode, thiserror::Error)]
pub enum Refusal {
    /// The proof is not valid.
    #[error(
        "the relay and its upstream have different tokens; set the same --relay-token-file at both"
    )]
    WrongToken,
    /// The upstream already has its maximum number of relays.
    #[error(
        "the upstream has its maximum number of relays; raise its --max-relays, or set another --upstream"
    )]
    Full,
    /// The upstream is disconnected from its own upstream.
    #[error("the upstream is disconnected from its own upstream at the moment")]
    Disconnected,
    /// The relay is on the upstream's path to the publisher, so it would receive its own updates.
    #[error(
        "the upstream receives its updates from this relay; a relay cannot be its own upstream"
    )]
    Loop,
}

/// A message from a relay to its upstream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Up {
    /// The relay's identity and proof.
    Hello(Hello),
    /// Sent when there is no other message to send, so that the upstream knows that the relay works.
    Heartbeat,
    /// Number of subscribers of each room in the list, at this relay and at the relays below it.
    Audience(Vec<RoomCount>),
}

/// A message from an upstream to a relay.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Down {
    /// The nonce for the relay's proof.
    Challenge(Nonce),
    /// The relay is refused; the upstream closes the connection.
    Refused(Refusal),
    /// The relay is accepted.
    Welcome(Welcome),
    /// Updates that belong to the snapshot, or new updates.
    Updates {
        /// The time at which the publisher read the oldest of these updates, Unix microseconds.
        origin_us: u64,
        /// The updates, in the order in which they are applied.
        updates: Vec<Update>,
    },
    /// End of the snapshot: all rooms that have results were sent.
    SnapshotEnd,
    /// The upstream's path to the publisher has changed.
    Path(Vec<NodeId>),
    /// Sent when there is no other message to send, but only while the upstream is connected to its own upstream or to
    /// the log.
    Heartbeat,
    /// Start of the snapshot: updates with every room that has results follow, until [`Down::SnapshotEnd`].
    Snapshot,
}

/// The reason why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The first byte is the number of another version of the protocol.
    #[error(
        "the other side uses version {0} of the relay protocol, and this process uses version {RELAY_VERSION}; \
         run the same emostream on both"
    )]
    Version(u8),
    /// The message is empty.
    #[error("a message of the relay protocol is empty")]
    Empty,
    /// bincode cannot decode the message.
    #[error("a message of the relay protocol could not be decoded")]
    Encoding,
    /// Bytes follow the message.
    #[error("{0} bytes follow a message of the relay protocol")]
    Trailing(usize),
}

impl Up {
    /// Encodes the message, with its length before it.
    pub fn frame(&self) -> Vec<u8> {
        frame(self)
    }

    /// Decodes a message with its version byte, without its length.
    pub fn decode(message: &[u8]) -> Result<Up, MessageError> {
        let body = body(message)?;
        let limited = config::standard().with_limit::<MAX_UP_CLAIM>();
        whole(bincode::borrow_decode_from_slice(body, limited), body)
    }
}

impl Down {
    /// Encodes the message, with its length before it.
    pub fn frame(&self) -> Vec<u8> {
        frame(self)
    }

    /// Decodes a message with its version byte, without its length.
    pub fn decode(message: &[u8]) -> Result<Down, MessageError> {
        let body = body(message)?;
        let limited = config::standard().with_limit::<MAX_DOWN_CLAIM>();
        whole(bincode::borrow_decode_from_slice(body, limited), body)
    }
}

fn frame(message: &impl Encode) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, RELAY_VERSION];
    append(message, &mut bytes);
    set_length(&mut bytes);
    bytes
}

fn append(value: &impl Encode, to: &mut Vec<u8>) {
    bincode::encode_into_std_write(value, to, config::standard())
        .expect("a message can always be encoded into a vector");
}

/// Writes the length of the message, which begins after the first four bytes, into the first four bytes.
fn set_length(frame: &mut [u8]) {
    let length = frame.len().saturating_sub(4).min(u32::MAX as usize) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
}

fn body(message: &[u8]) -> Result<&[u8], MessageError> {
    match message.split_first() {
        Some((&RELAY_VERSION, body)) => Ok(body),
        Some((other, _)) => Err(MessageError::Version(*other)),
        None => Err(MessageError::Empty),
    }
}

fn whole<T>(decoded: Result<(T, usize), DecodeError>, body: &[u8]) -> Result<T, MessageError> {
    // bincode's error is dropped, since it may contain bytes from an unauthenticated peer, and errors are logged.
    let (message, read) = decoded.map_err(|_| MessageError::Encoding)?;
    match body.len() - read {
        0 => Ok(message),
        trailing => Err(MessageError::Trailing(trailing)),
    }
}
