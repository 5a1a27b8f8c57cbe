//! The tree of relays: how news goes from node to node, and audiences come back.
//!
//! ```text
//!                 ┌──────────── publisher ─────────────┐
//!  [log] ─ tail ─▶│ Updates ─▶ rooms ─▶ outlet ─▶ Port    │
//!                 └──────────────────────────────┬─────┘
//!                          link: news down ▼     │ ▲ audience, heartbeats up
//!                 ┌──────────── relay ───────────┴─────┐
//!                 │ upstream ─▶ Updates ─▶ rooms ─▶ …     │──▶ further relays, subscribers
//!                 └────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - Every node makes the same frames, since it takes in the same news in the same order.
//! - A node is fed by the log, or by exactly one upstream, which is not fed by it. One that is
//!   not fed sends no heartbeat, so silence travels down the tree.
//! - Nothing waits for a peer without an end, and what a peer announces takes no room before it comes.

mod audience;
pub(crate) mod auth;
pub(crate) mod client;
mod log_limit;
pub(crate) mod node;
pub(crate) mod server;
mod session;
mod transport;
