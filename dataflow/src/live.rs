//! Writes live tallies: outside transactions, at most once, never waited for.

use std::sync::Arc;

use bytes::Bytes;
use emostream_log::{Appender, NewRecord};
use emostream_model::WindowRecord;
use timely::dataflow::{StreamVec, channels::pact::Pipeline, operators::generic::Operator};

use crate::metrics::Metrics;

/// Appends each live tally to `topic`. One that the log does not take is dropped and counted: a newer
/// one follows, and the final is exact.
pub fn write_live(
    live: StreamVec<'_, u64, WindowRecord>,
    topic: String,
    appender: Arc<dyn Appender>,
    metrics: Metrics,
) {
    live.sink(Pipeline, "write live", move |(input, _)| {
        input.for_each_stamp(|_, data| {
            for tally in data.flat_map(|data| data.drain(..)) {
                append(&tally, &topic, &*appender, &metrics);
            }
        });
    });
}

fn append(tally: &WindowRecord, topic: &str, appender: &dyn Appender, metrics: &Metrics) {
    let record = NewRecord {
        topic: topic.to_owned(),
        partition: None,
        time_ms: tally.emitted_at,
        key: Some(Bytes::copy_from_slice(tally.room.as_str().as_bytes())),
        value: tally.to_json().into(),
        headers: Vec::new(),
    };
    let written = metrics.live.with_label_values(&["written"]);
    let dropped = metrics.live.with_label_values(&["dropped"]);
    let refused = dropped.clone();
    let done = Box::new(move |outcome: Result<u64, _>| match outcome {
        Ok(_) => written.inc(),
        Err(_) => dropped.inc(),
    });
    if appender.append(record, done).is_err() {
        refused.inc();
    }
}
