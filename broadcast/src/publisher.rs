//! A running publisher or relay: creates, connects, starts and stops its parts.

use std::{num::NonZeroUsize, sync::Arc, thread};

use axum::Router;
use emostream_http::Readiness;
use emostream_log::Log;
use emostream_model::WindowSettings;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, SubscriberConfig};
use crate::error::BroadcastError;
use crate::fanout::shard_pool::ShardPool;
use crate::frame::heartbeat::Heartbeat;
use crate::http::service::Service;
use crate::hub::{rooms::Hub, updates::Updates};
use crate::metrics::Metrics;
use crate::relay::client::{UpstreamClient, Upstreams};
use crate::relay::server::{self, RelayPort};
use crate::source::tailer::Tailer;

/// A running publisher or relay. It stops applying results when it is dropped.
pub struct Publisher {
    service: Arc<Service>,
    updates: Arc<Updates>,
    /// Reads the log or the upstream, until it is dropped.
    _source: Box<dyn Send + Sync>,
}

impl Publisher {
    /// Starts a publisher: restores the rooms from the log, then applies new results.
    ///
    /// This call reads the log and blocks, usually for less than a few seconds, so it must not be made in an async
    /// task. The router has to be served in a tokio runtime.
    pub fn start(
        config: Config,
        log: Arc<dyn Log>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, BroadcastError> {
        let metrics = Metrics::register(registry)?;
        let component = readiness.component("publisher");
        component.not_ready("restoring the rooms from the log");
        let settings = WindowSettings {
            window_ms: config.window_ms,
            swarm_size: config.swarm_size,
            live_ms: config.live_ms,
        };
        let (updates, shards) = fan_out(settings, metrics, &config.subscribers)?;
        let tail = Tailer::start(&config, log, updates.clone(), component)?;
        Ok(Self::new(config.subscribers, updates, shards, tail))
    }

    /// Starts a relay: connects to an upstream, and applies its snapshot and updates. When the connection is lost, the
    /// relay connects to another upstream.
    pub async fn relay(
        upstreams: Upstreams,
        config: SubscriberConfig,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, BroadcastError> {
        let metrics = Metrics::register(registry)?;
        let component = readiness.component("relay");
        // The default settings are enough here, since the upstream sends the settings of the dataflow.
        let (updates, shards) = fan_out(WindowSettings::default(), metrics, &config)?;
        let client = UpstreamClient::start(upstreams, &updates, component).await?;
        Ok(Self::new(config, updates, shards, client))
    }

    fn new(
        config: SubscriberConfig,
        updates: Arc<Updates>,
        shards: Arc<ShardPool>,
        source: impl Send + Sync + 'static,
    ) -> Self {
        let (hub, metrics) = (updates.hub.clone(), updates.metrics.clone());
        Self {
            service: Arc::new(Service::new(config, hub, shards, metrics)),
            updates,
            _source: Box::new(source),
        }
    }

    /// Serves the relays that connect to `port`, until `shutdown` is cancelled.
    pub fn serve_relays(
        &self,
        port: RelayPort,
        shutdown: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        server::serve(self.updates.clone(), port, shutdown)
    }

    /// Waits until the publisher cannot continue and has to be restarted, and returns the reason.
    pub fn fails(&self) -> impl Future<Output = BroadcastError> + use<> {
        let updates = self.updates.clone();
        async move { BroadcastError::OtherLog(updates.log_mismatch().await.to_string()) }
    }

    /// Returns the routes of the service.
    pub fn router(&self) -> Router {
        self.service.clone().router()
    }

    /// Sends `bye` to every subscriber, with the time at which to reconnect, and ends its stream. This call does not
    /// wait: the listener's drain waits until the connections are closed.
    pub fn bye(&self) {
        self.service.bye();
    }
}

/// Starts the shards, and creates the hub and the updates that use them.
fn fan_out(
    settings: WindowSettings,
    metrics: Metrics,
    config: &SubscriberConfig,
) -> Result<(Arc<Updates>, Arc<ShardPool>), BroadcastError> {
    let shards = config.shards;
    let shards = shards.map_or_else(thread::available_parallelism, Ok);
    let shards = shards.unwrap_or(NonZeroUsize::MIN);
    let counting = watch::Sender::new(true);
    let heartbeat = Heartbeat::new(config, &counting);
    let shards = ShardPool::start(shards, &heartbeat, &metrics);
    let shards = Arc::new(shards.map_err(BroadcastError::Thread)?);
    let hub = Arc::new(Hub::new(settings, shards.listeners(), counting));
    let updates = Arc::new(Updates::new(
        hub,
        metrics,
        config.ring,
        config.clock.clone(),
    ));
    Ok((updates, shards))
}

#[cfg(test)]
mod tests;
