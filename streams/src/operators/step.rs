//! Limits the work of an operator in one step of its worker, so that the other operators of the worker run, too.
//!
//! A worker takes a step by running its operators one after the other. An operator that handles everything at once,
//! such as the close of a window with millions of counts, would keep the worker from reading, from writing updates, and
//! from sending its heartbeat; the watchdog would then assume that the worker is stuck. So an operator stops when its
//! budget is spent, keeps its capability, and activates itself again.

/// The number of counts that an operator may still handle in a step.
#[derive(Debug)]
pub struct StepBudget(usize);

impl StepBudget {
    /// Creates the budget of a step.
    pub fn new(max_step_counts: usize) -> StepBudget {
        StepBudget(max_step_counts)
    }

    /// Notes that `counts` counts were handled. A step may exceed its budget by the counts of one key.
    pub fn spend(&mut self, counts: usize) {
        self.0 = self.0.saturating_sub(counts);
    }

    /// Whether the budget is spent, so that the operator must stop.
    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }

    /// Returns the number of counts that the operator may still handle.
    pub fn left(&self) -> usize {
        self.0
    }
}
