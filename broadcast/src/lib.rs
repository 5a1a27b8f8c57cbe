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
//! - What a subscriber gets next is a pure function of its cursor and the room (`room::cursor`).
//! - The log is read on a thread of its own, never by an async task.
//! - What is written to subscribers, shards write; requests, health and metrics are answered elsewhere.

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

use std::{num::NonZeroUsize, time::Duration};

use emostream_http::{AllowOrigin, Gate};
use emostream_log::EventClock;
use emostream_model::Topics;

pub use error::BroadcastError;
pub use http::assets::{IngestUrl, InvalidIngestUrl};
pub use publisher::Publisher;
pub use relay::{auth::RelayToken, client::Upstreams, server::RelayPort};

/// Longest silence on a subscriber's connection, unless a [`Reception`] says otherwise. Proxies close
/// connections that are silent for longer, most of them after 30 or 60 s.
pub const SUBSCRIBER_HEARTBEAT: Duration = Duration::from_secs(15);

/// What a publisher is told, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where results come from.
    pub topics: Topics,
    /// Told in `hello`, until results tell otherwise: how long a window is.
    pub window_ms: u64,
    /// Told in `hello`: how often a live tally comes at most.
    pub live_ms: u64,
    /// Told in `hello`, until results tell otherwise: how many identical emojis make a swarm.
    pub swarm_size: u64,
    /// What subscribers meet.
    pub reception: Reception,
}

/// What subscribers meet, at a publisher and at a relay.
#[derive(Debug, Clone)]
pub struct Reception {
    /// How long finals are kept for those who resume.
    pub ring: Duration,
    /// Where the page sends reactions; to where it came from if that is not said.
    pub ingest_url: Option<IngestUrl>,
    /// Whose pages may receive.
    pub allow_origin: AllowOrigin,
    /// Who may receive; the page is everybody's.
    pub gate: Gate,
    /// Threads that write to subscribers; as many as there are cores if that is not said.
    pub shards: Option<NonZeroUsize>,
    /// At the end, subscribers are told to come back spread over this at most.
    pub drain: Duration,
    /// The clock that dates events: the log's and the ingest's where they are in this process.
    pub clock: EventClock,
    /// Longest silence on a subscriber's connection, announced in `hello`: a `heartbeat` frame is sent where
    /// nothing else was. At least 2 s, since a shard visits each connection once a second.
    pub heartbeat: Duration,
}
