//! A run that waits until the active one has stopped committing, and takes over then.
//!
//! ```text
//!               another run fences it
//!   active ───────────────────────────────▶ standby ◀── --standby
//!     ▲                                        │ end offsets of the progress topic: no commit for --takeover
//!     └───────────── check, fence ─────────────┘ (an open transaction: none for --commit-timeout)
//! ```
//!
//! The active run commits its progress at least every [`crate::config::HEARTBEAT`], from inside the loop of its first worker,
//! so the end of the progress topic moves as long as that worker runs. The standby also reads the records of the topic:
//! they name the run that commits, and show whether its version has heartbeats.
//!
//! Invariants:
//! - Exactly-once does not depend on this module: a run reads the progress after it has fenced the others, and a fenced
//!   run cannot commit. A standby that is wrong costs one takeover.
//! - Only this process's monotonic clock is used, and only answers to requests that were sent after the wait: a process
//!   that was frozen does not take over sooner.
//! - A standby goes on from progress with settings, or from what a reset wrote before the standby started. After any
//!   other reset it ends, and its supervisor decides with which flags to continue.

mod silence;
mod watch;

pub use watch::Standby;
