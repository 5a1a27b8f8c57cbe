//! A run that waits until the active one has stopped committing, and takes over then.
//!
//! ```text
//!               another run fences it
//!   active ───────────────────────────────▶ standby ◀── --standby
//!     ▲                                        │ end offsets of the progress topic: no commit for --takeover
//!     └───────────── check, fence ─────────────┘ (an open transaction: none for --commit-timeout)
//! ```
//!
//! The active run commits its progress at least every [`crate::HEARTBEAT`], out of the loop of its first worker,
//! so the end of the progress topic moves as long as it does its work. What is read of the topic besides says who
//! commits, and whether by a version that has heartbeats.
//!
//! Invariants:
//! - Exactness does not rest on any of this: whoever fences reads the progress afterwards, and who was fenced cannot
//!   commit. A standby that is wrong costs a takeover.
//! - Only this process's monotonic clock counts, and only answers to requests that were sent after the wait: a process
//!   that was frozen takes over no sooner.
//! - A standby goes on from progress with settings, or from what a reset wrote before the standby started. After any
//!   other reset it ends, and its supervisor decides with which flags to continue.

mod silence;
mod watch;

pub use watch::Standby;
