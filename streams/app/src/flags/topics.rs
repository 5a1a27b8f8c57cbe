//! The flags of topics that are created on Kafka.

use clap::Args;

use crate::process::Failure;

/// Default of `--partitions`. This number is enough for the workers of a few hosts, since each worker needs a
/// partition.
pub const DEFAULT_PARTITIONS: u32 = 8;

/// The flags with which topics are created on Kafka.
#[derive(Debug, Clone, Args)]
pub struct PartitionFlags {
    /// Number of partitions of each topic (the progress topic has one): at least as many as there will ever be workers
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARTITIONS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub partitions: u32,
    /// Number of replicas of each partition; use 3 in production
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub replication: u32,
    /// Number of replicas that must have a record before it is acknowledged [default: min(2, replication)]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    min_isr: Option<u32>,
}

impl PartitionFlags {
    /// Returns the number of replicas that must have a record before it is acknowledged, or an error if there are fewer
    /// replicas.
    pub fn min_in_sync(&self) -> Result<u32, Failure> {
        let replication = self.replication;
        let min_in_sync = self.min_isr.unwrap_or(default_min_in_sync(replication));
        if min_in_sync > replication {
            let why = format!(
                "must be at most --replication ({replication}): {min_in_sync} replicas could never be in sync, and nothing could be written"
            );
            return Err(Failure::usage("--min-isr", why));
        }
        Ok(min_in_sync)
    }
}

/// Returns the default of `--min-isr`, the number of replicas that must have a record before it is acknowledged. If two
/// replicas must have a record, no acknowledged record is lost when one broker is lost.
pub fn default_min_in_sync(replication: u32) -> u32 {
    replication.min(2)
}
