//! `emostream topics`: creates and checks the topics.

mod check;

use clap::{Args, Subcommand};
use emostream_app::{
    flags::{KafkaFlags, PartitionFlags},
    process::Failure,
    topics::create as create_topics,
};

use crate::{
    cli::flags::TopicFlags,
    topics::{self, TopicTarget},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Create the topics that do not exist yet
    Create(Create),
    /// Compare the topics with the settings that EmoStream needs, and print the commands that fix differences; exits
    /// with 1 if a topic must be fixed
    Check(check::Flags),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    #[command(flatten)]
    partitions: PartitionFlags,
}

pub(crate) fn run(action: Action) -> Result<(), Failure> {
    match action {
        Action::Create(flags) => create(flags),
        Action::Check(flags) => check::run(flags),
    }
}

fn create(flags: Create) -> Result<(), Failure> {
    let names = flags.topics.names();
    let target = TopicTarget::Kafka {
        replication: flags.partitions.replication,
        min_in_sync: flags.partitions.min_in_sync()?,
    };
    let partitions = flags.partitions.partitions;
    let advice = format!(
        "; `emostream topics check {} --topic-prefix {} --partitions {partitions}` prints the commands that fix them",
        flags.kafka.as_typed(),
        names.prefix(),
    );
    let log = flags.kafka.connect_once()?;
    create_topics(&*log, &topics::specs(&names, partitions, target), &advice)
}
