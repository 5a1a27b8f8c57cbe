//! Frames: the messages that subscribers receive, one JSON text each.

use std::{fmt, str::FromStr};

use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Serialize};

use crate::{Emoji, Room, Tally, Window, known};

/// Maximum number of counts in a list of a frame. The field `others` has the sum of the counts that are not listed.
pub const FRAME_COUNTS: usize = 20;

/// Count of one emoji, without swarms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Encode)]
pub struct Count {
    /// The emoji.
    pub emoji: Emoji,
    /// The count of the emoji.
    pub count: u64,
}

/// Position of a final in the `windows` topic, as text `partition-offset`. All publishers and relays have the same ids,
/// so a subscriber can resume at another publisher or relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, BorrowDecode)]
pub struct ResultId {
    /// The partition. All finals of a room are in one partition, so the ids of a room are ordered by their offsets.
    pub partition: u32,
    /// The offset of the final in the partition.
    pub offset: u64,
}

impl ResultId {
    /// Returns whether this id is `newest` or an earlier id of the same partition.
    pub fn is_up_to(self, newest: ResultId) -> bool {
        self.partition == newest.partition && self.offset <= newest.offset
    }
}

/// The error for a text that does not have the form `partition-offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id has the form PARTITION-OFFSET, for example 3-10422")]
pub struct ResultIdError;

impl fmt::Display for ResultId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.offset)
    }
}

impl FromStr for ResultId {
    type Err = ResultIdError;
    fn from_str(text: &str) -> Result<ResultId, ResultIdError> {
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        let (partition, offset) = text
            .split_once('-')
            .filter(|(partition, offset)| digits(partition) && digits(offset))
            .ok_or(ResultIdError)?;
        Ok(ResultId {
            partition: partition.parse().map_err(|_| ResultIdError)?,
            offset: offset.parse().map_err(|_| ResultIdError)?,
        })
    }
}

impl Serialize for ResultId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ResultId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ResultId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The reason why finals are missing between two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// The subscriber read too slowly, and the ring dropped finals before they were sent.
    Slow,
    /// The subscriber resumed from an id that is not in the ring any more.
    Expired,
}

/// A message to a subscriber. A list contains the top [`FRAME_COUNTS`] emojis. `others` is the sum of the remaining
/// counts, and is omitted if it is 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Frame {
    /// The first message of every connection.
    Hello {
        /// The room of the subscription.
        room: Room,
        /// The server's time, Unix milliseconds. 0 if the server does not send this field.
        #[serde(default)]
        now: u64,
        /// Maximum time between two frames, in milliseconds: after this time the server sends a `heartbeat`. 0 if the
        /// server sends no heartbeats.
        #[serde(default)]
        heartbeat_ms: u64,
        /// The newest final of the room when the subscriber connected. A final with this id or an earlier one is older
        /// than the connection. `None` if the server has no final of the room: then every final that follows is new.
        latest: Option<ResultId>,
        /// Length of a window, in milliseconds.
        window_ms: u64,
        /// Minimum time between two live tallies, in milliseconds.
        live_ms: u64,
        /// Number of identical emojis in a swarm.
        swarm_size: u64,
        /// Whether all finals after the id that the subscriber requested follow, without a gap.
        resumed: bool,
    },
    /// Sent when no other frame was sent for `heartbeat_ms`, so that the subscriber knows that the connection works.
    Heartbeat {
        /// The server's time, Unix milliseconds.
        now: u64,
    },
    /// The tally of an open window. A newer tally of the same window replaces it.
    Live {
        /// The room.
        room: Room,
        /// `start` and `end`, Unix milliseconds.
        #[serde(flatten)]
        window: Window,
        /// The time at which the dataflow emitted the tally, Unix milliseconds.
        emitted_at: u64,
        /// The sum of all counts.
        total: u64,
        /// The top counts.
        #[serde(deserialize_with = "known::deserialize")]
        counts: Vec<Tally>,
        /// The sum of the counts that are not listed.
        #[serde(default, skip_serializing_if = "is_zero")]
        others: u64,
    },
    /// The exact tally of a closed window.
    Final {
        /// The id from which a subscriber can resume.
        id: ResultId,
        /// The room.
        room: Room,
        /// `start` and `end`, Unix milliseconds.
        #[serde(flatten)]
        window: Window,
        /// The time at which the final was committed to the log, Unix milliseconds.
        emitted_at: u64,
        /// The sum of all counts.
        total: u64,
        /// The top counts.
        #[serde(deserialize_with = "known::deserialize")]
        counts: Vec<Tally>,
        /// The sum of the counts that are not listed.
        #[serde(default, skip_serializing_if = "is_zero")]
        others: u64,
        /// The room's top cumulative counts as of this window.
        #[serde(deserialize_with = "known::deserialize")]
        totals: Vec<Count>,
        /// The sum of the cumulative counts that are not listed.
        #[serde(default, skip_serializing_if = "is_zero")]
        totals_others: u64,
    },
    /// The top emojis of the room in the sliding span.
    Trending {
        /// The room.
        room: Room,
        /// Length of the span, in milliseconds.
        span_ms: u64,
        /// The top emojis.
        #[serde(deserialize_with = "known::deserialize")]
        top: Vec<Count>,
    },
    /// Finals were missed. The room's state (`GET /v1/rooms/ROOM`) has the current counts.
    Gap {
        /// The last final that the subscriber received, or the one from which it resumed.
        after: ResultId,
        /// The reason why finals are missing.
        reason: GapReason,
    },
    /// The server is about to close the connection.
    Bye {
        /// Time after which the subscriber is to reconnect, in milliseconds.
        retry_ms: u64,
    },
}

impl Frame {
    /// Returns the frame's `type`.
    pub fn kind(&self) -> &'static str {
        match self {
            Frame::Hello { .. } => "hello",
            Frame::Heartbeat { .. } => "heartbeat",
            Frame::Live { .. } => "live",
            Frame::Final { .. } => "final",
            Frame::Trending { .. } => "trending",
            Frame::Gap { .. } => "gap",
            Frame::Bye { .. } => "bye",
        }
    }
}

/// Returns the first [`FRAME_COUNTS`] of sorted counts, and the sum of the others.
pub fn top<T: Clone>(counts: &[T], count: impl Fn(&T) -> u64) -> (Vec<T>, u64) {
    let (listed, rest) = counts.split_at(counts.len().min(FRAME_COUNTS));
    // The sum saturates, since another program may have written a record with any counts.
    let others = rest.iter().map(count).fold(0, u64::saturating_add);
    (listed.to_vec(), others)
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}
