//! `emostream publisher`: results out of the log to subscribers.

use std::{sync::Arc, time::Duration};

use clap::Args;
use emostream_broadcast::{
    BroadcastError, Config, IngestUrl, Publisher, Reception, RelayPort, RelayToken, Upstreams,
};
use emostream_dataflow::{DataflowError, stored};
use emostream_http::{AllowOrigin, Gate, Handler, Listener, Nowhere, Shutdown, Tls, serve};
use emostream_log::{Log, LogError};
use emostream_model::Topics;

use super::{
    dataflow::CountingFlags,
    roles::{AdminServer, Drain, Watch, address, announce, bind, follow, scheme},
};
use crate::{
    exit::{Exit, Failure},
    settings::{
        AdminFlags, FanoutFlags, KafkaFlags, ListenFlags, OriginFlags, RelayListenFlags,
        TokenFlags, TopicFlags,
    },
    signal::Signals,
    topics,
    values::{duration, ms},
};

/// How long finals are kept for those who resume (INTERFACE).
pub(super) const RING: Duration = Duration::from_secs(600);

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
    #[command(flatten)]
    relays: RelayListenFlags,
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
    let token = flags.relays.token()?;
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
        reception: Reception {
            ring: RING,
            ingest_url: flags.ingest_url,
            allow_origin: flags.origin.allowed(),
            gate,
            shards: flags.fanout.shards(),
            drain: flags.fanout.drain(),
        },
    };
    super::run(async {
        let mut signals = Signals::listen()?;
        let watch = Watch::default();
        let listener = bind("--listen", flags.listen.address())?;
        let address = address(&listener)?;
        let relay_port = RelayListening::bind(&flags.relays, token, &tls)?;
        let (scheme, limits) = (scheme(&tls), flags.listen.limits());
        follow(&tls);
        let admin = AdminServer::start(flags.admin.address(), tls.clone(), &watch).await?;
        let _watching = watch.follow(&log, names.windows())?;
        let publishing = Publishing::start(config, log, &watch).await?;
        let _relays = publishing.feed_relays(relay_port)?;
        let shutdown = Shutdown::new();
        let handler = Arc::new((publishing.handler(), nowhere));
        let serving = tokio::spawn(serve(
            Listener::new(listener, tls),
            handler,
            limits,
            shutdown.clone(),
        ));
        announce(&format!("the publisher serves {scheme}://{address}/\n"))?;
        let ended = tokio::select! {
            failure = publishing.fails() => Err(failure),
            signal = signals.next() => Ok(signal),
        };
        if let Ok(signal) = &ended {
            tracing::info!("{signal}: draining");
        }
        let drain = Drain::begin();
        shutdown.trigger();
        publishing.bye();
        drain.wait_for(serving).await;
        admin.stop().await;
        ended.map(drop)
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

/// What broadcast refuses at the start, or ends by.
impl From<BroadcastError> for Failure {
    fn from(error: BroadcastError) -> Self {
        match error {
            BroadcastError::Log(error) => error.into(),
            BroadcastError::OtherLog(sentence) => Self::new(Exit::Restart, sentence),
            other => Self::unavailable(other),
        }
    }
}

/// A port for relays that is bound.
pub(super) struct RelayListening(RelayPort);

impl RelayListening {
    /// Takes the address, if there is one.
    pub(super) fn bind(
        flags: &RelayListenFlags,
        token: RelayToken,
        tls: &Option<Tls>,
    ) -> Result<Option<Self>, Failure> {
        let Some(address) = flags.address() else {
            return Ok(None);
        };
        Ok(Some(Self(RelayPort {
            listener: bind("--relay-listen", address)?,
            tls: tls.clone(),
            token,
            max_relays: flags.max_relays(),
        })))
    }
}

/// Relays are fed; dropped, they are let go.
pub(super) struct FeedingRelays(Shutdown);

impl Drop for FeedingRelays {
    fn drop(&mut self) {
        self.0.trigger();
    }
}

/// A publisher, or a relay, in this process.
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
            reception: Reception {
                ring: RING,
                ingest_url: None,
                allow_origin,
                gate,
                shards: fanout.shards(),
                drain: fanout.drain(),
            },
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
        Ok(Self(publisher?))
    }

    /// Finds an upstream first.
    pub(super) async fn start_relay(
        upstreams: Upstreams,
        reception: Reception,
        watch: &Watch,
    ) -> Result<Self, Failure> {
        let (registry, readiness) = (&watch.registry, &watch.readiness);
        let relay = Publisher::relay(upstreams, reception, registry, readiness).await;
        Ok(Self(relay?))
    }

    /// Feeds relays from now on, if there is a port for them, until what this returns is dropped.
    pub(super) fn feed_relays(
        &self,
        port: Option<RelayListening>,
    ) -> Result<FeedingRelays, Failure> {
        let shutdown = Shutdown::new();
        if let Some(RelayListening(port)) = port {
            let address = address(&port.listener)?;
            announce(&format!("relays connect to {address}\n"))?;
            tokio::spawn(self.0.serve_relays(port, shutdown.clone()));
        }
        Ok(FeedingRelays(shutdown))
    }

    /// Waits until it cannot go on, and tells why.
    pub(super) async fn fails(&self) -> Failure {
        self.0.fails().await.into()
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
