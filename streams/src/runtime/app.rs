//! The trait of an application, and the values that the engine passes to it.

use std::sync::Arc;

use emostream_log::{Appender, Log};
use timely::dataflow::{StreamVec, operators::probe};

use crate::{
    StreamsError,
    aggregate::pre_aggregator::PartialCount,
    config::Config,
    metrics::{MetricNames, Metrics},
    progress::record::Progress,
    sink::{operator::Outcome, result::SinkResult},
    source::format::Format,
    time::timers::Timers,
};

/// An application: the format of its source, the operators that compute its results, and the records of these.
pub trait Application: Clone + Send + Sync + 'static {
    /// The format of the records of the source.
    type Format: Format;
    /// A result that is written in a transaction.
    type Result: SinkResult + Send;
    /// The state of a worker at the start of a run, besides the progress: its tables as of F.
    type State: Default + Send + 'static;

    /// Returns the configuration.
    fn config(&self) -> &Config;

    /// Returns the names of the metrics.
    fn metrics(&self) -> MetricNames;

    /// Returns the decoder of the records of the source.
    fn format(&self) -> Self::Format;

    /// Returns the encoder of results, in a run after `resets` backward resets.
    fn encoder(&self, resets: u64) -> <Self::Result as SinkResult>::Encoder;

    /// Restores the state of the workers of this process from the log, after every older run was fenced. `stored` is
    /// the progress of the log. The state is as of `final_until_ms`, which may be greater than the stored F.
    fn restore(
        &self,
        log: &dyn Log,
        stored: &Progress,
        final_until_ms: u64,
    ) -> Result<Restored<Self::State>, StreamsError>;

    /// Builds the operators that compute results from partial counts, on one worker.
    fn build<'scope>(
        &self,
        counts: Counts<'scope, Self::Format>,
        worker: WorkerContext<Self::State>,
    ) -> StreamVec<'scope, u64, Outcome<Self::Result>>;
}

/// The stream of partial counts that the source sends.
pub type Counts<'scope, F> =
    StreamVec<'scope, u64, PartialCount<<F as Format>::Key, <F as Format>::Item>>;

/// The restored state of the workers of a process.
pub struct Restored<S> {
    /// The state of each worker.
    pub workers: Vec<S>,
    /// The end offset of each partition of the finals.
    pub final_ends: Vec<(u32, u64)>,
}

/// The values with which an application builds its operators on one worker.
pub struct WorkerContext<S> {
    /// The restored state of the worker.
    pub state: S,
    /// F at the start of the run, Unix milliseconds.
    pub final_until_ms: u64,
    /// The number of backward resets so far.
    pub resets: u64,
    /// The retention of finals in the log, milliseconds; `None` if it is unlimited.
    pub finals_kept_ms: Option<u64>,
    /// The probe whose frontier is the time up to which results are committed.
    pub durable: probe::Handle<u64>,
    /// The worker's timers.
    pub timers: Timers,
    /// Appends updates, outside transactions.
    pub appender: Arc<dyn Appender>,
    /// The metrics of the application.
    pub metrics: Metrics,
}
