//! A log with the results of a dataflow, and publishers that read it and listen on port 0.

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use emostream_broadcast::{
    BroadcastError, Config, Publisher, RelayPort, RelayToken, SUBSCRIBER_HEARTBEAT,
    SubscriberConfig, Upstreams,
};
use emostream_http::{
    AllowOrigin, Authenticator, ClientTls, DrainOutcome, Limits, Listener, NotFound, Readiness,
    Tls, serve,
};
use emostream_log::{
    Cleanup, EventClock, Log,
    embedded::EmbeddedLog,
    testing::{FaultyLog, create_topics, keep_for},
};
use emostream_model::Topics;
use prometheus::{Registry, TextEncoder};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::counting::{Counting, SWARM_SIZE, WINDOW_MS};

/// Timeout of the tests, far above their usual duration.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const PARTITIONS: u32 = 3;
/// Retention of final results in the log. Some tests write final results that are older.
pub(crate) const KEPT: Duration = Duration::from_secs(3600);

pub(crate) struct Fixture {
    /// The log inside the `FaultyLog`.
    pub(crate) embedded: Arc<EmbeddedLog>,
    pub(crate) log: Arc<FaultyLog>,
    pub(crate) counting: Counting,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let embedded = Arc::new(EmbeddedLog::in_memory().unwrap());
        let log = Arc::new(FaultyLog::new(embedded.clone()));
        let (topics, kept) = (Topics::default(), keep_for(KEPT));
        create_topics(
            &*log,
            [
                (topics.windows(), PARTITIONS, kept),
                (topics.live(), PARTITIONS, kept),
                (topics.totals(), PARTITIONS, Cleanup::Compact),
                (topics.trending(), PARTITIONS, Cleanup::Compact),
                (topics.progress(), 1, Cleanup::Compact),
            ],
        );
        let counting = Counting::new(log.clone());
        Self {
            embedded,
            log,
            counting,
        }
    }

    /// Starts a publisher with the default configuration.
    pub(crate) fn publisher(&self) -> Node {
        Node::start(self.log.clone(), config())
    }
}

pub(crate) fn config() -> Config {
    Config {
        topics: Topics::default(),
        window_ms: WINDOW_MS,
        live_ms: 250,
        swarm_size: SWARM_SIZE,
        subscribers: subscriber_config(),
    }
}

pub(crate) fn subscriber_config() -> SubscriberConfig {
    SubscriberConfig {
        ring: Duration::from_secs(600),
        ingest_url: None,
        demo_crowd: false,
        allow_origin: AllowOrigin::Any,
        authenticator: Authenticator::default(),
        // The number of shards is fixed, so that there is more than one shard on any host.
        shards: NonZeroUsize::new(2),
        drain: Duration::from_secs(30),
        clock: EventClock::host(),
        heartbeat: SUBSCRIBER_HEARTBEAT,
    }
}

/// A publisher or a relay that is served over HTTP.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) readiness: Readiness,
    registry: Registry,
    publisher: Publisher,
    shutdown: CancellationToken,
    served: JoinHandle<DrainOutcome>,
    runtime: Runtime,
}

impl Node {
    pub(crate) fn start(log: Arc<dyn Log>, config: Config) -> Self {
        Self::speaking(None, log, config)
    }

    pub(crate) fn speaking(tls: Option<Tls>, log: Arc<dyn Log>, config: Config) -> Self {
        let runtime = Runtime::new().unwrap();
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let publisher = Publisher::start(config, log, &registry, &readiness).unwrap();
        Self::serve(runtime, tls, publisher, registry, readiness)
    }

    /// Starts a relay, which connects to the first of these upstreams that accepts it.
    pub(crate) fn relay(upstreams: &[&str]) -> Self {
        Self::relay_like(upstreams, subscriber_config())
    }

    /// Starts a relay like [`Node::relay`], with another configuration of its subscribers.
    pub(crate) fn relay_like(upstreams: &[&str], subscribers: SubscriberConfig) -> Self {
        Self::connect_relay(upstreams, RelayToken::default(), None, subscribers).unwrap()
    }

