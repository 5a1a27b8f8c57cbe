//! `emostream topics`: the topics, made and checked.

mod check;

use clap::{Args, Subcommand};

use crate::{
    cli::flags::{KafkaFlags, TopicFlags},
    exit::Failure,
    output,
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
    /// How many replicas must have a record before it is acknowledged: min(2, replication) unless given
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
            "{min_in_sync} replicas are never in sync with --replication {replication}, and nothing could be written; give {replication} at most"
        );
        return Err(Failure::usage("--min-isr", why));
    }
    let home = Home::Kafka {
        replication,
        min_in_sync,
    };
    let typed = flags.kafka.as_typed();
    let log = flags.kafka.connect_once()?;
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
