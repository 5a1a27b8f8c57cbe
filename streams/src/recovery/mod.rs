//! Where a run begins, and how progress is reset.

pub mod reset;
pub mod take_over;
pub mod topic_settings;
