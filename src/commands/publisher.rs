//! `emostream publisher`: results out of the log to subscribers.

use std::{sync::Arc, time::Duration};

use clap::Args;
use emostream_broadcast::{BroadcastError, Config, IngestUrl, Publisher};
use emostream_dataflow::{DataflowError, stored};
use emostream_http::{AllowOrigin, Gate, Handler, Listener, Nowhere, Shutdown, serve};
use emostream_log::{Log, LogError};
use emostream_model::Topics;

use super::{
    dataflow::CountingFlags,
    roles::{AdminServer, Drain, Watch, address, announce, bind, follow, scheme},
};
use crate::{
    exit::{Exit, Failure},
    settings::{
        AdminFlags, FanoutFlags, KafkaFlags, ListenFlags, OriginFlags, TokenFlags, TopicFlags,
    },
    signal::Signals,
    topics,
    values::{duration, ms},
};

/// How long finals are kept for those who resume (INTERFACE).
const RING: Duration = Duration::from_secs(600);

/// The dataflow's defaults (INTERFACE).
const WINDOW_MS: u64 = 2000;
const SWARM_SIZE: u64 = 1000;

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    listen: ListenFlags,
    #[command(flatten)]
    kafka: KafkaFlags,
    #[command(flatten)]
    topics: TopicFlags,
    #[command(flatten)]
    admin: AdminFlags,
    #[command(flatten)]
    origin: OriginFlags,
    #[command(flatten)]
    tokens: TokenFlags,
    #[command(flatten)]
    fanout: FanoutFlags,
    /// How often a live tally comes, as the dataflow has it: subscribers are told
    #[arg(long, default_value = "250ms", value_parser = duration)]
    live: Duration,
    /// Where the page sends reactions, as browsers reach it: the ingest, if it is not behind the address
    /// that the page is opened at
    #[arg(long, value_name = "URL")]
    ingest_url: Option<IngestUrl>,
}

pub(crate) fn run(flags: Flags) -> Result<(), Failure> {
    let names = flags.topics.names();
    let tls = flags.listen.tls()?;
    let gate = flags.tokens.gate()?;
    let nowhere = Nowhere::new(flags.origin.allowed());
    let log = flags.kafka.connect()?;
    let needed = [
        names.windows(),
        names.totals(),
        names.trending(),
        names.live(),
    ];
    topics::require(&*log, &needed)?;
    let (window_ms, swarm_size) = cut(&names, &*log)?;
    let config = Config {
        topics: names.clone(),
        window_ms,
        live_ms: ms(flags.live),
        swarm_size,
        ring: RING,
        ingest_url: flags.ingest_url,
        allow_origin: flags.origin.allowed(),
        gate,
        shards: flags.fanout.shards(),
        drain: flags.fanout.drain(),
    };
    super::run(async {
        let mut signals = Signals::listen()?;
        let watch = Watch::default();
        let listener = bind("--listen", flags.listen.address())?;
        let address = address(&listener)?;
        let (scheme, limits) = (scheme(&tls), flags.listen.limits());
        follow(&tls);
        let admin = AdminServer::start(flags.admin.address(), tls.clone(), &watch).await?;
        let _watching = watch.follow(&log, names.windows())?;
        let publishing = Publishing::start(config, log, &watch).await?;
        let shutdown = Shutdown::new();
        let handler = Arc::new((publishing.handler(), nowhere));
        let serving = tokio::spawn(serve(
            Listener::new(listener, tls),
            handler,
            limits,
            shutdown.clone(),
        ));
        announce(&format!("the publisher serves {scheme}://{address}/\n"))?;
        let signal = signals.next().await;
        tracing::info!("{signal}: draining");
        let drain = Drain::begin();
        shutdown.trigger();
        publishing.bye();
        drain.wait_for(serving).await;
        admin.stop().await;
        Ok(())
    })
}

/// How long a window is, and what makes a swarm, as the dataflow stored it with its progress; as it has
/// them by default where it has not committed yet. The results that come tell if that changes.
fn cut(names: &Topics, log: &dyn Log) -> Result<(u64, u64), Failure> {
    let settings = match stored(names, log) {
        Ok(progress) => progress.and_then(|progress| progress.settings),
        Err(DataflowError::Start(LogError::UnknownTopic { .. })) => None,
        Err(DataflowError::Start(error)) => return Err(error.into()),
        // It holds nobody up but the dataflow.
        Err(error) => {
            tracing::warn!(%error, "how long windows are is not known before a result comes");
            None
        }
    };
    Ok(settings.map_or((WINDOW_MS, SWARM_SIZE), |settings| {
        (settings.window_ms, settings.swarm_size)
    }))
}

/// A publisher in this process.
pub(super) struct Publishing(Publisher);

impl Publishing {
    /// What it goes by beside a dataflow whose flags are known.
    pub(super) fn config(
        topics: Topics,
        counting: &CountingFlags,
        allow_origin: AllowOrigin,
        gate: Gate,
        fanout: &FanoutFlags,
    ) -> Config {
        Config {
            topics,
            window_ms: ms(counting.window()),
            live_ms: ms(counting.live()),
            swarm_size: counting.swarm_size(),
            ring: RING,
            ingest_url: None,
            allow_origin,
            gate,
            shards: fanout.shards(),
            drain: fanout.drain(),
        }
    }

    /// Starts it; what it kept is read from the log first.
    pub(super) async fn start(
        config: Config,
        log: Arc<dyn Log>,
        watch: &Watch,
    ) -> Result<Self, Failure> {
        let watch = watch.clone();
        let start = move || Publisher::start(config, log, &watch.registry, &watch.readiness);
        let started = tokio::task::spawn_blocking(start).await;
        let publisher = started.map_err(|_| Failure::new(Exit::Defect, "the publisher ended"))?;
        publisher.map(Self).map_err(|error| match error {
            BroadcastError::Log(error) => error.into(),
            other => Failure::unavailable(other),
        })
    }

    /// What answers its requests.
    pub(super) fn handler(&self) -> Arc<impl Handler + use<>> {
        self.0.handler()
    }

    /// Sends every subscriber away.
    pub(super) fn bye(&self) {
        self.0.bye();
    }
}
