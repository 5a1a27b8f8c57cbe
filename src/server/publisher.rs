//! Runs a publisher or a relay in this process.
//!
//! ```text
//!  bind ─▶ start: from the log, or from an upstream ─▶ relays, subscribers … ─▶ bye ─▶ drain
//! ```

use std::{sync::Arc, time::Duration};

use axum::Router;
use clap::Args;
use emostream_app::{
    process::{Exit, Failure, LogFormat, Signals},
    server::{Observability, address},
};
use emostream_broadcast::{
    BroadcastError, Config, IngestUrl, Publisher, RelayPort, SUBSCRIBER_HEARTBEAT,
    SubscriberConfig, Upstreams,
};
use emostream_log::{EventClock, Log};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::listening::{Bound, RelayConfig, ServerConfig, print_ready};
use crate::cli::flags::{FanoutFlags, RelayListenFlags};

/// Time for which final results are kept for subscribers that reconnect and resume.
const RING: Duration = Duration::from_secs(600);

/// The flags for the delivery of results to subscribers and relays.
#[derive(Debug, Clone, Args)]
pub(crate) struct PublisherFlags {
    #[command(flatten)]
    fanout: FanoutFlags,
    #[command(flatten)]
    relays: RelayListenFlags,
}

impl PublisherFlags {
    /// Returns the configuration for subscribers. `ingest_url` is the URL to which the web page sends reactions.
    pub(crate) fn subscribers(
        &self,
        server: &ServerConfig,
        ingest_url: Option<IngestUrl>,
        clock: EventClock,
    ) -> SubscriberConfig {
        SubscriberConfig {
            ring: RING,
            ingest_url,
            demo_crowd: false,
            allow_origin: server.allow_origin.clone(),
            authenticator: server.authenticator.clone(),
            shards: self.fanout.shards,
            drain: self.fanout.drain,
            clock,
            heartbeat: SUBSCRIBER_HEARTBEAT,
        }
    }

    /// Returns the configuration of the address for relays, with the token from its file.
    pub(crate) fn relays(&self) -> Result<RelayConfig, Failure> {
        let address = self.relays.relay_listen;
        Ok(RelayConfig {
            address,
            token: self.relays.token()?,
            max_relays: address.map_or(0, |_| self.relays.max_relays),
        })
    }
}

/// Converts an error of a publisher or relay to a failure with an exit code.
fn failure(error: BroadcastError) -> Failure {
    match error {
        BroadcastError::Log(error) => error.into(),
        BroadcastError::OtherLog(message) => Failure::new(Exit::Restart, message),
        other => Failure::unavailable(other),
    }
}

/// A publisher or a relay that runs in this process.
pub(crate) struct PublisherProcess(Publisher);

impl PublisherProcess {
    /// Starts a publisher. Returns once the publisher has read its state from the log.
    pub(crate) async fn start(
        config: Config,
        log: Arc<dyn Log>,
        observability: &Observability,
    ) -> Result<Self, Failure> {
        let observability = observability.clone();
        let start = move || {
            Publisher::start(
                config,
                log,
                &observability.registry,
                &observability.readiness,
            )
        };
        let started = tokio::task::spawn_blocking(start).await;
        let publisher = started.map_err(|_| Failure::new(Exit::Defect, "the publisher ended"))?;
        publisher.map(Self).map_err(failure)
    }

    /// Starts a relay. Returns once the relay has found an upstream.
    pub(crate) async fn start_relay(
        upstreams: Upstreams,
        subscribers: SubscriberConfig,
        observability: &Observability,
    ) -> Result<Self, Failure> {
        let (registry, readiness) = (&observability.registry, &observability.readiness);
        let relay = Publisher::relay(upstreams, subscribers, registry, readiness).await;
        relay.map(Self).map_err(failure)
    }

    /// Serves relays until the returned guard is dropped. Without `port`, nothing is served.
    pub(crate) fn serve_relays(
        &self,
        port: Option<RelayPort>,
        format: LogFormat,
    ) -> Result<DropGuard, Failure> {
        let shutdown = CancellationToken::new();
        if let Some(port) = port {
            let address = address(&port.listener)?;
            let text = format!("relays connect to {address}\n");
            print_ready(format, &text, &format!("tcp://{address}"))?;
            tokio::spawn(self.0.serve_relays(port, shutdown.clone()));
        }
        Ok(shutdown.drop_guard())
    }

    /// Waits until the publisher or relay cannot continue, and returns the reason.
    pub(crate) async fn until_failed(&self) -> Failure {
        failure(self.0.fails().await)
    }

    /// Serves subscribers and relays until the process receives a signal or the publisher cannot continue. Then all
    /// subscribers get the frame `bye`.
    pub(crate) async fn serve(
        self,
        (role, format): (&str, LogFormat),
        mut bound: Bound,
        signals: &mut Signals,
    ) -> Result<(), Failure> {
        let url = format!("{}://{}/", bound.scheme(), bound.address);
        let _relays = self.serve_relays(bound.relays.take(), format)?;
        let serving = bound.serve(self.router(), signals);
        print_ready(format, &format!("the {role} serves {url}\n"), &url)?;
        let (ended, drain) = serving.until_ended(signals, self.until_failed()).await;
        self.bye();
        serving.drained(&drain).await.stop().await;
        ended
    }

    /// Returns the routes of the service.
    pub(crate) fn router(&self) -> Router {
        self.0.router()
    }

    /// Sends the frame `bye` to all subscribers.
    pub(crate) fn bye(&self) {
        self.0.bye();
    }
}
