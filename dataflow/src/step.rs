//! How much an operator does before the others have their turn.
//!
//! A worker takes a step by running its operators one after the other. One that handles everything at once, such as
//! the close of a window with millions of counts, keeps the worker from reading, from showing live tallies, and from
//! its heartbeat, by which the watchdog knows that it is not stuck. So an operator stops after this many counts, keeps
//! its capability, and activates itself again.

/// How many counts an operator handles in a step, and at most one room more: some milliseconds. Few in unit tests and in
/// the simulation, so that windows are closed in several steps there, too.
pub const STEP_COUNTS: usize = if cfg!(test) { 4 } else { 50_000 };
