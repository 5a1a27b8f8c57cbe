//! The ingest service: reactions over HTTP into the log.
//!
//! ```text
//!  POST ─▶ api: request ─▶ body ─▶ admission ─▶ buffer ──every 500 ms──▶ producer: flusher ─▶ [reactions]
//!                  │         │         │           │                          │      every partition
//!                  ▼         ▼         ▼           ▼                          ▼
//!          ◀────────────────────── response ◀──────┴────── stored? ◀───── in_flight (acknowledged)
//! ```
//!
//! Layers: service → api → {admission, producer} → buffer. A file imports downward only.
//!
//! Invariants:
//! - A body is read only while there is room for its reactions. Bodies have a room of their own, taken as
//!   their bytes come; room in the buffer is taken when they have come, and given back when the log has
//!   acknowledged the reactions (or refused them for good): the process's memory is bounded.
//! - A reaction's event time is when it entered the buffer, by a clock that does not go back within a flush.
//! - Every flush writes to every partition, a heartbeat where there are no reactions.
//! - A `stored` answer is given only when the log has acknowledged the whole flush. A flush that fails
//!   is answered 503 to those who wait, counted, and logged.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod admission;
mod api;
mod buffer;
mod config;
// In `src/` and not in `tests/`, because it tests parsers that are not public.
#[cfg(test)]
mod fuzz;
mod metrics;
mod producer;
mod service;

pub use admission::{
    room_limit::{InvalidPattern, RoomPattern},
    token_bucket::RateLimit,
};
pub use config::Config;
pub use service::{DrainError, Ingest, StartError};
