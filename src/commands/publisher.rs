//! `emostream publisher`: results out of the log to subscribers.

use std::time::Duration;

use clap::Args;
use emostream_broadcast::{Config, IngestUrl};
use emostream_dataflow::{StreamsError, stored, streams_topics};
use emostream_log::{EventClock, Log};
use emostream_model::Topics;

use crate::{
    cli::flags::{KafkaFlags, ServerFlags, TopicFlags},
    cli::values::{duration, ms},
    exit::Failure,
    logging::LogFormat,
    permissions::Role,
    server::{Publishing, PublishingFlags, ServerConfig, Watch},
    signal::Signals,
    topics,
};

/// The defaults of the dataflow's `--window` and `--swarm-size`.
const WINDOW_MS: u64 = 2000;
const SWARM_SIZE: u64 = 1000;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    #[command(flatten)]
    publishing: PublishingFlags,
    /// How often a live tally comes, as the dataflow has it: subscribers are told
    #[arg(long, default_value = "250ms", value_parser = duration)]
    live: Duration,
    /// Where the page sends reactions, as browsers reach it: the ingest, if it is not behind the address
    /// that the page is opened at
    #[arg(long, value_name = "URL")]
    ingest_url: Option<IngestUrl>,
}

pub(crate) fn run(flags: Flags, mut signals: Signals, format: LogFormat) -> Result<(), Failure> {
    let names = flags.topics.names();
    let server = ServerConfig::read(&flags.server)?;
    let relays = flags.publishing.relays()?;
    let log = flags.kafka.connect()?;
    let needed = topics::require(&*log, Role::Publisher, &names)?;
    let (window_ms, swarm_size) = cut(&names, &*log)?;
    let clock = EventClock::host();
    let config = Config {
        topics: names,
        window_ms,
        live_ms: ms(flags.live),
        swarm_size,
        subscribers: flags
            .publishing
            .subscribers(&server, flags.ingest_url, clock),
    };
    super::run(async {
        let watch = Watch::new()?;
        let bound = server.bind(relays, &watch).await?;
        let _watching = watch.follow(&log, needed)?;
        let publishing = Publishing::start(config, log, &watch).await?;
        publishing
            .serve(("publisher", format), bound, &mut signals)
            .await
    })
}

/// How long a window is, and what makes a swarm, as the dataflow stored it with its progress; as it has
/// them by default where it has not committed yet. The results that come tell if that changes.
fn cut(names: &Topics, log: &dyn Log) -> Result<(u64, u64), Failure> {
    let settings = match stored(&streams_topics(names), log) {
        Ok(progress) => progress.and_then(|progress| progress.settings),
        Err(StreamsError::Start(error)) => return Err(error.into()),
        // It holds nobody up but the dataflow.
        Err(error) => {
            tracing::warn!(%error, "how long windows are is not known before a result comes");
            None
        }
    };
    let number = |name, default| {
        let settings = settings.as_ref();
        settings.and_then(|it| it.number(name)).unwrap_or(default)
    };
    Ok((
        number(emostream_dataflow::WINDOW_MS, WINDOW_MS),
        number(emostream_dataflow::SWARM_SIZE, SWARM_SIZE),
    ))
}
