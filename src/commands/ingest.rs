//! `emostream ingest`: the HTTP ingest service, in a process of its own.

use std::{future::pending, time::Duration};

use clap::{Args, builder::RangedU64ValueParser as Ranged};
use emostream_http::TrustedProxies;
use emostream_ingest::{Config, Ingest, RateLimit, RoomPattern, StartError};
use emostream_log::EventClock;
use emostream_model::{EmojiNames, Topics};

use crate::{
    cli::flags::{EmojiFlags, KafkaFlags, ServerFlags, TopicFlags},
    cli::values::{Rate, duration},
    exit::{Exit, Failure},
    logging::LogFormat,
    permissions::Role,
    server::{Drain, RelayConfig, ServerConfig, Watch, announce},
    signal::Signals,
    topics,
};

/// More would make batches that the log refuses.
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
    intake: IntakeFlags,
}

/// What is taken in, and how it goes to the log.
#[derive(Debug, Clone, Args)]
pub(super) struct IntakeFlags {
    /// How often reactions go to the log; the dataflow's lateness must exceed it
    #[arg(long, default_value = "500ms", value_parser = duration)]
    pub(super) flush: Duration,
    /// This many reactions go to the log at once
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=MOST_FLUSHED))]
    flush_count: u64,
    /// Which rooms exist, as a regular expression of the whole name; all by default
    #[arg(long, value_name = "PATTERN")]
    rooms: Option<RoomPattern>,
    /// The most rooms in use at once
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = Ranged::<u64>::new().range(1..=10_000_000))]
    max_rooms: u64,
    /// The most reactions that one user may send, for example 20/s; a second's worth at once
    #[arg(long, value_name = "RATE", value_parser = limit)]
    per_user_rate: Option<RateLimit>,
    /// The most reactions that one address may send (of IPv6 a network of 64 bits), for example
    /// 200/s; a second's worth at once
    #[arg(long, value_name = "RATE", value_parser = limit)]
    per_address_rate: Option<RateLimit>,
    /// A proxy, or a network of them, whose X-Forwarded-For is believed; repeat it for more
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    trusted_proxy: Vec<TrustedProxies>,
}

fn limit(text: &str) -> Result<RateLimit, String> {
    let rate: Rate = text.parse()?;
    RateLimit::per_second(rate.per_second).ok_or_else(|| "must be above 0".to_owned())
}

impl IntakeFlags {
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

/// Why an ingest does not start, as the process's end.
pub(super) fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Log(error) => error.into(),
        StartError::SmallRecords { .. } => Failure::new(Exit::OtherSettings, error.to_string()),
        StartError::Metrics(error) => Failure::new(Exit::Defect, error.to_string()),
    }
}

/// Takes no more and waits until the log has it all.
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
        let watch = Watch::new()?;
        let bound = server.bind(RelayConfig::default(), &watch).await?;
        let started = Ingest::start(config, log, &watch.registry, &watch.readiness).await;
        let ingest = started.map_err(start_failure)?;
        let url = format!("{}://{}/v1/reactions", bound.scheme(), bound.address);
        let serving = bound.serve(ingest.router(), &signals);
        announce(format, &format!("taking reactions at {url}\n"), &url)?;

        let (_, drain) = serving.until_ended(&mut signals, pending()).await;
        let admin = serving.drained(&drain).await;
        flush_last(&ingest, &drain).await?;
        admin.stop().await;
        Ok(())
    })
}
