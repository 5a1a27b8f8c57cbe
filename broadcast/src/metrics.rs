//! What a publisher tells Prometheus.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Seconds from a final's record in the log to its way out: the log's and the thread's delay.
const DELIVERY_BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

/// The publisher's metrics; cheap to clone, safe from any thread.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) subscribers: IntGaugeVec,
    pub(crate) frames: IntCounterVec,
    pub(crate) deliveries: IntCounterVec,
    pub(crate) skipped: IntCounter,
    pub(crate) gaps: IntCounter,
    pub(crate) rooms: IntGauge,
    pub(crate) unreadable: IntCounter,
    pub(crate) upstream: IntGauge,
    pub(crate) delivery: Histogram,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("emostream_publisher_{name}");
        let counter = |n: &str, help: &str| IntCounter::new(name(n), help);
        let gauge = |n: &str, help: &str| IntGauge::new(name(n), help);
        let by = |n: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name(n), help), &[label])
        };
        let buckets = DELIVERY_BUCKETS.to_vec();
        let delivery = HistogramOpts::new(
            name("delivery_seconds"),
            "From a final's record in the log to its delivery to a subscriber who waited.",
        );
        let metrics = Self {
            subscribers: IntGaugeVec::new(
                Opts::new(name("subscribers"), "Subscribers, by transport."),
                &["transport"],
            )?,
            frames: by("frames_total", "Frames made, by type.", "type")?,
            deliveries: by("deliveries_total", "Frames delivered, by type.", "type")?,
            skipped: counter(
                "skipped_live_total",
                "Live frames a slow subscriber skipped.",
            )?,
            gaps: counter("gaps_total", "Gaps told to subscribers.")?,
            rooms: gauge("rooms", "Rooms known.")?,
            unreadable: counter("unreadable_total", "Result records that could not be read.")?,
            upstream: gauge("upstream_up", "Whether results are being read.")?,
            delivery: Histogram::with_opts(delivery.buckets(buckets))?,
        };
        registry.register(Box::new(metrics.subscribers.clone()))?;
        registry.register(Box::new(metrics.frames.clone()))?;
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.skipped.clone()))?;
        registry.register(Box::new(metrics.gaps.clone()))?;
        registry.register(Box::new(metrics.rooms.clone()))?;
        registry.register(Box::new(metrics.unreadable.clone()))?;
        registry.register(Box::new(metrics.upstream.clone()))?;
        registry.register(Box::new(metrics.delivery.clone()))?;
        Ok(metrics)
    }
}
