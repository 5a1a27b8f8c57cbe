//! `emostream topics`: the topics, made and checked.

mod check;

use clap::{Args, Subcommand};

use crate::{
    exit::Failure,
    output,
    settings::{KafkaFlags, TopicFlags},
    topics::{self, Home},
};

/// Partitions unless it is said how many: room for a few hosts.
const COMMON_PARTITIONS: u32 = 8;

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Create the topics that do not exist yet
    Create(Create),
    /// Say which topics exist, what is wrong with them, and how to mend it; ends with 1 if something is
    Check(check::Flags),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    /// Partitions of each topic (the progress topic has one): as many as workers will ever share
    #[arg(long, value_name = "N", default_value_t = COMMON_PARTITIONS)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    partitions: u32,
    /// Copies of each partition: 3 on a cluster that must not lose any
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    replication: u32,
}

pub(crate) fn run(action: Action) -> Result<(), Failure> {
    match action {
        Action::Create(flags) => create(flags),
        Action::Check(flags) => check::run(flags),
    }
}

fn create(flags: Create) -> Result<(), Failure> {
    let names = flags.topics.names();
    let home = Home::Kafka {
        replication: flags.replication,
    };
    let typed = flags.kafka.as_typed();
    let log = flags.kafka.connect()?;
    let specs = topics::specs(&names, flags.partitions, home);
    let created = topics::create_missing(&*log, &specs)?;
    let mut said = String::new();
    let mut differ = false;
    for spec in specs {
        if created.contains(&spec.name) {
            said += &format!("created  {}\n", spec.name);
            continue;
        }
        let partitions = log.partitions(&spec.name)?;
        let other = match partitions == spec.partitions {
            true => String::new(),
            false => format!(", with {partitions} partitions, not {}", spec.partitions),
        };
        differ |= !other.is_empty();
        said += &format!("exists   {}{other}\n", spec.name);
    }
    if differ {
        said += &format!(
            "what exists was left as it is; `emostream topics check {typed} --topic-prefix {} --partitions {}` says how to mend it\n",
            names.prefix(),
            flags.partitions
        );
    }
    output::quietly(output::print(&said))
}
