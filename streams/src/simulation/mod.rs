//! What a deterministic simulation of an application is made of: a log, a clock, and runs whose workers take a step when
//! they are told to.
//!
//! Nothing but the seed decides what happens: one thread has its turn at a time, no clock is read. A group of processes
//! is simulated as workers of one, which count alike; a crash ends them all, as it does in a group.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

pub mod log;
pub mod run;

use proptest::test_runner::TestRng;

/// When a simulation begins, Unix milliseconds.
pub const T0: u64 = 1_764_000_000_000;

/// What decides what happens: made of the seed.
pub type Rng = TestRng;
