//! The tree of relays: each node sends updates to the relays below it, and each relay reports its audience to its
//! upstream.
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
//! - All nodes create the same frames, since they apply the same updates in the same order.
//! - A node's updates come from the log, or from exactly one upstream, which is not below it. A node that is
//!   disconnected sends no heartbeats, so that all nodes below it notice this.
//! - Every wait for a peer has a timeout. Memory is allocated for received bytes, not for announced lengths.

mod audience;
pub(crate) mod auth;
pub(crate) mod client;
mod log_limit;
mod received_snapshot;
pub(crate) mod server;
mod session;
mod transport;
