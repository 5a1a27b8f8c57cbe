//! What the engine runs.

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

/// An application: how it reads, what it computes, and what it writes.
pub trait Application: Clone + Send + Sync + 'static {
    /// How the records of the source become events.
    type Format: Format;
    /// What is written in transactions.
    type Result: SinkResult + Send;
    /// What a worker begins with besides the progress: its tables as of F.
    type State: Default + Send + 'static;

    /// What it runs with.
    fn config(&self) -> &Config;

    /// The names of its metrics.
    fn metrics(&self) -> MetricNames;

    /// How the records of the source become events.
    fn format(&self) -> Self::Format;

    /// What results become records by, after so many backward resets.
    fn encoder(&self, resets: u64) -> <Self::Result as SinkResult>::Encoder;

    /// Reads what the workers of this process begin with, once every older run is fenced: as of `stored`, with F at
    /// `final_until_ms`, which may be greater than the stored one.
    fn restore(
        &self,
        log: &dyn Log,
        stored: &Progress,
        final_until_ms: u64,
    ) -> Result<Restored<Self::State>, StreamsError>;

    /// Builds what computes the results of the partial counts, on one worker.
    fn build<'scope>(
        &self,
        counts: Counts<'scope, Self::Format>,
        worker: WorkerContext<Self::State>,
    ) -> StreamVec<'scope, u64, Outcome<Self::Result>>;
}

/// The counts of events, as they were made where records were read.
pub type Counts<'scope, F> =
    StreamVec<'scope, u64, PartialCount<<F as Format>::Key, <F as Format>::Item>>;

/// What the workers of a process begin with.
pub struct Restored<S> {
    /// Of each worker.
    pub workers: Vec<S>,
    /// Where each partition of the finals ends.
    pub final_ends: Vec<(u32, u64)>,
}

/// What a worker's part of the graph is built with.
pub struct WorkerContext<S> {
    /// What it begins with.
    pub state: S,
    /// F at the beginning, Unix milliseconds.
    pub final_until_ms: u64,
    /// The number of backward resets so far.
    pub resets: u64,
    /// How long the log keeps finals, milliseconds; `None` for ever.
    pub finals_kept_ms: Option<u64>,
    /// The probe of committed results.
    pub durable: probe::Handle<u64>,
    /// The worker's timers.
    pub timers: Timers,
    /// Writes updates.
    pub appender: Arc<dyn Appender>,
    /// What to count.
    pub metrics: Metrics,
}
