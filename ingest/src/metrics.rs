//! What an ingest counts and measures, by Prometheus' conventions.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use prometheus::{
    Error, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::buffer::Buffer;

/// Answers take microseconds from the buffer, a flush and a broker's time when they wait for the log.
const REQUEST_SECONDS: [f64; 10] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// From a local disk to a broker that is given up on.
const FLUSH_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 8.0];

/// Clocks of phones: seconds off, or hours (a wrong time zone), before or after ours.
const SKEW_SECONDS: [f64; 10] = [
    -3600.0, -60.0, -5.0, -1.0, 0.0, 1.0, 5.0, 60.0, 3600.0, 86_400.0,
];

/// The metrics of one ingest.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    /// Of nearly all requests: looked up once.
    requests_202: IntCounter,
    request_seconds: Histogram,
    /// Reactions answered with a 2xx.
    pub(crate) accepted: IntCounter,
    /// Reactions refused one by one.
    pub(crate) rejected: IntCounter,
    /// Reactions that their senders' tokens do not allow.
    pub(crate) forbidden: IntCounter,
    /// Reactions of users or addresses that send too fast.
    pub(crate) limited: IntCounter,
    /// Reactions acknowledged by the log.
    pub(crate) stored: IntCounter,
    /// Reactions that the log did not take, whose senders waited and were told so.
    pub(crate) refused: IntCounter,
    /// Reactions answered with a 202 that the log then did not take.
    pub(crate) lost: IntCounter,
    pub(crate) flushes: IntCounter,
    pub(crate) failed_flushes: IntCounter,
    pub(crate) flush_seconds: Histogram,
    pub(crate) partitions: IntGauge,
    pub(crate) partitions_away: IntGauge,
    pub(crate) rooms: IntGauge,
    skew_seconds: Histogram,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registry: &Registry, buffer: &Arc<Buffer>) -> Result<Self, Error> {
        let reactions = counters(
            registry,
            ("reactions_total", "Reactions by what became of them."),
            "outcome",
        )?;
        let flushes = counters(
            registry,
            ("flushes_total", "Flushes to the log by how they ended."),
            "outcome",
        )?;
        let capacity = gauge(
            "buffer_capacity_reactions",
            "The most reactions that may wait.",
        )?;
        capacity.set(i64::from(buffer.capacity()));
        registry.register(Box::new(capacity))?;
        registry.register(Box::new(BufferFill {
            gauge: gauge(
                "buffer_reactions",
                "Reactions, and room reserved for them, that wait for the log or its acknowledgement.",
            )?,
            buffer: buffer.clone(),
        }))?;
        let requests = counters(
            registry,
            ("requests_total", "Requests by the status of their answer."),
            "code",
        )?;
        let shown = |gauge: IntGauge| {
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, Error>(gauge)
        };
        Ok(Self {
            requests_202: requests.with_label_values(&[StatusCode::ACCEPTED.as_str()]),
            requests,
            request_seconds: histogram(
                registry,
                (
                    "request_seconds",
                    "Time from a request's head to its answer.",
                ),
                &REQUEST_SECONDS,
            )?,
            accepted: reactions.with_label_values(&["accepted"]),
            rejected: reactions.with_label_values(&["rejected"]),
            forbidden: reactions.with_label_values(&["forbidden"]),
            limited: reactions.with_label_values(&["limited"]),
            stored: reactions.with_label_values(&["stored"]),
            refused: reactions.with_label_values(&["refused"]),
            lost: reactions.with_label_values(&["lost"]),
            flushes: flushes.with_label_values(&["stored"]),
            failed_flushes: flushes.with_label_values(&["failed"]),
            flush_seconds: histogram(
                registry,
                (
                    "flush_seconds",
                    "Time from a flush to its last acknowledgement.",
                ),
                &FLUSH_SECONDS,
            )?,
            partitions: shown(gauge(
                "partitions",
                "Partitions that every flush writes to.",
            )?)?,
            partitions_away: shown(gauge(
                "partitions_away",
                "Partitions that take nothing at the moment; the others take their share.",
            )?)?,
            rooms: shown(gauge("rooms_in_use", "Rooms that had reactions lately.")?)?,
            skew_seconds: histogram(
                registry,
                (
                    "claimed_skew_seconds",
                    "Time of receipt less the timestamp that the sender claims.",
                ),
                &SKEW_SECONDS,
            )?,
        })
    }

    /// A request was answered.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        match status {
            StatusCode::ACCEPTED => self.requests_202.inc(),
            other => self.requests.with_label_values(&[other.as_str()]).inc(),
        }
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// A sender claims that a reaction received at `now_ms` is of `claimed_ms`.
    pub(crate) fn claimed(&self, claimed_ms: u64, now_ms: u64) {
        self.skew_seconds
            .observe((now_ms as f64 - claimed_ms as f64) / 1000.0);
    }
}

/// The buffer's fill, looked at when the metrics are read.
struct BufferFill {
    gauge: IntGauge,
    buffer: Arc<Buffer>,
}

impl Collector for BufferFill {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.buffer.fill() as i64);
        self.gauge.collect()
    }
}

fn named(name: &str) -> String {
    format!("emostream_ingest_{name}")
}

fn gauge(name: &str, help: &str) -> Result<IntGauge, Error> {
    IntGauge::new(named(name), help)
}

fn counters(
    registry: &Registry,
    (name, help): (&str, &str),
    label: &str,
) -> Result<IntCounterVec, Error> {
    let counters = IntCounterVec::new(Opts::new(named(name), help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn histogram(
    registry: &Registry,
    (name, help): (&str, &str),
    buckets: &[f64],
) -> Result<Histogram, Error> {
    let opts = HistogramOpts::new(named(name), help).buckets(buckets.to_vec());
    let histogram = Histogram::with_opts(opts)?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}
