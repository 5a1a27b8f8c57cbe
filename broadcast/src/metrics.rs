//! What a publisher tells Prometheus.

use emostream_log::EventClock;
use emostream_model::ResultId;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::room::cursor::Next;

/// Seconds from a final's record in the log to its way out: the log's and the thread's delay.
const DELIVERY_BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0];

/// The publisher's metrics; cheap to clone, safe from any thread.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) subscribers: IntGaugeVec,
    pub(crate) frames: IntCounterVec,
    pub(crate) deliveries: Deliveries,
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

/// What went out, counted; its counters are looked up once, not at each delivery.
#[derive(Debug, Clone)]
pub(crate) struct Deliveries {
    finals: IntCounter,
    lives: IntCounter,
    trendings: IntCounter,
    told_gaps: IntCounter,
    skipped: IntCounter,
    gaps: IntCounter,
    delivery: Histogram,
    /// Dates the records whose way is measured.
    clock: EventClock,
}

impl Deliveries {
    /// Counts a frame that is on its way to a subscriber, who `found` finals up to this one when it came.
    pub(crate) fn count(&self, next: &Next, found: Option<ResultId>) {
        match next {
            Next::Final(kept) => {
                self.finals.inc();
                let was_there = |found: ResultId| {
                    found.partition == kept.id.partition && found.offset >= kept.id.offset
                };
                if !found.is_some_and(was_there) {
                    let ms = self.clock.unix_ms().saturating_sub(kept.written_ms);
                    self.delivery.observe(ms as f64 / 1000.0);
                }
            }
            Next::Live(_, skipped) => {
                self.lives.inc();
                if *skipped > 0 {
                    self.skipped.inc_by(*skipped);
                }
            }
            Next::Trending(_) => self.trendings.inc(),
            Next::Gap(..) => {
                self.gaps.inc();
                self.told_gaps.inc();
            }
        }
    }
}

/// How subscribers may be connected.
pub(crate) const WEBSOCKET: &str = "websocket";
pub(crate) const SSE: &str = "sse";

impl Metrics {
    /// Subscribers here.
    pub(crate) fn audience(&self) -> u64 {
        let of = |transport| self.subscribers.with_label_values(&[transport]).get();
        u64::try_from(of(WEBSOCKET) + of(SSE)).unwrap_or(0)
    }

    pub(crate) fn register(
        registry: &Registry,
        clock: EventClock,
    ) -> Result<Self, prometheus::Error> {
        let name = |name: &str| format!("emostream_publisher_{name}");
        let counter = |n: &str, help: &str| IntCounter::new(name(n), help);
        let gauge = |n: &str, help: &str| IntGauge::new(name(n), help);
        let by = |n: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name(n), help), &[label])
        };
        let buckets = DELIVERY_BUCKETS.to_vec();
        let delivery = HistogramOpts::new(
            name("delivery_seconds"),
            "From a final's record in the log to its delivery to a subscriber who was there when it came.",
        );
        let by_type = by("deliveries_total", "Frames delivered, by type.", "type")?;
        let skipped = counter(
            "skipped_live_total",
            "Live frames a slow subscriber skipped.",
        )?;
        let gaps = counter("gaps_total", "Gaps told to subscribers.")?;
        let delivery = Histogram::with_opts(delivery.buckets(buckets.clone()))?;
        registry.register(Box::new(by_type.clone()))?;
        registry.register(Box::new(skipped.clone()))?;
        registry.register(Box::new(gaps.clone()))?;
        registry.register(Box::new(delivery.clone()))?;
        let of = |kind: &str| by_type.with_label_values(&[kind]);
        let relay_delay = HistogramOpts::new(
            name("relay_delay_seconds"),
            "From the publisher's reading of news to its arrival at this relay.",
        );
        let metrics = Self {
            subscribers: IntGaugeVec::new(
                Opts::new(name("subscribers"), "Subscribers, by transport."),
                &["transport"],
            )?,
            frames: by("frames_total", "Frames made, by type.", "type")?,
            deliveries: Deliveries {
                finals: of("final"),
                lives: of("live"),
                trendings: of("trending"),
                told_gaps: of("gap"),
                skipped,
                gaps,
                delivery,
                clock,
            },
            stalled: gauge(
                "stalled_subscribers",
                "Subscribers whose socket takes no more for now.",
            )?,
            queued: gauge(
                "write_queue_bytes",
                "Bytes of frames begun that subscribers' sockets have not taken yet.",
            )?,
            rooms: gauge("rooms", "Rooms known.")?,
            unreadable: counter("unreadable_total", "Result records that could not be read.")?,
            upstream: gauge("upstream_up", "Whether results are being read.")?,
            upstream_losses: counter(
                "upstream_losses_total",
                "How often a relay's upstream was lost.",
            )?,
            relays: gauge("relays", "Relays that are fed by this one.")?,
            relay_batches: counter("relay_batches_total", "Batches of news for relays.")?,
            relay_bytes: counter("relay_bytes_total", "Bytes sent to relays, all together.")?,
            relay_resyncs: counter(
                "relay_resyncs_total",
                "How often a relay fell behind and got the rooms as they stand.",
            )?,
            relay_delay: Histogram::with_opts(relay_delay.buckets(buckets))?,
        };
        for transport in [WEBSOCKET, SSE] {
            metrics.subscribers.with_label_values(&[transport]);
        }
        registry.register(Box::new(metrics.subscribers.clone()))?;
        registry.register(Box::new(metrics.frames.clone()))?;
        registry.register(Box::new(metrics.queued.clone()))?;
        registry.register(Box::new(metrics.stalled.clone()))?;
        registry.register(Box::new(metrics.rooms.clone()))?;
        registry.register(Box::new(metrics.unreadable.clone()))?;
        registry.register(Box::new(metrics.upstream.clone()))?;
        registry.register(Box::new(metrics.upstream_losses.clone()))?;
        registry.register(Box::new(metrics.relays.clone()))?;
        registry.register(Box::new(metrics.relay_batches.clone()))?;
        registry.register(Box::new(metrics.relay_bytes.clone()))?;
        registry.register(Box::new(metrics.relay_resyncs.clone()))?;
        registry.register(Box::new(metrics.relay_delay.clone()))?;
        Ok(metrics)
    }
}
