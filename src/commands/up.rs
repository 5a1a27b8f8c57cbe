//! `emostream up`: runs all services in one process and on one address.
//!
//! ```text
//!           ┌─ POST ─▶ ingest ─▶ ┌─────┐ ─▶ dataflow ─▶ ┌─────┐ ─▶ publisher ─ ws, events ─▶
//!  address ─┤                    │ log │                │ log │
//!           └─ GET / ─▶ page     └─────┘                └─────┘
//! ```

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use emostream_app::{
    flags::{default_min_in_sync, parse::ms},
    process::{Exit, Failure, LogFormat, Signals, block_on},
    server::{DataflowThread, Observability},
    topics::create_missing,
};
use emostream_broadcast::Config;
use emostream_dataflow::application;
use emostream_ingest::Ingest;
use emostream_log::EventClock;
use prometheus::{PullingGauge, Registry};

use super::{
    dataflow::DataflowFlags,
    ingest::{IngestFlags, flush_last, start_failure},
};
use crate::{
    PROGRAM,
    cli::flags::{EmojiFlags, ServerFlags, StoreFlags, TopicFlags},
    log_socket::{LogEndpoint, LogSocket},
    server::{PublisherFlags, PublisherProcess, ServerConfig, print_ready},
    topics::{self, EMBEDDED_PARTITIONS, TopicTarget},
};

/// Interval at which the dataflow commits progress to the embedded log if there are no results to commit. It is long
/// because no standby reads this progress, and each commit wakes the disk.
const EMBEDDED_HEARTBEAT: Duration = Duration::from_secs(60);

/// Replication factor of the topics that `up` creates on Kafka. For more replicas, create the topics before `up` is
/// started.
const REPLICATION: u32 = 1;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    topics: TopicFlags,
    #[command(flatten)]
    publishing: PublisherFlags,
    #[command(flatten)]
    emojis: EmojiFlags,
    #[command(flatten)]
    intake: IngestFlags,
    #[command(flatten)]
    counting: DataflowFlags,
}

