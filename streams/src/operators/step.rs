//! How much an operator does before the others have their turn.
//!
//! A worker takes a step by running its operators one after the other. One that handles everything at once, such as
//! the close of a window with millions of counts, keeps the worker from reading, from showing live tallies, and from
//! its heartbeat, by which the watchdog knows that it is not stuck. So an operator stops when its budget is spent, keeps
//! its capability, and activates itself again.

/// How many counts an operator may still handle in a step.
#[derive(Debug)]
pub struct StepBudget(usize);

impl StepBudget {
    /// The budget of a step.
    pub fn new(max_step_counts: usize) -> StepBudget {
        StepBudget(max_step_counts)
    }

    /// So many counts were handled. A step may exceed its budget by one key.
    pub fn spend(&mut self, counts: usize) {
        self.0 = self.0.saturating_sub(counts);
    }

    /// Whether the operator must stop.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// How many counts are left.
    pub fn left(&self) -> usize {
        self.0
    }
}
