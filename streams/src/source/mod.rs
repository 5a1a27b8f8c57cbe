//! The source, which reads the partitions of the source topic.

pub mod end_offsets;
pub mod format;
pub mod instances;
pub mod operator;
pub mod partition;
pub mod read_ahead;
