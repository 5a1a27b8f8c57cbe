//! A publisher or a relay in a process: started, served until it is asked to end, drained.
//!
//! ```text
//!  bind ─▶ start: from the log, or from an upstream ─▶ relays, subscribers … ─▶ bye ─▶ drain
//! ```

use std::{net::SocketAddr, sync::Arc, time::Duration};

use emostream_broadcast::{
    BroadcastError, Config, Publisher, RelayPort, RelayToken, SUBSCRIBER_HEARTBEAT,
    SubscriberConfig, Upstreams,
};
use emostream_http::{
    AllowOrigin, Authenticator, Handler, Limits, Listener, Nowhere, Shutdown, Tls, serve,
};
use emostream_log::{EventClock, Log};
use emostream_model::Topics;
use tokio::net::TcpListener;

use super::{
    dataflow::CountingFlags,
    roles::{AdminServer, Drain, Watch, address, announce, bind, follow, scheme},
};
use crate::{
    exit::{Exit, Failure},
    logging::LogFormat,
    settings::{AdminFlags, FanoutFlags, ListenFlags, RelayListenFlags},
    signal::Signals,
    values::ms,
};

/// How long finals are kept for subscribers that resume.
pub(super) const RING: Duration = Duration::from_secs(600);

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
    fn bind(
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

/// All addresses of a process that subscribers come to, taken before it starts.
pub(super) struct Rim {
    pub(super) listener: TcpListener,
    /// Where the listener is.
    pub(super) address: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) limits: Limits,
    pub(super) relays: Option<RelayListening>,
    pub(super) admin: AdminServer,
}

impl Rim {
    /// Takes them; the administrator is answered from now on.
    pub(super) async fn bind(
        listen: &ListenFlags,
        relays: &RelayListenFlags,
        token: RelayToken,
        admin: &AdminFlags,
        tls: Option<Tls>,
        watch: &Watch,
    ) -> Result<Self, Failure> {
        let listener = bind("--listen", listen.address())?;
        let address = address(&listener)?;
        let limits = listen.limits(relays.max_relays());
        let relays = RelayListening::bind(relays, token, &tls)?;
        follow(&tls);
        let admin = AdminServer::start(admin.address(), tls.clone(), watch).await?;
        Ok(Self {
            listener,
            address,
            tls,
            limits,
            relays,
            admin,
        })
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
        authenticator: Authenticator,
        fanout: &FanoutFlags,
        clock: EventClock,
    ) -> Config {
        Config {
            topics,
            window_ms: ms(counting.window()),
            live_ms: ms(counting.live()),
            swarm_size: counting.swarm_size(),
            subscribers: SubscriberConfig {
                ring: RING,
                ingest_url: None,
                allow_origin,
                authenticator,
                shards: fanout.shards(),
                drain: fanout.drain(),
                clock,
                heartbeat: SUBSCRIBER_HEARTBEAT,
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
        subscribers: SubscriberConfig,
        watch: &Watch,
    ) -> Result<Self, Failure> {
        let (registry, readiness) = (&watch.registry, &watch.readiness);
        let relay = Publisher::relay(upstreams, subscribers, registry, readiness).await;
        Ok(Self(relay?))
    }

    /// Feeds relays from now on, if there is a port for them, until what this returns is dropped.
    pub(super) fn feed_relays(
        &self,
        port: Option<RelayListening>,
        format: LogFormat,
    ) -> Result<FeedingRelays, Failure> {
        let shutdown = Shutdown::new();
        if let Some(RelayListening(port)) = port {
            let address = address(&port.listener)?;
            let text = format!("relays connect to {address}\n");
            announce(format, &text, &format!("tcp://{address}"))?;
            tokio::spawn(self.0.serve_relays(port, shutdown.clone()));
        }
        Ok(FeedingRelays(shutdown))
    }

    /// Waits until it cannot go on, and tells why.
    pub(super) async fn fails(&self) -> Failure {
        self.0.fails().await.into()
    }

    /// Serves what is bound until the process is asked to end, or cannot go on; then everybody is sent away.
    pub(super) async fn serve(
        self,
        (role, format): (&str, LogFormat),
        rim: Rim,
        nowhere: Nowhere,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let (scheme, address) = (scheme(&rim.tls), rim.address);
        let _relays = self.feed_relays(rim.relays, format)?;
        let shutdown = Shutdown::new();
        signals.take_over();
        let serving = tokio::spawn(serve(
            Listener::new(rim.listener, rim.tls),
            Arc::new((self.handler(), nowhere)),
            rim.limits,
            shutdown.clone(),
        ));
        let url = format!("{scheme}://{address}/");
        announce(format, &format!("the {role} serves {url}\n"), &url)?;
        let ended = tokio::select! {
            failure = self.fails() => Err(failure),
            signal = signals.next() => Ok(signal),
        };
        if let Ok(signal) = &ended {
            tracing::info!("{signal}: draining");
        }
        let drain = Drain::begin();
        shutdown.trigger();
        self.bye();
        drain.wait_for(serving).await;
        rim.admin.stop().await;
        ended.map(drop)
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
