//! `emostream ingest`: runs the HTTP ingest service in a process of its own.

use std::{future::pending, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_http::TrustedProxies;
use emostream_ingest::{Config, Ingest, RateLimit, RoomPattern, StartError};
use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics};

use crate::{
    cli::flags::{EmojiFlags, KafkaFlags, ServerFlags, TopicFlags},
    cli::parse::{Rate, duration},
    exit::{Exit, Failure},
    logging::LogFormat,
    permissions::Role,
    server::{Drain, Observability, RelayConfig, ServerConfig, print_ready},
    signal::Signals,
    topics,
};

/// Maximum of `--flush-count`. With a higher value, batches could be larger than the log accepts.
const MOST_FLUSHED: u64 = 100_000;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    emojis: EmojiFlags,
    #[command(flatten)]
    intake: IngestFlags,
}

/// The flags for accepting reactions and writing them to the log.
#[derive(Debug, Clone, Args)]
pub(super) struct IngestFlags {
    /// Interval at which accepted reactions are written to the log; the dataflow's --lateness must be longer
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub(super) flush: Duration,
    /// Number of buffered reactions at which they are written to the log before the interval ends
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=MOST_FLUSHED))]
    flush_count: u64,
    /// Regular expression that the whole name of a room must match; by default all names are allowed
    #[arg(long, value_name = "PATTERN")]
    rooms: Option<RoomPattern>,
    /// Maximum number of rooms in use at the same time
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=10_000_000))]
    max_rooms: u64,
    /// Maximum rate of reactions of one user, for example 20/s. The reactions of one second may arrive at once. No limit by
    /// default
    #[arg(long, value_name = "RATE", value_parser = limit)]
    per_user_rate: Option<RateLimit>,
    /// Maximum rate of reactions of one IP address (for IPv6 of a /64 network), for example 200/s. The reactions of
    /// one second may arrive at once. No limit by default
    #[arg(long, value_name = "RATE", value_parser = limit)]
    per_address_rate: Option<RateLimit>,
    /// Address of a proxy, or of a network of proxies, whose X-Forwarded-For header is trusted; repeat the flag for
    /// several
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_proxy: Vec<TrustedProxies>,
}

fn limit(text: &str) -> Result<RateLimit, String> {
    let rate: Rate = text.parse()?;
    RateLimit::per_second(rate.per_second).ok_or_else(|| "must be above 0".to_owned())
}

impl IngestFlags {
    pub(super) fn config(
        &self,
        topics: Topics,
        emojis: EmojiNames,
        server: &ServerConfig,
        clock: EventClock,
    ) -> Config {
        Config {
            topics,
            flush: self.flush,
            flush_count: self.flush_count as usize,
            rooms: self.rooms.clone(),
            max_rooms: self.max_rooms as usize,
            emojis,
            allow_origin: server.allow_origin.clone(),
            authenticator: server.authenticator.clone(),
            per_user: self.per_user_rate,
            per_address: self.per_address_rate,
            trusted_proxies: self.trusted_proxy.iter().cloned().collect(),
            clock,
            ..Config::default()
        }
    }
}

/// Converts the error because of which an ingest could not start to an exit code and a sentence.
pub(super) fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Log(error) => error.into(),
        StartError::SmallRecords { .. } => Failure::new(Exit::OtherSettings, error.to_string()),
        StartError::Metrics(error) => Failure::new(Exit::Defect, error.to_string()),
    }
}

/// Closes the ingest, and waits until all accepted reactions are stored in the log or the time of `drain` is over,
/// which is an error.
pub(super) async fn flush_last(ingest: &Ingest, drain: &Drain) -> Result<(), Failure> {
    let flushed = ingest.drain(drain.left()).await;
    flushed.map_err(|error| Failure::new(Exit::Restart, error.to_string()))
}

pub(crate) fn run(flags: Flags, mut signals: Signals, format: LogFormat) -> Result<(), Failure> {
    let names = flags.topics.names();
    let server = ServerConfig::read(&flags.server)?;
    let emojis = flags.emojis.names()?;
    let config = flags
        .intake
        .config(names.clone(), emojis, &server, EventClock::host());
    let log = flags.kafka.connect()?;
    topics::require(&*log, Role::Ingest, &names)?;
    super::run(async {
        let observability = Observability::new()?;
        let bound = server.bind(RelayConfig::default(), &observability).await?;
        let started = Ingest::start(
            config,
            log,
            &observability.registry,
            &observability.readiness,
        )
        .await;
        let ingest = started.map_err(start_failure)?;
        let url = format!("{}://{}/v1/reactions", bound.scheme(), bound.address);
        let serving = bound.serve(ingest.router(), &signals);
        print_ready(format, &format!("accepting reactions at {url}\n"), &url)?;

        let (_, drain) = serving.until_ended(&mut signals, pending()).await;
        let admin = serving.drained(&drain).await;
        flush_last(&ingest, &drain).await?;
        admin.stop().await;
        Ok(())
    })
}
