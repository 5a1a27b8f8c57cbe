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
//! - The wait is measured with the monotonic clock of this process, and a response counts only if its request was sent
//!   after the end of the wait. So a process that was frozen during the wait does not take over too early.
//! - A standby takes over from progress that a run has committed, or from a reset that was made before the standby
//!   started. After a later reset it ends with an error, so that it can be restarted with the right flags.

mod takeover;
mod watch;

pub use watch::Standby;
