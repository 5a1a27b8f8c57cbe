//! A publisher's metrics for Prometheus.
//!
//! Four closures register the metrics. With the macros of the prometheus crate, each metric would have to repeat the
//! prefix, the registry and the buckets.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// Buckets of the histogram of the delay from the log to a subscriber's socket, in seconds.
const DELIVERY_BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

/// The publisher's metrics. Clones share the counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) subscribers: IntGaugeVec,
    pub(crate) frames: IntCounterVec,
    pub(crate) deliveries: IntCounterVec,
    pub(crate) skipped_live: IntCounter,
    pub(crate) gaps: IntCounter,
    pub(crate) delivery: Histogram,
    pub(crate) queued: IntGauge,
    pub(crate) stalled: IntGauge,
    pub(crate) rooms: IntGauge,
    pub(crate) unreadable: IntCounter,
    pub(crate) upstream: IntGauge,
    pub(crate) upstream_losses: IntCounter,
    pub(crate) relays: IntGauge,
    pub(crate) relay_batches: IntCounter,
    pub(crate) relay_bytes: IntCounter,
    pub(crate) relay_resyncs: IntCounter,
    pub(crate) relay_delay: Histogram,
}

/// Values of the label `transport`: how a subscriber is connected.
pub(crate) const WEBSOCKET: &str = "websocket";
pub(crate) const SSE: &str = "sse";

impl Metrics {
    /// Returns the number of connected subscribers at this node, observers included.
    pub(crate) fn audience(&self) -> u64 {
        let of = |transport| self.subscribers.with_label_values(&[transport]).get();
        u64::try_from(of(WEBSOCKET) + of(SSE)).unwrap_or(0)
    }

    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("emostream_publisher_{name}");
        let opts = |n: &str, help: &str| Opts::new(name(n), help);
        let counter = |n: &str, help: &str| registered(registry, IntCounter::new(name(n), help));
        let gauge = |n: &str, help: &str| registered(registry, IntGauge::new(name(n), help));
        let by = |n: &str, help: &str, label: &str| {
            registered(registry, IntCounterVec::new(opts(n, help), &[label]))
        };
        let seconds = |n: &str, help: &str| {
            let opts = HistogramOpts::from(opts(n, help)).buckets(DELIVERY_BUCKETS.to_vec());
            registered(registry, Histogram::with_opts(opts))
        };
        let subscribers = opts("subscribers", "Subscribers, by transport.");
        let metrics = Self {
            subscribers: registered(registry, IntGaugeVec::new(subscribers, &["transport"]))?,
            frames: by("frames_total", "Encoded frames, by type.", "type")?,
            deliveries: by(
                "deliveries_total",
                "Frames sent to subscribers, by type.",
                "type",
            )?,
            skipped_live: counter(
                "skipped_live_total",
                "Live frames that were not sent to a slow subscriber.",
            )?,
            gaps: counter(
                "gaps_total",
                "Frames that notify a subscriber of missed finals (gap frames).",
            )?,
            delivery: seconds(
                "delivery_seconds",
                "Time from the record of a final in the log until the final is sent to a subscriber that was already connected.",
            )?,
            stalled: gauge(
                "stalled_subscribers",
                "Subscribers whose socket buffer is full.",
            )?,
            queued: gauge("write_queue_bytes", "Unsent bytes of partly sent frames.")?,
            rooms: gauge("rooms", "Known rooms.")?,
            unreadable: counter("unreadable_total", "Result records that could not be read.")?,
            upstream: gauge(
                "upstream_up",
                "1 while results are read from the log or the upstream, otherwise 0.",
            )?,
            upstream_losses: counter(
                "upstream_losses_total",
                "Number of lost connections to an upstream.",
            )?,
            relays: gauge("relays", "Relays that are connected to this process.")?,
            relay_batches: counter("relay_batches_total", "Batches of updates for relays.")?,
            relay_bytes: counter("relay_bytes_total", "Bytes sent to all relays.")?,
            relay_resyncs: counter(
                "relay_resyncs_total",
                "Number of snapshots that were sent to relays which lagged too far behind.",
            )?,
            relay_delay: seconds(
                "relay_delay_seconds",
                "Time from the publisher's read of an update until this relay receives it.",
            )?,
        };
        for transport in [WEBSOCKET, SSE] {
            metrics.subscribers.with_label_values(&[transport]);
        }
        Ok(metrics)
    }
}

fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = metric?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
