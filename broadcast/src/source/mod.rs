//! Updates that come from the log: restored at the start, then read as they are written.

mod restore;
pub(crate) mod tailer;
mod topic_reader;
