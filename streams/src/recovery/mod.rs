//! Recovery: the start of a run from stored progress, and resets of progress.

pub mod reset;
pub mod take_over;
pub mod topic_settings;
