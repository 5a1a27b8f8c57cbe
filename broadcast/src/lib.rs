//! Broadcast: results out of the log to every subscriber.
//!
//! ```text
//!  [totals] ─at the start─┐
//!  [windows] ──▶ tail ────┴▶ hub ─▶ room: ring of finals, newest live ─▶ shard: cursor ─▶ WebSocket
//!  [trending] ─▶ (thread)           what is trending                    (threads) └────▶ SSE
//!  [live] ─────▶
//!                                                           state, history, rooms ─▶ JSON
//! ```
//!
//! Two classes of message: of live tallies and of what is trending the newest wins, finals are lossless
//! while they are in the ring. A subscriber has no queue, only a cursor: a slow one costs nothing but
//! its own socket.
//!
//! Invariants:
//! - A frame is serialised once, whoever receives it, and is the same bytes at every publisher.
//! - What a subscriber gets next is a pure function of its cursor and the room (`room/cursor.rs`).
//! - The log is read on a thread of its own, never by an async task.
//! - What is written to subscribers, shards write; requests, health and metrics are answered elsewhere.

mod config;
mod error;
mod fanout;
mod frame;
mod http;
mod hub;
mod metrics;
mod publisher;
mod relay;
mod room;
mod source;

pub use config::{Config, IngestUrl, InvalidIngestUrl, SUBSCRIBER_HEARTBEAT, SubscriberConfig};
pub use error::BroadcastError;
pub use publisher::Publisher;
pub use relay::{auth::RelayToken, client::Upstreams, server::RelayPort};
