//! The tree of relays: updates go down from node to node, audiences are reported up.
//!
//! ```text
//!                   ┌────────────────── publisher ─────────────────┐
//!  [log] ─ source ─▶│ updates ─▶ rooms, update log ─▶ relay server │
//!                   └───────────────────────────────────┬──────────┘
//!                                   updates down ▼      │ ▲ audience, heartbeats up
//!                   ┌──────────────────── relay ────────┴──────────┐
//!                   │ client ─▶ updates ─▶ rooms, update log ─▶ …  │──▶ further relays, subscribers
//!                   └──────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - Every node makes the same frames, since it applies the same updates in the same order.
//! - A node's updates come from the log, or from exactly one upstream, which is not below it. A node that is
//!   disconnected sends no heartbeats, so that the whole subtree notices it.
//! - Every wait for a peer has a timeout, and memory is allocated for bytes that were received, not announced.

mod audience;
pub(crate) mod auth;
pub(crate) mod client;
mod log_limit;
mod received_snapshot;
pub(crate) mod server;
mod session;
mod transport;
