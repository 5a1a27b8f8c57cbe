//! The trait of an application, and the values that the engine passes to it.

use std::{sync::Arc, time::Duration};

use emostream_log::Appender;
use timely::dataflow::{StreamVec, operators::probe};

use crate::{
    aggregate::pre_aggregator::PartialCount,
    config::Config,
    metrics::Metrics,
    operators::tumbling::WindowParams,
    recovery::restore::{RestoredTables, StoredFormat},
    sink::result::ResultStreams,
    source::format::Format,
    time::timers::Timers,
};

/// An application: the format of its source, the operators that compute its results, and the formats of the results.
pub trait Application: Clone + Send + Sync + 'static {
    /// The format of the records of the source.
    type Format: Format;
    /// The format of the stored results from which a run restores its state at the start.
    type Stored: StoredFormat<Key = Key<Self>, Item = Item<Self>>;
    /// The prefix of the names of the application's metrics, without the underscore after it.
    const METRICS_PREFIX: &'static str;

    /// Returns the configuration.
    fn config(&self) -> &Config;

    /// Returns the decoder of the records of the source.
    fn format(&self) -> Self::Format;

    /// Builds the operators that compute results from partial counts, on one worker, and adds the results to `results`.
    fn build<'scope>(
        &self,
        counts: Counts<'scope, Self::Format>,
        worker: WorkerContext<Key<Self>, Item<Self>>,
        results: &mut ResultStreams<'scope>,
    );
}

/// The key of the results of an application.
pub type Key<A> = <<A as Application>::Format as Format>::Key;

/// The item that an application counts for each key.
pub type Item<A> = <<A as Application>::Format as Format>::Item;

/// The stream of partial counts that the source sends.
pub type Counts<'scope, F> =
    StreamVec<'scope, u64, PartialCount<<F as Format>::Key, <F as Format>::Item>>;

/// The values with which an application builds its operators on one worker.
pub struct WorkerContext<K, I> {
    /// The index of the worker among those of all processes.
    pub index: usize,
    /// The restored state of the worker.
    pub restored: RestoredTables<K, I>,
    /// F at the start of the run, Unix milliseconds: every window that ends at or before F is final.
    pub final_until_ms: u64,
    /// The number of backward resets so far.
    pub resets: u64,
    /// The retention of finals in the log, milliseconds; `None` if it is unlimited.
    pub finals_kept_ms: Option<u64>,
    /// The probe whose frontier is the time up to which results are committed.
    pub durable: probe::Handle<u64>,
    /// The worker's timers.
    pub timers: Timers,
    /// The appender of updates, which are not part of a transaction.
    pub appender: Arc<dyn Appender>,
    /// The metrics of the application.
    pub metrics: Metrics,
}

impl<K, I> WorkerContext<K, I> {
    /// Returns the settings of [`tumbling_window`](crate::operators::tumbling::tumbling_window). An update of a key is
    /// sent at most once in `live_interval`; with `None` there are no updates.
    pub fn windows(&self, config: &Config, live_interval: Option<Duration>) -> WindowParams {
        let worker = [self.index.to_string()];
        WindowParams {
            size: config.window,
            live_interval,
            max_step_counts: config.limits.max_step_counts,
            open_windows: self.metrics.open_windows.with_label_values(&worker),
            timers: self.timers.clone(),
        }
    }
}
