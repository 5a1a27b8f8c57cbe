//! How much an operator does before the others have their turn.
//!
//! A worker takes a step by running its operators one after the other. One that handles everything at once, such as
//! the close of a window with millions of counts, keeps the worker from reading, from showing live tallies, and from
//! its heartbeat, by which the watchdog knows that it is not stuck. So an operator stops after this many counts, keeps
//! its capability, and activates itself again.

/// Limits that unit tests and simulations lower, so that they reach them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many counts an operator handles in a step, and at most one key more: some milliseconds.
    pub max_step_counts: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_step_counts: 50_000,
        }
    }
}
