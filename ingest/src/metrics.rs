//! Prometheus metrics of an ingest.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use prometheus::{
    Error, Histogram, IntCounter, IntCounterVec, IntGauge, PullingGauge, Registry,
    register_histogram_with_registry, register_int_counter_vec_with_registry,
    register_int_gauge_with_registry,
};

use crate::buffer::Buffer;

/// Buckets of response times. The low ones are for requests whose reactions are only buffered. The high ones are for
/// requests that wait for the flush and for the broker.
const REQUEST_SECONDS: [f64; 10] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Buckets of flush times: from the time of a local disk to the timeout of a broker.
const FLUSH_SECONDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 8.0];

/// Buckets of the difference between the time of receipt and the time that a client sent. The clock of a phone may be
/// wrong by seconds, or by hours if its time zone is wrong.
const SKEW_SECONDS: [f64; 10] = [
    -3600.0, -60.0, -5.0, -1.0, 0.0, 1.0, 5.0, 60.0, 3600.0, 86_400.0,
];

/// The metrics of one ingest.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    /// Counter of responses with 202. Nearly all requests get this status, so the counter is looked up only once.
    requests_202: IntCounter,
    request_seconds: Histogram,
    /// Reactions with a 2xx response.
    pub(crate) accepted: IntCounter,
    /// Reactions that were rejected because they were invalid or because too many rooms were in use. Other reactions of
    /// the same request may have been accepted.
    pub(crate) rejected: IntCounter,
    /// Reactions that the sender's token does not allow.
    pub(crate) forbidden: IntCounter,
    /// Reactions of users or addresses that exceed their rate.
    pub(crate) limited: IntCounter,
    /// Reactions acknowledged by the log.
    pub(crate) stored: IntCounter,
    /// Reactions that the log did not store, and whose requests waited and got an error.
    pub(crate) refused: IntCounter,
    /// Reactions that the log did not store after their requests got 202.
    pub(crate) lost: IntCounter,
    pub(crate) flushes: IntCounter,
    pub(crate) failed_flushes: IntCounter,
    pub(crate) flush_seconds: Histogram,
    pub(crate) partitions: IntGauge,
    pub(crate) partitions_unavailable: IntGauge,
    pub(crate) rooms: IntGauge,
    skew_seconds: Histogram,
}

impl Metrics {
    /// Registers the metrics.
    pub(crate) fn new(registry: &Registry, buffer: &Arc<Buffer>) -> Result<Self, Error> {
        let reactions = register_int_counter_vec_with_registry!(
            "emostream_ingest_reactions_total",
            "Reactions by outcome.",
            &["outcome"],
            registry
        )?;
        let flushes = register_int_counter_vec_with_registry!(
            "emostream_ingest_flushes_total",
            "Flushes (writes of buffered reactions to the log), by outcome.",
            &["outcome"],
            registry
        )?;
        let requests = register_int_counter_vec_with_registry!(
            "emostream_ingest_requests_total",
            "Requests by the status of the response.",
            &["code"],
            registry
        )?;
        register_int_gauge_with_registry!(
            "emostream_ingest_buffer_capacity_reactions",
            "Maximum reactions in the buffer.",
            registry
        )?
        .set(i64::from(buffer.capacity()));
        let buffer_gauge = buffer.clone();
        registry.register(Box::new(PullingGauge::new(
            "emostream_ingest_buffer_reactions",
            "Reactions in the buffer that are reserved, pending or not yet acknowledged by the log.",
            Box::new(move || buffer_gauge.used() as f64),
        )?))?;
        Ok(Self {
            requests_202: requests.with_label_values(&[StatusCode::ACCEPTED.as_str()]),
            requests,
            request_seconds: register_histogram_with_registry!(
                "emostream_ingest_request_seconds",
                "Time from the head of a request to its response.",
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
            partitions_unavailable: register_int_gauge_with_registry!(
                "emostream_ingest_partitions_away",
                "Partitions that are unavailable; the other partitions get their share.",
                registry
            )?,
            rooms: register_int_gauge_with_registry!(
                "emostream_ingest_rooms_in_use",
                "Rooms with recent reactions.",
                registry
            )?,
            skew_seconds: register_histogram_with_registry!(
                "emostream_ingest_claimed_skew_seconds",
                "Time of receipt minus the timestamp that the client sent.",
                SKEW_SECONDS.to_vec(),
                registry
            )?,
        })
    }

    /// Counts a response in the metrics.
    pub(crate) fn observe_response(&self, status: StatusCode, duration: Duration) {
        match status {
            StatusCode::ACCEPTED => self.requests_202.inc(),
            other => self.requests.with_label_values(&[other.as_str()]).inc(),
        }
        self.request_seconds.observe(duration.as_secs_f64());
    }

    /// Adds to the metrics the difference between the time of receipt `now_ms` and the timestamp `claimed_ms` of a
    /// reaction.
    pub(crate) fn observe_skew(&self, claimed_ms: u64, now_ms: u64) {
        self.skew_seconds
            .observe((now_ms as f64 - claimed_ms as f64) / 1000.0);
    }
}
