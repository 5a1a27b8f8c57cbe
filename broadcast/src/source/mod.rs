//! Reads updates from the log: first the updates from before the start of the publisher, then new updates as they are
//! written.

mod commits;
mod restore;
pub(crate) mod tailer;
mod topic_reader;
