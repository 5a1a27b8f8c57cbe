//! From the buffer into the log: one record to every partition a flush, and which partitions answer.

pub(crate) mod flusher;
pub(crate) mod in_flight;
pub(crate) mod instance;
pub(crate) mod partition_health;
