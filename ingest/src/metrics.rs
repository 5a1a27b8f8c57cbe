//! What an ingest counts and measures, by Prometheus' conventions.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use prometheus::{
    Error, Histogram, IntCounter, IntCounterVec, IntGauge, PullingGauge, Registry,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
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
        let reactions = register_int_counter_vec_with_registry!(
            "emostream_ingest_reactions_total",
            "Reactions by what became of them.",
            &["outcome"],
            registry
        )?;
        let flushes = register_int_counter_vec_with_registry!(
            "emostream_ingest_flushes_total",
            "Flushes to the log by how they ended.",
            &["outcome"],
            registry
        )?;
        let requests = register_int_counter_vec_with_registry!(
            "emostream_ingest_requests_total",
            "Requests by the status of their answer.",
            &["code"],
            registry
        )?;
        register_int_gauge_with_registry!(
            "emostream_ingest_buffer_capacity_reactions",
            "The most reactions that may wait.",
            registry
        )?
        .set(i64::from(buffer.capacity()));
        let filled = buffer.clone();
        registry.register(Box::new(PullingGauge::new(
            "emostream_ingest_buffer_reactions",
            "Reactions, and room reserved for them, that wait for the log or its acknowledgement.",
            Box::new(move || filled.fill() as f64),
        )?))?;
        Ok(Self {
            requests_202: requests.with_label_values(&[StatusCode::ACCEPTED.as_str()]),
            requests,
            request_seconds: register_histogram_with_registry!(
                "emostream_ingest_request_seconds",
                "Time from a request's head to its answer.",
                REQUEST_SECONDS.to_vec(),
                registry
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
            flush_seconds: register_histogram_with_registry!(
                "emostream_ingest_flush_seconds",
                "Time from a flush to its last acknowledgement.",
                FLUSH_SECONDS.to_vec(),
                registry
            )?,
            partitions: register_int_gauge_with_registry!(
                "emostream_ingest_partitions",
                "Partitions that every flush writes to.",
                registry
            )?,
            partitions_away: register_int_gauge_with_registry!(
                "emostream_ingest_partitions_away",
                "Partitions that take nothing at the moment; the others take their share.",
                registry
            )?,
            rooms: register_int_gauge_with_registry!(
                "emostream_ingest_rooms_in_use",
                "Rooms that had reactions lately.",
                registry
            )?,
            skew_seconds: register_histogram_with_registry!(
                "emostream_ingest_claimed_skew_seconds",
                "Time of receipt less the timestamp that the sender claims.",
                SKEW_SECONDS.to_vec(),
                registry
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
