//! Writes updates, which are results of windows that are still open. They are written outside transactions, at most
//! once, and without waiting for the log.

use std::sync::Arc;

use emostream_log::{Appender, NewRecord};
use timely::dataflow::{StreamVec, channels::pact::Pipeline, operators::generic::Operator};

use crate::metrics::Metrics;

/// Appends each update to the log. An update that the log rejects is dropped and counted in a metric. The loss does no
/// harm, since a newer update follows, and the final result is exact.
pub fn write_updates(
    live: StreamVec<'_, u64, NewRecord>,
    appender: Arc<dyn Appender>,
    metrics: Metrics,
) {
    live.sink(Pipeline, "write updates", move |(input, _)| {
        input.for_each_stamp(|_, data| {
            for record in data.flat_map(|data| data.drain(..)) {
                append(record, &*appender, &metrics);
            }
        });
    });
}

fn append(record: NewRecord, appender: &dyn Appender, metrics: &Metrics) {
    let written = metrics.live.with_label_values(&["written"]);
    let dropped = metrics.live.with_label_values(&["dropped"]);
    let rejected = dropped.clone();
    let done = Box::new(move |outcome: Result<u64, _>| match outcome {
        Ok(_) => written.inc(),
        Err(_) => dropped.inc(),
    });
    if appender.append(record, done).is_err() {
        rejected.inc();
    }
}
