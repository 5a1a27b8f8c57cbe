//! The ingest service: reactions over HTTP into the log.
//!
//! ```text
//!  POST ─▶ request ─▶ submissions ─▶ rooms ─▶ buffer ──every 500 ms──▶ flush ─▶ [reactions]
//!             │            │           │         │                        │      every partition
//!             ▼            ▼           ▼         ▼                        ▼
//!          ◀───────────────────── answer ◀───────┴────── stored? ◀──── flight (acknowledged)
//! ```
//!
//! Invariants:
//! - A body is read only while there is room for its reactions. Bodies have a room of their own, taken as
//!   their bytes come; room in the buffer is taken when they have come, and given back when the log has
//!   acknowledged the reactions (or refused them for good): the process's memory is bounded.
//! - A reaction's event time is when it entered the buffer, by a clock that does not go back within a flush.
//! - Every flush writes to every partition, a heartbeat where there are no reactions.
//! - A `stored` answer is given only when the log has acknowledged the whole flush. A flush that fails
//!   is answered 503 to those who wait, counted, and logged.

mod answer;
mod buckets;
mod buffer;
mod clock;
mod config;
mod flight;
mod flush;
#[cfg(test)]
mod fuzz;
mod handler;
mod health;
mod instance;
mod limiter;
mod metrics;
mod openapi;
mod packed;
mod request;
mod rooms;
mod service;
mod submissions;

pub use buckets::RateLimit;
pub use config::Config;
pub use rooms::{InvalidPattern, RoomPattern};
pub use service::{DrainError, Ingest, StartError};
