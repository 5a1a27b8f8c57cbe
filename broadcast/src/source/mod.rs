//! Reads updates from the log: first those from before the start, then new ones as they are written.

mod commits;
mod restore;
pub(crate) mod tailer;
mod topic_reader;
