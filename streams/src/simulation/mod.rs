//! The parts of a deterministic simulation of an application: a log, a clock, and runs whose workers take a step on
//! request.
//!
//! A simulation depends only on its seed: one thread runs at a time, and no real clock is read. A cluster of processes
//! is simulated as the workers of one process, since the same number of workers computes the same results in one
//! process or in several. A crash ends all workers, as the loss of one process ends its cluster.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

pub mod log;
pub mod run;

use proptest::test_runner::TestRng;

/// The time at which a simulation begins, Unix milliseconds.
pub const T0: u64 = 1_764_000_000_000;

/// The random number generator of a simulation, created from the seed.
pub type Rng = TestRng;
