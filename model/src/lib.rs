//! EmoStream's words, and the formats they travel in.
//!
//! ```text
//!  JSON body ─▶ ParsedReaction ─received─▶ Reaction ─▶ Batch ─▶ [reactions] ─▶ Tally ─▶ WindowRecord ─▶ Frame
//! ```
//!
//! Everything here is a pure function over values: no clock, no IO, no async. Whatever bytes come
//! in, a decoder answers a value or an error; it never panics and never allocates more than a small
//! multiple of what it was given.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod batch;
mod emoji;
mod frame;
mod json;
mod known;
mod payload;
mod reaction;
mod relay;
mod result_json;
mod results;
mod room;
mod tally;
mod timestamp;
mod topics;
mod total_counts;

pub use emostream_protocol::{
    FinalsFrom, INSTANCE_HEADER, LaterFinals, REMOVED_HEADER, RESETS_HEADER, ResultHeaders,
    ResultOrder, TOTALS_BEGIN_HEADER, Unwritten, Window, WindowSize,
};

pub use batch::{Batch, BatchError, MAX_BATCH_REACTIONS};
pub use emoji::{AliasError, Emoji, EmojiNames, UnknownEmoji};
pub use frame::{Count, FRAME_COUNTS, Frame, GapReason, ResultId, ResultIdError, top};
pub use json::{Entry, FieldNames, is_json, without_bom};
pub use payload::{Payload, PayloadError};
pub use reaction::{Invalid, MAX_USER_BYTES, ParsedReaction, Reaction, ReactionRef, UserId};
pub use relay::{
    Batch as RelayBatch, Down as RelayDown, Final as RelayFinal, Hello as RelayHello,
    MAX_DOWN_BYTES, MAX_PATH, MAX_UP_BYTES, Meeting as RelayMeeting, MessageError, NodeId, Nonce,
    RELAY_VERSION, ReadRange, Refusal, RoomSnapshot, Side as RelaySide, TrendingNow, Up as RelayUp,
    Update as RelayUpdate, Welcome as RelayWelcome, WindowSettings,
};
pub use results::{
    ALL_ROOMS, AllRooms, LeadersRecord, RoomCount, TotalsRecord, Trending, TrendingRecord,
    WindowRecord,
};
pub use room::{InvalidRoom, MAX_ROOM_BYTES, Room};
pub use tally::{Tally, compress, sort_counts};
pub use timestamp::from_text as parse_timestamp;
pub use topics::{InvalidPrefix, Topics};
pub use total_counts::{TotalCounts, UnnamedCount};
