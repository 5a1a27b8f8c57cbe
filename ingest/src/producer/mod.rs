//! Writes the buffer to the log: one record per partition and flush. Tracks which partitions respond.

pub(crate) mod flusher;
pub(crate) mod in_flight;
pub(crate) mod instance;
pub(crate) mod partition_health;
