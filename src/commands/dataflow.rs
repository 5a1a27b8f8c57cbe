//! `emostream dataflow`: runs the timely dataflow in a process of its own.

mod cluster;

use std::{thread, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_dataflow::{Config, HEARTBEAT, RunConfig, describe};
use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics, WindowSize};

use self::cluster::ClusterFlags;
use crate::{
    cli::flags::{AdminFlags, DescribedKafkaFlags, EmojiFlags, TopicFlags},
    cli::parse::{duration, ms},
    exit::Failure,
    output,
    permissions::Role,
    server::{AdminServer, DataflowThread, Drain, Observability},
    signal::Signals,
    topics,
};

/// Maximum of `--workers`.
const MOST_WORKERS: u64 = 1024;

/// Minimum of `--commit-timeout`. The log needs some seconds of this time to abort a transaction that is too slow.
const LEAST_COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Minimum of `--takeover`, in heartbeats of the active run. If the leader of the progress topic fails, one heartbeat
/// may be lost and the next one may wait for a new leader: a standby must not take over for that reason.
const LEAST_HEARTBEATS: u32 = 3;

/// Default of `--takeover`. A run of `up` that was fenced becomes a standby, and waits for this time, too.
const TAKEOVER: Duration = Duration::from_secs(10);

/// Maximum of `--trending-top`. It is limited because each record contains the whole list.
const MOST_TRENDING: u64 = 100;

/// Number of workers per core above which a warning is logged: more workers do not increase the throughput.
const WORKERS_A_CORE: u64 = 2;

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

/// The flags of standbys.
#[derive(Debug, Clone, Args)]
struct StandbyFlags {
    /// Start as a standby: wait until no other run commits, then take over
    #[arg(long)]
    standby: bool,
    /// Time without a commit of another run after which a standby takes over
    #[arg(long, default_value = "10s", value_parser = duration)]
    takeover: Duration,
}

impl StandbyFlags {
    fn applied_to(&self, config: Config) -> Result<Config, Failure> {
        let least = HEARTBEAT * LEAST_HEARTBEATS;
        if self.takeover < least {
            let why = format!(
                "must be {least:?} or longer: an active run commits every {HEARTBEAT:?}, and a commit may take seconds"
            );
            return Err(Failure::usage("--takeover", why));
        }
        let run = RunConfig {
            standby: self.standby,
            takeover: self.takeover,
            ..config.run
        };
        Ok(Config { run, ..config })
    }
}

/// The flags that decide how reactions are counted.
#[derive(Debug, Clone, Args)]
pub(super) struct DataflowFlags {
    /// Number of worker threads
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=MOST_WORKERS))]
    workers: u64,
    /// Length of the windows in which reactions are counted
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) window: Duration,
    /// Maximum time by which a reaction may be older than the newest reaction of its partition. It must be longer than
    /// ingest's --flush plus the differences between the clocks
    #[arg(long, default_value = "750ms", value_parser = duration)]
    pub(super) lateness: Duration,
    /// Time without new records after which a partition that is read to its end no longer delays the windows
    #[arg(long, default_value = "10s", value_parser = duration)]
    idle_timeout: Duration,
    /// Time after which a partition that cannot be read to its end (no response, or an open transaction of another
    /// producer) no longer delays the windows
    #[arg(long, default_value = "60s", value_parser = duration)]
    hold_timeout: Duration,
    /// Timeout of the transactions that write results; at most the brokers' transaction.max.timeout.ms
    #[arg(long, default_value = "60s", value_parser = duration)]
    commit_timeout: Duration,
    /// Run even if the brokers accept reactions with timestamps more than 5 s in the future
    #[arg(long)]
    unbounded_timestamps: bool,
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
        if self.idle_timeout <= self.lateness {
            let why = format!("must be longer than the lateness of {:?}", self.lateness);
            return Err(Failure::usage("--idle-timeout", why));
        }
        if self.commit_timeout < LEAST_COMMIT_TIMEOUT {
            let why = format!("must be {LEAST_COMMIT_TIMEOUT:?} or longer");
            return Err(Failure::usage("--commit-timeout", why));
        }
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
        let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
        if self.workers > cores.saturating_mul(WORKERS_A_CORE) {
            let workers = self.workers;
            tracing::warn!(
                workers,
                cores,
                "there are many more workers than cores, so the workers share the cores"
            );
        }
        Ok(Config {
            window,
            live: self.live,
            swarm_size: self.swarm_size,
            trending_span: self.trending_span,
            trending_top: self.trending_top as usize,
            emojis,
            totals_retention: self.totals_retention,
            run: RunConfig {
                workers: self.workers as usize,
                lateness_ms: ms(self.lateness),
                idle_timeout: self.idle_timeout,
                hold_timeout: self.hold_timeout,
                commit_timeout: self.commit_timeout,
                takeover: TAKEOVER,
                unbounded_timestamps: self.unbounded_timestamps,
                clock,
                ..RunConfig::default()
            },
            ..Config::new(topics)
        })
    }
}

pub(crate) fn run(flags: Flags, mut signals: Signals) -> Result<(), Failure> {
    let cluster = flags.cluster.cluster()?;
    let names = flags.topics.names();
    let counting =
        flags
            .counting
            .config(names.clone(), flags.emojis.names()?, EventClock::host())?;
    let mut config = flags.standby.applied_to(counting)?;
    config.run.cluster = cluster;
    if flags.describe {
        return output::quietly(output::print(&describe(&config)?));
    }
    let log = flags.kafka.connect()?;
    let needed = topics::require(&*log, Role::Dataflow, &names)?;
    super::run(async {
        let observability = Observability::new()?;
        let admin = AdminServer::start(flags.admin.address(), None, &observability).await?;
        let _watching = observability.watch_log(&log, needed)?;
        // From here on a signal stops the dataflow instead of the process, because the other processes of a cluster
        // must be notified of the stop even while they start.
        signals.take_over();
        let mut counting = DataflowThread::start(config, log, &observability)?;
        observability.all_registered();
        let signal = tokio::select! {
            ended = counting.until_ended() => {
                ended?;
                tracing::info!("another process of the cluster was stopped");
                return Ok(());
            }
            signal = signals.next() => signal,
        };
        tracing::info!("{signal}: stopping");
        counting.stop(&Drain::begin()).await?;
        admin.stop().await;
        Ok(())
    })
}
