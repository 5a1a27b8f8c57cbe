//! `emostream up`: every role in one process, on one address.
//!
//! ```text
//!           ┌─ POST ─▶ ingest ─▶ ┌─────┐ ─▶ dataflow ─▶ ┌─────┐ ─▶ publisher ─ ws, events ─▶
//!  address ─┤                    │ log │                │ log │
//!           └─ GET / ─▶ page     └─────┘                └─────┘
//! ```

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use emostream_broadcast::Config;
use emostream_ingest::Ingest;
use emostream_log::EventClock;

use super::{
    dataflow::CountingFlags,
    ingest::{IntakeFlags, flush_last, start_failure},
};
use crate::{
    cli::flags::{EmojiFlags, ServerFlags, StoreFlags, TopicFlags},
    cli::values::ms,
    exit::Failure,
    log_socket::{LogEndpoint, LogSocket},
    logging::LogFormat,
    server::{Counting, Publishing, PublishingFlags, ServerConfig, Watch, announce},
    signal::Signals,
    topics::{self, EMBEDDED_PARTITIONS, Home},
};

/// How often progress is committed on the embedded log when there is nothing else to write: no standby reads it there,
/// and each commit wakes the disk.
const EMBEDDED_HEARTBEAT: Duration = Duration::from_secs(60);

/// On Kafka `up` makes what is missing for one machine; a team makes its own beforehand.
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
    publishing: PublishingFlags,
    #[command(flatten)]
    emojis: EmojiFlags,
    #[command(flatten)]
    intake: IntakeFlags,
    #[command(flatten)]
    counting: CountingFlags,
}

pub(crate) fn run(flags: Flags, mut signals: Signals, format: LogFormat) -> Result<(), Failure> {
    let names = flags.topics.names();
    let server = ServerConfig::read(&flags.server)?;
    let emojis = flags.emojis.names()?;
    // One for all that dates events or judges them by time, so that a host clock that steps back stops nothing.
    // Kafka judges by its own host's clock, and would refuse what a clock ahead of it dates.
    let clock = match flags.store.is_kafka() {
        true => EventClock::host(),
        false => EventClock::monotonic(),
    };
    let mut counting = flags
        .counting
        .config(names.clone(), emojis.clone(), clock.clone())?;
    if !flags.store.is_kafka() {
        counting.heartbeat = EMBEDDED_HEARTBEAT;
    }
    let (lateness, flush) = (flags.counting.lateness, flags.intake.flush);
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
    let publishing = Config {
        topics: names.clone(),
        window_ms: ms(flags.counting.window),
        live_ms: ms(flags.counting.live),
        swarm_size: flags.counting.swarm_size,
        subscribers: flags.publishing.subscribers(&server, None, clock.clone()),
    };

    let home = match flags.store.is_kafka() {
        true => Home::Kafka {
            replication: REPLICATION,
            min_in_sync: topics::default_min_in_sync(REPLICATION),
        },
        false => Home::Embedded,
    };
    let dir = flags.store.embedded_dir();
    let log = flags.store.open(clock.clone())?;
    let specs = topics::specs(&names, EMBEDDED_PARTITIONS, home);
    topics::create_missing(&*log, &specs)?;
    let needed = specs.into_iter().map(|spec| spec.name).collect();
    super::run(async {
        let watch = Watch::new()?;
        watch.clock(clock)?;
        let mut bound = server.bind(relays, &watch).await?;
        let (scheme, address) = (bound.scheme(), bound.address);
        let _socket = dir.and_then(|dir| {
            let router = watch
                .admin()
                .router()
                .merge(LogEndpoint::new(log.clone()).router());
            LogSocket::start(&dir, router)
        });
        let _watching = watch.follow(&log, needed)?;
        let started = Ingest::start(intake, log.clone(), &watch.registry, &watch.readiness).await;
        let ingest = started.map_err(start_failure)?;
        let publishing = Publishing::start(publishing, log.clone(), &watch).await?;
        let _relays = publishing.feed_relays(bound.relays.take(), format)?;
        let mut counting = Counting::start(counting, log, &watch)?;
        let router = ingest.router().merge(publishing.router());
        let serving = bound.serve(router, &signals);
        let counted = async {
            // Not before it is known that nothing is in the way: what was stored may belong to other settings.
            let begun = counting.begins().await;
            let url = page(scheme, address);
            let welcomed = begun.and_then(|()| announce(format, &welcome(&url, open), &url));
            match welcomed {
                Ok(()) => counting.fails().await,
                Err(failure) => failure,
            }
        };
        let failed = async {
            tokio::select! {
                failure = counted => failure,
                failure = publishing.fails() => failure,
            }
        };
        let (ended, drain) = serving.until_ended(&mut signals, failed).await;
        // In the order of the data, so that what was accepted is stored before anything else ends.
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

/// Where the page is opened.
fn page(scheme: &str, address: SocketAddr) -> String {
    // A page cannot be opened at 0.0.0.0.
    match address.ip().is_unspecified() {
        true => format!("{scheme}://127.0.0.1:{}/", address.port()),
        false => format!("{scheme}://{address}/"),
    }
}

/// What works at once. `open` is whether it works without a token.
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
