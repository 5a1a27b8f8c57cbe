//! EmoStream's data model: rooms, emojis, reactions, tallies, and their record and wire formats.
//!
//! ```text
//!  JSON body ─▶ ParsedReaction ─received─▶ Reaction ─▶ Batch ─▶ [reactions] ─▶ Tally ─▶ WindowRecord ─▶ Frame
//! ```
//!
//! All functions are pure: no clock, no IO, no async. For any input a decoder returns a value or an error. It does not
//! panic, and it allocates at most a small multiple of the input's length.

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
pub use json::{FieldNames, JsonReaction, is_json, without_bom};
pub use payload::{Payload, PayloadError};
pub use reaction::{
    InvalidReaction, MAX_USER_BYTES, ParsedReaction, Reaction, ReactionRef, UserId,
};
pub use relay::{
    Batch as RelayBatch, Down as RelayDown, Final as RelayFinal, Handshake as RelayHandshake,
    Hello as RelayHello, MAX_DOWN_BYTES, MAX_PATH, MAX_UP_BYTES, MessageError, NodeId, Nonce,
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

/// The OpenAPI document of the HTTP API, written by hand. The tests of the services compare their responses with it.
pub const OPENAPI: &str = include_str!("../openapi.json");
