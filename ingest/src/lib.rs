//! The ingest service. It receives reactions over HTTP and writes them to the log.
//!
//! ```text
//!  POST ─▶ api: request ─▶ body ─▶ admission ─▶ buffer ──every 500 ms──▶ producer: flusher ─▶ [reactions]
//!                  │         │         │           │                          │      every partition
//!                  ▼         ▼         ▼           ▼                          ▼
//!          ◀────────────────────── response ◀──────┴────── stored? ◀───── in_flight (acknowledged)
//! ```
//!
//! Layers: service → api → {admission, producer} → buffer. A file imports only from its own layer and from lower
//! layers.
//!
//! Invariants:
//! - A body is read only if the buffer has permits for its reactions. Bodies have a budget of their own, which is
//!   charged as their bytes arrive. Buffer permits are acquired when the body is complete, and released when the log
//!   has acknowledged the reactions or the ingest has given up storing them. So the memory of the process is bounded.
//! - The event time of a reaction is the time when it was added to the buffer. The clock of event times does not go
//!   back within a flush.
//! - The flush at the end of each interval writes a record to every available partition. A partition without reactions
//!   gets a heartbeat. One flush is an exception: the first request after an interval without requests is written at
//!   once, to one partition.
//! - A response with `stored` is sent only after the log has acknowledged all records that contain the request's
//!   reactions. If a flush fails, waiting requests get 503, and the failure is counted and logged.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod admission;
mod api;
mod buffer;
mod config;
// The fuzz tests are in `src/` and not in `tests/`, because they test parsers that are not public.
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
