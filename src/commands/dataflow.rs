//! `emostream dataflow`: runs the timely dataflow in a process of its own.

use std::time::Duration;

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_app::{
    AppProcess,
    flags::{
        AdminFlags, ClusterFlags, DescribedKafkaFlags, RunFlags, StandbyFlags,
        parse::{duration, ms},
    },
    process::{Failure, Signals, output},
};
use emostream_dataflow::{Config, RunConfig, application};
use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics, WindowSize};

use crate::{
    PROGRAM,
    cli::flags::{EmojiFlags, TopicFlags},
    topics,
};

/// Maximum of `--trending-top`. It is limited because each record contains the whole list.
const MOST_TRENDING: u64 = 100;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Flags {
    #[command(flatten)]
    kafka: DescribedKafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    #[command(flatten)]
    admin: AdminFlags,
    #[command(flatten)]
    emojis: EmojiFlags,
    #[command(flatten)]
    counting: DataflowFlags,
    #[command(flatten)]
    standby: StandbyFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
    /// Print the topology and exit
    #[arg(long)]
    describe: bool,
    /// Print help; -h without FILE does the same
    #[arg(long, action = clap::ArgAction::HelpLong)]
    help: Option<bool>,
}

/// The help of `--lateness` and `--unbounded-timestamps`, in the words of EmoStream.
const LATENESS: &str = "Maximum time by which a reaction may be older than the newest reaction of its partition. It must be longer than ingest's --flush plus the differences between the clocks";
const UNBOUNDED_TIMESTAMPS: &str =
    "Run even if the brokers accept reactions with timestamps more than 5 s in the future";

/// The flags that decide how reactions are counted.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("lateness", |flag| flag.help(LATENESS)))]
#[command(mut_arg("unbounded_timestamps", |flag| flag.help(UNBOUNDED_TIMESTAMPS)))]
pub(super) struct DataflowFlags {
    #[command(flatten)]
    pub(super) run: RunFlags,
    /// Length of the windows in which reactions are counted
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) window: Duration,
    /// Interval at which the live tallies of an open window are written
    #[arg(long, default_value = "250ms", value_parser = duration)]
    pub(super) live: Duration,
    /// Number of identical emojis that are shown as one swarm
    #[arg(long, value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..))]
    pub(super) swarm_size: u64,
    /// Span of event time for the trending emojis: a whole number of windows
    #[arg(long, default_value = "60s", value_parser = duration)]
    trending_span: Duration,
    /// Maximum number of trending emojis of a room, and of trending rooms
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=MOST_TRENDING))]
    trending_top: u64,
    /// Time without reactions (event time) after which a room is removed; its totals begin at 0 again with the next
    /// reaction
    #[arg(long, default_value = "30d", value_parser = duration)]
    totals_retention: Duration,
}

impl DataflowFlags {
    /// Returns the configuration, or an error if a value is not allowed or two flags contradict each other.
    pub(super) fn config(
        &self,
        topics: Topics,
        emojis: EmojiNames,
        clock: EventClock,
    ) -> Result<Config, Failure> {
        let window = WindowSize::from_ms(ms(self.window))
            .ok_or_else(|| Failure::usage("--window", "must be a millisecond or longer"))?;
        if self.live > self.window {
            let why = format!(
                "{:?} is longer than the window of {:?}",
                self.live, self.window
            );
            return Err(Failure::usage("--live", why));
        }
        let run = self.run.config(clock)?;
        if !ms(self.trending_span).is_multiple_of(window.as_ms()) {
            let why = format!(
                "{:?} is not a whole number of windows of {:?}",
                self.trending_span, self.window
            );
            return Err(Failure::usage("--trending-span", why));
        }
        let longest = self.trending_span.max(self.window);
        if self.totals_retention < longest {
            let why =
                format!("must not be shorter than --trending-span and --window ({longest:?})");
            return Err(Failure::usage("--totals-retention", why));
        }
        Ok(Config {
            window,
            live: self.live,
            swarm_size: self.swarm_size,
            trending_span: self.trending_span,
            trending_top: self.trending_top as usize,
            emojis,
            totals_retention: self.totals_retention,
            run,
            ..Config::new(topics)
        })
    }
}

pub(crate) fn run(flags: Flags, signals: Signals) -> Result<(), Failure> {
    let cluster = flags.cluster.cluster()?;
    let emojis = flags.emojis.names()?;
    let counting = flags
        .counting
        .config(flags.topics.names(), emojis, EventClock::host())?;
    let run = RunConfig {
        cluster,
        ..flags.standby.applied_to(counting.run.clone())?
    };
    let app = application(&Config { run, ..counting })?;
    if flags.describe {
        return output::quietly(output::print(&app.describe()));
    }
    let log = flags.kafka.connect()?;
    let process = AppProcess {
        program: PROGRAM,
        app,
        log,
        admin: flags.admin.address(),
    };
    process.run(topics::CREATE, signals)
}
