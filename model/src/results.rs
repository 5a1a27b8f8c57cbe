//! Result records: the JSON values of the output topics, keyed by room.

use serde::{Deserialize, Serialize};

use crate::{Count, Room, Tally, Window};

/// A value of the `windows` topic (a final) or, with `emitted_at`, of the `live` topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// Which room.
    pub room: Room,
    /// `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// When the dataflow emitted it, Unix milliseconds: live results only, so that a final is the
    /// same bytes whenever it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted_at: Option<u64>,
    /// The sum of the counts.
    pub total: u64,
    /// Every emoji of the room and window, the most frequent first.
    pub counts: Vec<Tally>,
}

/// A value of the `totals` topic: all that a room has ever counted, as of a closed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalsRecord {
    /// Which room.
    pub room: Room,
    /// The window that changed it last: its `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// The sum of the counts.
    pub total: u64,
    /// Every emoji ever seen in the room, the most frequent first.
    pub counts: Vec<Count>,
}

/// A value of the `trending` topic: the top emojis of a sliding span that ends with a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrendingRecord {
    /// Which room.
    pub room: Room,
    /// The last window of the span: its `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// How long the span is.
    pub span_ms: u64,
    /// The most frequent emojis of the span, the most frequent first.
    pub top: Vec<Count>,
}
