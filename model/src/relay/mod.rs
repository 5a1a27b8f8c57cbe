//! What a publisher and its relays say to each other, link by link.
//!
//! ```text
//!   relay                                upstream (a publisher, or another relay)
//!     ◀──────────────────────────── Challenge
//!     Hello ───────────────────────▶          token? a place? fed itself?
//!     ◀──────────────────────────── Welcome, or Refused
//!     ◀──────────────────────────── Snapshot, Updates …  the rooms as they stand, then Present
//!     ◀──────────────────────────── Updates …  for ever
//!     Audience, Heartbeat ─────────▶
//!     ◀──────────────────────────── Heartbeat, Path
//!
//!  ┌────────────────────┬─────────┬────────────────────────────────────┐
//!  │ length: u32, big e.│ version │ bincode 2, standard configuration  │
//!  └────────────────────┴─────────┴────────────────────────────────────┘
//! ```
//!
//! A snapshot consists of updates, so the relay applies it in the same way as later updates, whatever the relay has
//! missed. Rooms without results are not in it: if a room of the relay is missing, and the upstream has read the room's
//! newest final, then the room was removed in the meantime.
//! The token never travels: each side proves with an HMAC over both nonces that it knows it.

mod meeting;
mod update;

use bincode::{BorrowDecode, Encode, config, error::DecodeError};

use crate::{ResultId, RoomCount};

pub use meeting::{Meeting, Side};
pub use update::{Batch, Final, RoomSnapshot, TrendingNow, Update};

/// The version of this protocol: the first byte of every message. In version 1 (EmoStream 0.1) totals never begin at 0
/// again.
pub const RELAY_VERSION: u8 = 2;

/// The most bytes of a message from a relay, and of one from an upstream that is not known yet: a hello
/// lists the partitions, an audience is told a thousand rooms at a time.
pub const MAX_UP_BYTES: usize = 256 << 10;

/// The most bytes of a message from an upstream. The largest by far is a room as it stands: 4096 finals of
/// at most 5 KB each.
pub const MAX_DOWN_BYTES: usize = 32 << 20;

/// The most memory that decoding may claim at once: a list is never longer than its bytes, and no element
/// takes more than some dozen times its bytes.
const MAX_UP_CLAIM: usize = 4 << 20;
const MAX_DOWN_CLAIM: usize = 256 << 20;

/// How deep a tree may be: more levels than any needs, few enough to carry the whole path.
pub const MAX_PATH: usize = 16;

/// Bytes that prove something, or make a proof unique.
pub type Nonce = [u8; 32];

/// Which publisher or relay: a random number of each process, to notice loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub struct NodeId(pub u64);

/// The offsets of a partition of the finals that a node has read: `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct ReadRange {
    /// The partition.
    pub partition: u32,
    /// What lies before it was never read.
    pub start: u64,
    /// Behind the last that was read.
    pub end: u64,
}

impl ReadRange {
    /// Whether it has come further than `id`.
    pub fn is_behind(&self, id: ResultId) -> bool {
        id.partition == self.partition && id.offset < self.end
    }
}

/// What a relay says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Hello {
    /// Its number.
    pub node: NodeId,
    /// Its name, for the logs of its upstream.
    pub name: String,
    /// Makes the upstream's proof unique.
    pub nonce: Nonce,
    /// That it knows the token.
    pub proof: Nonce,
    /// The finals that it has.
    pub has: Vec<ReadRange>,
}

/// What an upstream says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Welcome {
    /// That it knows the token.
    pub proof: Nonce,
    /// Itself, its own upstream, and so on up to the publisher.
    pub path: Vec<NodeId>,
    /// The settings that it sends in `hello`.
    pub window_settings: WindowSettings,
}

/// The settings of the dataflow's windows, as `hello` contains them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, BorrowDecode)]
pub struct WindowSettings {
    /// Length of a window.
    pub window_ms: u64,
    /// How many identical emojis make a swarm.
    pub swarm_size: u64,
    /// Minimum time between two live tallies of a room.
    pub live_ms: u64,
}

/// Why an upstream takes a relay not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode, thiserror::Error)]
pub enum Refusal {
    /// The proof is none.
    #[error("it knows another token; give both the same --relay-token-file")]
    WrongToken,
    /// There is no place.
    #[error("it has as many relays as it takes; raise its --max-relays, or name another upstream")]
    Full,
    /// It has no upstream itself.
    #[error("it has no upstream itself at the moment")]
    CutOff,
    /// It would be fed by itself.
    #[error("it is fed by this relay; a relay cannot be its own upstream")]
    Loop,
}

/// From a relay to its upstream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Up {
    /// Who is there.
    Hello(Hello),
    /// I live.
    Heartbeat,
    /// How many subscribers these rooms have now, at this relay and below it.
    Audience(Vec<RoomCount>),
}

/// From an upstream to a relay.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Down {
    /// Prove who you are.
    Challenge(Nonce),
    /// Go away.
    Refused(Refusal),
    /// Come in.
    Welcome(Welcome),
    /// What is new.
    Updates {
        /// When the publisher read the oldest of them, Unix microseconds.
        born_us: u64,
        /// In the order of their coming.
        updates: Vec<Update>,
    },
    /// You have all there was.
    Present,
    /// The way up has changed.
    Path(Vec<NodeId>),
    /// I live, and am fed.
    Heartbeat,
    /// Start of the snapshot: updates with every room that has results follow, until [`Down::Present`].
    Snapshot,
}

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The first byte is another version's.
    #[error(
        "it uses version {0} of the relay protocol, and this process uses version {RELAY_VERSION}; run the same emostream \
         on both"
    )]
    Version(u8),
    /// There is not even a version.
    #[error("an empty message")]
    Empty,
    /// What follows is none of ours.
    #[error("a message that is none of ours")]
    Encoding,
    /// Bytes are left over.
    #[error("{0} bytes behind a message")]
    Trailing(usize),
}

impl Up {
    /// The message behind its length, as it goes out.
    pub fn frame(&self) -> Vec<u8> {
        frame(self)
    }

    /// Reads a message, version included, length not.
    pub fn decode(message: &[u8]) -> Result<Up, MessageError> {
        let body = body(message)?;
        let limited = config::standard().with_limit::<MAX_UP_CLAIM>();
        whole(bincode::borrow_decode_from_slice(body, limited), body)
    }
}

impl Down {
    /// The message behind its length, as it goes out.
    pub fn frame(&self) -> Vec<u8> {
        frame(self)
    }

    /// Reads a message, version included, length not.
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
        .expect("plain data goes into a vector");
}

/// Writes the length of what lies behind it into the first four bytes.
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
    // Not bincode's words: they may repeat what a stranger sent, and errors are logged.
    let (message, read) = decoded.map_err(|_| MessageError::Encoding)?;
    match body.len() - read {
        0 => Ok(message),
        trailing => Err(MessageError::Trailing(trailing)),
    }
}
