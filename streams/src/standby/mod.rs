//! The standby: waits until the active run has stopped committing. Then the process takes over.
//!
//! ```text
//!               another run fences it
//!   active ───────────────────────────────▶ standby ◀── --standby
//!     ▲                                        │ end offsets of the progress topic: no commit for --takeover
//!     └───────────── check, fence ─────────────┘ (an open transaction: none for --commit-timeout)
//! ```
//!
//! The active run commits its progress at least once per [`crate::config::HEARTBEAT`], from the loop of its first
//! worker, so the end offset of the progress topic advances as long as that worker runs. The standby also reads the
//! records of the topic: they contain the identity of the run that commits, and show whether its version has
//! heartbeats.
//!
//! Invariants:
//! - Exactly-once does not depend on this module: a run reads the progress after it has fenced the others, and a fenced
//!   run cannot commit. If a standby takes over although the active run is alive, the cost is one takeover.
//! - Only this process's monotonic clock is used, and only answers to requests that were sent after the wait: a process
//!   that was frozen does not take over sooner.
//! - A standby continues from progress with settings, or from the record of a reset before the standby started. After
//!   any other reset it ends with an error, so that it can be restarted with the right flags.

mod takeover;
mod watch;

pub use watch::Standby;