    /// Starts a relay with a token, and with TLS if `trust` is given. Returns the error if it does not start.
    pub(crate) fn try_relay(
        upstreams: &[&str],
        token: RelayToken,
        trust: Option<ClientTls>,
    ) -> Result<Self, BroadcastError> {
        Self::connect_relay(upstreams, token, trust, subscriber_config())
    }

    fn connect_relay(
        upstreams: &[&str],
        token: RelayToken,
        trust: Option<ClientTls>,
        subscribers: SubscriberConfig,
    ) -> Result<Self, BroadcastError> {
        let runtime = Runtime::new().unwrap();
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let upstreams = Upstreams {
            addresses: upstreams.iter().map(ToString::to_string).collect(),
            name: "a relay".to_owned(),
            token,
            trust,
        };
        let starting = Publisher::relay(upstreams, subscribers, &registry, &readiness);
        let relay = runtime.block_on(starting)?;
        Ok(Self::serve(runtime, None, relay, registry, readiness))
    }

    fn serve(
        runtime: Runtime,
        tls: Option<Tls>,
        publisher: Publisher,
        registry: Registry,
        readiness: Readiness,
    ) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = NotFound::new(AllowOrigin::Any).after(publisher.router());
        let served = runtime.spawn(serve(
            Listener::new(listener, tls),
            router,
            Limits::default(),
            shutdown.clone(),
        ));
        Self {
            address,
            readiness,
            registry,
            publisher,
            shutdown,
            served,
            runtime,
        }
    }

    /// Accepts relays from now on, at a free port, and returns its address.
    pub(crate) fn accept_relays(&self) -> String {
        self.accept_relays_at("127.0.0.1:0", RelayToken::default(), 100)
    }

    /// Accepts relays like [`Node::accept_relays`], but at this address, and at most `max_relays` that know the token.
    pub(crate) fn accept_relays_at(
        &self,
        address: &str,
        token: RelayToken,
        max_relays: u32,
    ) -> String {
        let listener = self.runtime.block_on(TcpListener::bind(address)).unwrap();
        self.accept_relays_by(RelayPort {
            listener,
            tls: None,
            token,
            max_relays,
        })
    }

    /// Accepts relays like [`Node::accept_relays`], but over TLS.
    pub(crate) fn accept_relays_over_tls(&self, tls: Tls) -> String {
        let listener = self
            .runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        self.accept_relays_by(RelayPort {
            listener,
            tls: Some(tls),
            token: RelayToken::default(),
            max_relays: 10,
        })
    }

    fn accept_relays_by(&self, port: RelayPort) -> String {
        let address = port.listener.local_addr().unwrap().to_string();
        let serving = self.publisher.serve_relays(port, self.shutdown.clone());
        self.runtime.spawn(serving);
        address
    }

    /// Waits until the publisher cannot continue, and returns the reason.
    pub(crate) fn fails(&self) -> String {
        let fails = self.publisher.fails();
        let failing = async { tokio::time::timeout(DEADLINE, fails).await };
        self.runtime.block_on(failing).unwrap().to_string()
    }

    /// Returns the value of a metric's sample (a name with its labels), or 0 if the metrics do not contain this sample.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        let text = TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let name = format!("emostream_publisher_{sample} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&name));
        value.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Shuts down as the program does: accepts no more connections, and sends `bye` to all subscribers.
    pub(crate) fn stop(mut self) -> DrainOutcome {
        self.bye();
        self.runtime.block_on(&mut self.served).unwrap()
    }

    /// Sends `bye` and accepts no more connections, but continues to serve those that are open.
    pub(crate) fn bye(&self) {
        self.shutdown.cancel();
        self.publisher.bye();
    }

    /// Sends `bye` to new subscribers, but still accepts connections.
    pub(crate) fn bye_only(&self) {
        self.publisher.bye();
    }
}
