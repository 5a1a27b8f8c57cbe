//! Writes the buffer to the log in flushes, and tracks which partitions acknowledge records.

pub(crate) mod flusher;
pub(crate) mod in_flight;
pub(crate) mod instance;
pub(crate) mod partition_health;
