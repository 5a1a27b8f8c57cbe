//! `emostream publisher`: reads results from the log and sends them to subscribers.

use std::time::Duration;

use clap::Args;
use emostream_app::{
    flags::{
        KafkaFlags,
        parse::{duration, ms},
    },
    process::{Failure, LogFormat, Signals, block_on},
    server::Observability,
};
use emostream_broadcast::{Config, IngestUrl};
use emostream_dataflow::{StreamsError, stored, streams_topics};
use emostream_log::{EventClock, Log};
use emostream_model::Topics;

use crate::{
    PROGRAM,
    cli::flags::{ServerFlags, TopicFlags},
    permissions::Role,
    server::{PublisherFlags, PublisherProcess, ServerConfig},
    topics,
};

/// Defaults of the dataflow's flags `--window` and `--swarm-size`, which are used until the dataflow has stored its
/// values.
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
    publishing: PublisherFlags,
    /// Interval of live tallies, which the publisher reports to subscribers; use the same value as --live of the
    /// dataflow
    #[arg(long, default_value = "250ms", value_parser = duration)]
    live: Duration,
    /// URL to which the web page sends reactions; by default the page sends them to its own address
    #[arg(long, value_name = "URL")]
    ingest_url: Option<IngestUrl>,
}

pub(crate) fn run(flags: Flags, mut signals: Signals, format: LogFormat) -> Result<(), Failure> {
    let names = flags.topics.names();
    let server = ServerConfig::read(&flags.server)?;
    let relays = flags.publishing.relays()?;
    let log = flags.kafka.connect()?;
    let needed = topics::require(&*log, Role::Publisher, &names)?;
    let (window_ms, swarm_size) = stored_window_settings(&names, &*log)?;
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
    block_on(async {
        let observability = Observability::new(PROGRAM)?;
        let bound = server.bind(relays, &observability).await?;
        let _watching = observability.watch_log(&log, needed)?;
        let publishing = PublisherProcess::start(config, log, &observability).await?;
        publishing
            .serve(("publisher", format), bound, &mut signals)
            .await
    })
}

/// Returns the window size (milliseconds) and the swarm size that the dataflow stored with its progress, or the
/// defaults if it has not committed yet. The results that the publisher reads later contain the current values.
fn stored_window_settings(names: &Topics, log: &dyn Log) -> Result<(u64, u64), Failure> {
    let settings = match stored(&streams_topics(names), log) {
        Ok(progress) => progress.and_then(|progress| progress.settings),
        Err(StreamsError::Start(error)) => return Err(error.into()),
        // Progress that cannot be decoded stops the dataflow, but not the publisher, which can serve results without
        // it.
        Err(error) => {
            tracing::warn!(%error, "the window size is not known before the first result");
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