pub(crate) fn run(flags: Flags, mut signals: Signals, format: LogFormat) -> Result<(), Failure> {
    let names = flags.topics.names();
    let server = ServerConfig::read(&flags.server)?;
    let emojis = flags.emojis.names()?;
    // With the embedded log, one monotonic clock sets the times of events and is also compared with these times, so
    // that nothing stops if the host clock steps back. With Kafka the host clock is used, because Kafka compares the
    // times of records with the clock of its own host, and would refuse records of a process whose clock is ahead.
    let clock = match flags.store.is_kafka() {
        true => EventClock::host(),
        false => EventClock::monotonic(),
    };
    let mut counting = flags
        .counting
        .config(names.clone(), emojis.clone(), clock.clone())?;
    if !flags.store.is_kafka() {
        counting.run.heartbeat = EMBEDDED_HEARTBEAT;
    }
    let (lateness, flush) = (flags.counting.run.lateness, flags.intake.flush);
    if lateness <= flush {
        let why =
            format!("{lateness:?} must be longer than --flush ({flush:?}), or reactions are late");
        return Err(Failure::usage("--lateness", why));
    }
    let relays = flags.publishing.relays()?;
    let open = !server.authenticator.requires_token();
    let intake = flags
        .intake
        .config(names.clone(), emojis, &server, clock.clone());
    let mut subscribers = flags.publishing.subscribers(&server, None, clock.clone());
    // The page sends the demo crowd, as users whose tokens it does not have.
    subscribers.demo_crowd = open;
    let publishing = Config {
        topics: names.clone(),
        window_ms: ms(flags.counting.window),
        live_ms: ms(flags.counting.live),
        swarm_size: flags.counting.swarm_size,
        subscribers,
    };

    let target = match flags.store.is_kafka() {
        true => TopicTarget::Kafka {
            replication: REPLICATION,
            min_in_sync: default_min_in_sync(REPLICATION),
        },
        false => TopicTarget::Embedded,
    };
    let dir = flags.store.embedded_dir();
    let log = flags.store.open(clock.clone())?;
    let specs = topics::specs(&names, EMBEDDED_PARTITIONS, target);
    create_missing(&*log, &specs)?;
    let needed = specs.into_iter().map(|spec| spec.name).collect();
    block_on(async {
        let observability = Observability::new(PROGRAM)?;
        register_clock(clock, &observability.registry)?;
        let mut bound = server.bind(relays, &observability).await?;
        let (scheme, address) = (bound.scheme(), bound.address);
        let _socket = dir.and_then(|dir| {
            let router = observability
                .admin()
                .router()
                .merge(LogEndpoint::new(log.clone()).router());
            LogSocket::start(&dir, router)
        });
        let _watching = observability.watch_log(&log, needed)?;
        let started = Ingest::start(
            intake,
            log.clone(),
            &observability.registry,
            &observability.readiness,
        )
        .await;
        let ingest = started.map_err(start_failure)?;
        let publishing = PublisherProcess::start(publishing, log.clone(), &observability).await?;
        let _relays = publishing.serve_relays(bound.relays.take(), format)?;
        let mut counting = DataflowThread::start(application(&counting)?, log, &observability)?;
        let router = ingest.router().merge(publishing.router());
        let serving = bound.serve(router, &signals);
        let counted = async {
            // The URL is printed only when the dataflow is active, because a start fails if the stored progress has
            // other settings.
            let active = counting.until_active().await;
            let url = page(scheme, address);
            let welcomed = active.and_then(|()| print_ready(format, &welcome(&url, open), &url));
            match welcomed {
                Ok(()) => counting.until_failed().await,
                Err(failure) => failure,
            }
        };
        let failed = async {
            tokio::select! {
                failure = counted => failure,
                failure = publishing.until_failed() => failure,
            }
        };
        let (ended, drain) = serving.until_ended(&mut signals, failed).await;
        // The services are stopped in the order in which data flows, so that accepted reactions are stored before
        // anything else ends.
        let flushed = flush_last(&ingest, &drain).await;
        let stopped = match &ended {
            Ok(()) => counting.stop(&drain).await,
            Err(_) => Ok(()),
        };
        publishing.bye();
        serving.drained(&drain).await.stop().await;
        ended.and(flushed).and(stopped)
    })
}

/// Registers a metric: how far the event clock of this process is ahead of the host clock.
fn register_clock(clock: EventClock, registry: &Registry) -> Result<(), Failure> {
    // The two clocks are read one after the other, so the difference is cut to whole milliseconds.
    let ahead = move || clock.ahead_of_host().as_millis() as f64 / 1000.0;
    PullingGauge::new(
        "emostream_clock_ahead_seconds",
        "Time by which the event clock is ahead of the host clock, because the host clock stepped back.",
        Box::new(ahead),
    )
    .and_then(|gauge| registry.register(Box::new(gauge)))
    .map_err(|error| Failure::new(Exit::Defect, error.to_string()))
}

/// Returns the URL of the page.
fn page(scheme: &str, address: SocketAddr) -> String {
    // A browser cannot open an unspecified address such as 0.0.0.0, so the URL has the loopback address.
    match address.ip().is_unspecified() {
        true => format!("{scheme}://127.0.0.1:{}/", address.port()),
        false => format!("{scheme}://{address}/"),
    }
}

/// Returns the text that is printed when all services run. `open` is whether requests need no token.
fn welcome(url: &str, open: bool) -> String {
    let (fragment, user, header) = match open {
        true => ("", "me", ""),
        false => (
            "#token=…",
            "YOUR-SUB",
            "-H \"authorization: Bearer $TOKEN\" ",
        ),
    };
    format!(
        "\n  Open {url}{fragment} and tap. Or send a reaction from another terminal:\n\n  \
         curl -d '{{\"user_id\":\"{user}\",\"emoji_type\":\"🔥\"}}' -H 'content-type: application/json' \
         {header}{url}v1/reactions\n\n"
    )
}
