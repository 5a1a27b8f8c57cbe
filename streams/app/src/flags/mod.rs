//! Groups of flags, and the conversion of their values to configurations. Commands flatten the groups that they need.
//!
//! An error names the flag that the user should change.

mod admin;
mod cluster;
mod kafka;
mod kafka_config;
pub mod parse;
mod run;
pub mod text_file;
mod topics;

pub use admin::AdminFlags;
pub use cluster::ClusterFlags;
pub use kafka::{DENIAL_RETRY_TIME, DescribedKafkaFlags, KafkaFlags, PropertyFlags};
pub use run::{RunFlags, StandbyFlags};
pub use topics::{DEFAULT_PARTITIONS, PartitionFlags, default_min_in_sync};
