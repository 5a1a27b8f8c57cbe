//! `emostream topics`: the topics on a team's own Kafka.

use clap::{Args, Subcommand};

use crate::{
    exit::Failure,
    output,
    settings::{KafkaFlags, TopicFlags},
    topics,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Create the topics that do not exist yet
    Create(Create),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    /// Partitions of each topic (the progress topic has one): as many as workers will ever share
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: u32,
    /// Copies of each partition: 3 on a cluster that must not lose any
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: u32,
}

pub(crate) fn run(action: Action) -> Result<(), Failure> {
    let Action::Create(flags) = action;
    let log = flags.kafka.connect()?;
    let specs = topics::specs(&flags.topics.names(), flags.partitions, flags.replication);
    let created = topics::create_missing(&*log, &specs)?;
    let mut said = String::new();
    for spec in specs {
        let what = match created.contains(&spec.name) {
            true => "created",
            false => "exists",
        };
        said += &format!("{what}  {}\n", spec.name);
    }
    output::quietly(output::print(&said))
}
