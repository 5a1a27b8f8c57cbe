//! `emostream topics`: creates and checks the topics.

mod check;

use clap::{Args, Subcommand};

use crate::{
    cli::flags::{KafkaFlags, TopicFlags},
    exit::Failure,
    output,
    topics::{self, TopicTarget},
};

/// Default of `--partitions`, which is enough for the workers of a few hosts.
const DEFAULT_PARTITIONS: u32 = 8;

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
    /// Number of partitions of each topic (the progress topic always has one). Use at least as many as there will ever
    /// be workers
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PARTITIONS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: u32,
    /// Number of replicas of each partition; use 3 in production
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: u32,
    /// Number of replicas that must have a record before it is acknowledged [default: min(2, replication)]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    min_isr: Option<u32>,
}

pub(crate) fn run(action: Action) -> Result<(), Failure> {
    match action {
        Action::Create(flags) => create(flags),
        Action::Check(flags) => check::run(flags),
    }
}

fn create(flags: Create) -> Result<(), Failure> {
    let names = flags.topics.names();
    let replication = flags.replication;
    let min_in_sync = flags.min_isr;
    let min_in_sync = min_in_sync.unwrap_or(topics::default_min_in_sync(replication));
    if min_in_sync > replication {
        let why = format!(
            "must be at most --replication ({replication}): {min_in_sync} replicas could never be in sync, and nothing could be written"
        );
        return Err(Failure::usage("--min-isr", why));
    }
    let target = TopicTarget::Kafka {
        replication,
        min_in_sync,
    };
    let typed = flags.kafka.as_typed();
    let log = flags.kafka.connect_once()?;
    let specs = topics::specs(&names, flags.partitions, target);
    let created = topics::create_missing(&*log, &specs)?;
    let mut text = String::new();
    let mut differ = false;
    for spec in specs {
        if created.contains(&spec.name) {
            text += &format!("created  {}\n", spec.name);
            continue;
        }
        let partitions = log.partitions(&spec.name)?;
        let other = match partitions == spec.partitions {
            true => String::new(),
            false => format!(", with {partitions} partitions, not {}", spec.partitions),
        };
        differ |= !other.is_empty();
        text += &format!("exists   {}{other}\n", spec.name);
    }
    if differ {
        text += &format!(
            "existing topics were not changed; `emostream topics check {typed} --topic-prefix {} --partitions {}` prints the commands that fix them\n",
            names.prefix(),
            flags.partitions
        );
    }
    output::quietly(output::print(&text))
}
