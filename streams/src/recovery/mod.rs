//! Recovery: the start of a run from stored progress and from its tables, and resets of progress.

pub mod reset;
pub mod restore;
pub mod take_over;
pub mod topic_settings;
