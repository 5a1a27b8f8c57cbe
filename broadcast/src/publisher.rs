//! The running publisher or relay: its parts, put together, started and stopped.

use std::{num::NonZeroUsize, sync::Arc, thread};

use emostream_http::{Handler, Readiness, Shutdown};
use emostream_log::Log;
use emostream_model::WindowSettings;
use prometheus::Registry;

use crate::config::{Config, SubscriberConfig};
use crate::fanout::shard_pool::ShardPool;
use crate::frame::heartbeat::Heartbeat;
use crate::http::service::Service;
use crate::hub::{rooms::Hub, updates::Updates};
use crate::relay::client::{UpstreamClient, Upstreams};
use crate::relay::node::Node;
use crate::relay::server::{self, RelayPort};
use crate::source::tailer::Tailer;
use crate::{error::BroadcastError, metrics::Metrics};

/// A running publisher, or a relay. Dropped, it takes in no more results.
pub struct Publisher {
    service: Arc<Service>,
    node: Arc<Node>,
    /// What reads the log or the upstream, until it is dropped.
    _source: Box<dyn Send + Sync>,
}

impl Publisher {
    /// Rebuilds what is kept from the log, then serves and reads on.
    ///
    /// Waits for the log, some seconds at most: not to be called from an async task. The handler is to
    /// be served in a tokio runtime.
    pub fn start(
        config: Config,
        log: Arc<dyn Log>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, BroadcastError> {
        let metrics = Metrics::register(registry)?;
        let component = readiness.component("publisher");
        component.not_ready("reading what was counted");
        let settings = WindowSettings {
            window_ms: config.window_ms,
            swarm_size: config.swarm_size,
            live_ms: config.live_ms,
        };
        let (updates, shards) = fan_out(settings, metrics, &config.subscribers)?;
        let tail = Tailer::start(&config, log, updates.clone(), component)?;
        let node = Arc::new(Node::new(updates));
        Ok(Self::new(config.subscribers, node, shards, tail))
    }

    /// Finds an upstream, takes in all that it has, then serves and follows it, or another one once it is
    /// lost: a relay.
    pub async fn relay(
        upstreams: Upstreams,
        config: SubscriberConfig,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, BroadcastError> {
        let metrics = Metrics::register(registry)?;
        let component = readiness.component("relay");
        // The upstream sends the settings.
        let (updates, shards) = fan_out(WindowSettings::default(), metrics, &config)?;
        let node = Arc::new(Node::new(updates));
        let client = UpstreamClient::start(upstreams, &node, component).await?;
        Ok(Self::new(config, node, shards, client))
    }

    fn new(
        config: SubscriberConfig,
        node: Arc<Node>,
        shards: Arc<ShardPool>,
        source: impl Send + Sync + 'static,
    ) -> Self {
        let (hub, metrics) = (node.updates.hub.clone(), node.updates.metrics.clone());
        Self {
            service: Arc::new(Service::new(config, hub, shards, metrics)),
            node,
            _source: Box::new(source),
        }
    }

    /// Feeds the relays that connect to `port`, until `shutdown`.
    pub fn serve_relays(
        &self,
        port: RelayPort,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + use<> {
        server::serve(self.node.clone(), port, shutdown)
    }

    /// Waits until it cannot go on, and tells why: starting again mends it.
    pub fn fails(&self) -> impl Future<Output = BroadcastError> + use<> {
        let updates = self.node.updates.clone();
        async move { BroadcastError::OtherLog(updates.log_mismatch().await.to_string()) }
    }

    /// What answers its requests.
    pub fn handler(&self) -> Arc<impl Handler + use<>> {
        self.service.clone()
    }

    /// Sends `bye` to every subscriber, with the time at which to reconnect, and ends its stream. The listener's
    /// drain waits for them.
    pub fn bye(&self) {
        self.service.bye();
    }
}

/// The way of news into the rooms, and the threads that write to subscribers.
fn fan_out(
    settings: WindowSettings,
    metrics: Metrics,
    config: &SubscriberConfig,
) -> Result<(Arc<Updates>, Arc<ShardPool>), BroadcastError> {
    let shards = config.shards;
    let shards = shards.map_or_else(thread::available_parallelism, Ok);
    let shards = shards.unwrap_or(NonZeroUsize::MIN);
    let shards = ShardPool::start(shards, &Heartbeat::new(config), &metrics);
    let shards = Arc::new(shards.map_err(BroadcastError::Thread)?);
    let hub = Arc::new(Hub::new(settings, shards.listeners()));
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
