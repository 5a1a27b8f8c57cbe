//! The tree of relays: how news goes from node to node, and audiences come back.
//!
//! ```text
//!                 ┌──────────── publisher ─────────────┐
//!  [log] ─ tail ─▶│ Feed ─▶ rooms ─▶ outlet ─▶ Port    │
//!                 └──────────────────────────────┬─────┘
//!                          link: news down ▼     │ ▲ audience, heartbeats up
//!                 ┌──────────── relay ───────────┴─────┐
//!                 │ upstream ─▶ Feed ─▶ rooms ─▶ …     │──▶ further relays, subscribers
//!                 └────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - Every node makes the same frames, since it takes in the same news in the same order.
//! - A node is fed by the log, or by exactly one upstream, which is not fed by it ([`Supply`]). One that is
//!   not fed sends no heartbeat, so silence travels down the tree.
//! - Nothing waits for a peer without an end, and what a peer announces takes no room before it comes.

mod audience;
pub(crate) mod auth;
pub(crate) mod client;
mod log_limit;
pub(crate) mod server;
mod session;
mod transport;

use std::{sync::Arc, time::Duration};

use emostream_model::NodeId;

/// How often each side of a link tells that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A peer that has said nothing for so long is lost, and so is one that takes nothing for so long: three
/// heartbeats, so that one that is late loses nothing.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a link may take from its first byte to the welcome.
const HELLO_PATIENCE: Duration = Duration::from_secs(3);

/// Whether results come to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Supply {
    /// They do not: what is known here may be old.
    CutOff,
    /// They do, by these nodes, the nearest first; none of them is this one. Empty: from the log.
    Fed(Arc<[NodeId]>),
}

impl Supply {
    pub(crate) fn from_the_log() -> Self {
        Self::Fed(Arc::new([]))
    }

    pub(crate) fn is_fed(&self) -> bool {
        matches!(self, Self::Fed(_))
    }
}
