//! The worker of a run, which builds the dataflow graph and takes steps.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use emostream_log::{Appender, GroupOffsets, Log};
use timely::{
    dataflow::operators::{
        Concat, ConnectLoop, Feedback,
        probe::{self, Probe},
        vec::{Broadcast, Map},
    },
    scheduling::Activator,
    worker::Worker,
};

use crate::{
    Stop, StreamsError,
    metrics::Metrics,
    progress::record::{PartitionProgress, Progress},
    recovery::restore::RestoredTables,
    sink::{
        commit::StartCommitter,
        operator::{SinkContext, commit},
        result::ResultStreams,
    },
    source::{
        end_offsets::StartRequests,
        format::Format,
        operator::{SourceContext, SourceFeedback, SourceStreams, SourceWaker, source},
        partition::{PartitionReading, Rules},
    },
    time::{
        clock::GroupClock,
        holds::Holds,
        timers::{Clock, Timers},
    },
    topology::{Application, WorkerContext},
};

/// The context of a run: the values that the workers of a process share.
pub struct RunContext<F: Format> {
    /// The application.
    pub app: Application<F>,
    /// The log that the workers read.
    pub log: Arc<dyn Log>,
    /// The clock of the operators.
    pub clock: Arc<dyn Clock>,
    /// The metrics of the application.
    pub metrics: Metrics,
    /// Stops the run, and records a failure.
    pub stop: Stop,
    /// The progress of this run before its first commit. Only process 0 has the fields that only the sink needs.
    pub progress: Progress,
    /// The final-until time as it was stored, which only the sink needs. After a reset it may lie within a window, and
    /// the final-until time of `progress` is the end of that window.
    pub stored_until_ms: u64,
    /// The retention of finals in the log, milliseconds; `None` if it is unlimited.
    pub finals_kept_ms: Option<u64>,
    /// Creates the requester of end offsets for a worker.
    pub end_offsets: StartRequests,
    /// The partitions that are held or behind.
    pub holds: Arc<Holds>,
    /// The values for worker 0 of the run. Worker 0 removes them when it starts.
    pub leader: Mutex<Option<LeaderState>>,
    /// The restored tables of each worker of this process.
    pub restored: Mutex<Vec<RestoredTables<F::Key, F::Item>>>,
    /// The appender of updates, which are not part of a transaction.
    pub appender: Arc<dyn Appender>,
    /// The next offset that the source reads from each partition.
    pub positions: Arc<Vec<AtomicU64>>,
}

/// The values that only worker 0 of the run has, since only its sink commits.
pub struct LeaderState {
    /// Creates the committer.
    pub committer: StartCommitter,
    /// Publishes the read offsets for tools that show lag; `None` if the log has no consumer groups.
    pub group_offsets: Option<Box<dyn GroupOffsets>>,
    /// The end offset of each partition of the finals at the start of the run.
    pub final_ends: Vec<(u32, u64)>,
}

/// A worker of a run, with its dataflow graph.
pub struct DataflowWorker {
    timers: Timers,
    durable: probe::Handle<u64>,
    /// The durable frontier after the last step.
    known_until: Option<u64>,
    source: Activator,
    dataflow: usize,
    metrics: Metrics,
}

impl DataflowWorker {
    /// Builds the dataflow graph on the worker.
    pub fn start<F: Format>(
        worker: &mut Worker,
        shared: &Arc<RunContext<F>>,
    ) -> Result<DataflowWorker, StreamsError> {
        let timers = Timers::new(shared.clock.clone());
        let durable = probe::Handle::new();
        let reading = reading(shared, worker, &timers, durable.clone())?;
        let dataflow = worker.next_dataflow_index();
        let source = build(worker, shared, reading, &timers, &durable);
        Ok(DataflowWorker {
            timers,
            durable,
            known_until: None,
            source,
            dataflow,
            metrics: shared.metrics.clone(),
        })
    }

    /// Takes one step. If no operator is active, the worker first parks for up to `limit`.
    pub fn step(&mut self, worker: &mut Worker, limit: Duration) {
        let next = self.timers.fire_due();
        worker.step_or_park(Some(next.map_or(limit, |next| next.min(limit))));
        let frontier = self.durable.with_frontier(|f| f.first().copied());
        if frontier != self.known_until {
            // The source is activated, since it may now read partitions that were too far ahead of the durable
            // frontier.
            self.known_until = frontier;
            self.metrics.final_until(frontier.unwrap_or_default());
            self.source.activate();
        }
    }

    /// Returns the durable frontier as of the last step.
    #[cfg(any(test, feature = "simulation"))]
    pub fn durable_until_ms(&self) -> Option<u64> {
        self.known_until
    }

    /// Drops the graph without another step, so that no window closes early because an operator dropped its capability.
    pub fn end(self, worker: &mut Worker) {
        worker.drop_dataflow(self.dataflow);
    }
}

/// Builds the dataflow graph on one worker, and returns the activator of its source. The frontier of the probe
/// `durable` becomes the durable frontier.
///
/// ```text
///  source ─▶ operators of the application ─▶ commit ─▶ durable
///   ▲  └────rejected records, marks────────────▲ │
///   └──statuses of partitions, durable rejections
/// ```
fn build<F: Format>(
    worker: &mut Worker,
    shared: &Arc<RunContext<F>>,
    reading: SourceContext<F>,
    timers: &Timers,
    durable: &probe::Handle<u64>,
) -> Activator {
    let config = shared.app.config();
    let leader = match worker.index() {
        0 => shared
            .leader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
        _ => None,
    };
    let leader = leader.unwrap_or_else(|| LeaderState {
        committer: Box::new(|_| None),
        group_offsets: None,
        final_ends: Vec::new(),
    });
    let sink = SinkContext {
        topics: config.topics.clone(),
        progress: shared.progress.clone(),
        stored_until_ms: shared.stored_until_ms,
        window: config.window,
        heartbeat: config.run.heartbeat,
        span_ms: config.span_ms,
        window_ends: leader.final_ends,
        timers: timers.clone(),
        max_unwritten_bytes: config.run.limits.max_unwritten_bytes,
        metrics: shared.metrics.clone(),
        group_offsets: leader.group_offsets,
    };
    let context = WorkerContext {
        index: worker.index(),
        restored: own_tables(shared, worker.index() % config.run.workers),
        final_until_ms: shared.progress.final_until_ms,
        resets: shared.progress.resets.number,
        finals_kept_ms: shared.finals_kept_ms,
        durable: durable.clone(),
        timers: timers.clone(),
        appender: shared.appender.clone(),
        metrics: shared.metrics.clone(),
    };
    worker.dataflow_named("streams", |scope| {
        let (sent, received) = scope.feedback(1);
        let SourceStreams {
            counts,
            notices,
            updates,
            activator,
        } = source(scope, received, reading);
        let mut results = ResultStreams::default();
        shared.app.build(counts, context, &mut results);
        let written = commit(results, notices, sink, leader.committer).probe_with(durable);
        let feedback = updates
            .map(SourceFeedback::Partition)
            .concat(written.map(SourceFeedback::RejectionsCommitted));
        feedback.broadcast().connect_loop(sent);
        activator
    })
}

/// Removes and returns the restored tables of a worker of this process.
fn own_tables<F: Format>(shared: &RunContext<F>, worker: usize) -> RestoredTables<F::Key, F::Item> {
    let mut restored = shared
        .restored
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    restored
        .get_mut(worker)
        .map(std::mem::take)
        .unwrap_or_default()
}

/// Returns the values with which the source of a worker reads its share of the partitions.
fn reading<F: Format>(
    shared: &Arc<RunContext<F>>,
    worker: &Worker,
    timers: &Timers,
    durable: probe::Handle<u64>,
) -> Result<SourceContext<F>, StreamsError> {
    let config = shared.app.config();
    let rules = Rules {
        size: config.window,
        lateness_ms: config.run.lateness_ms,
        format: shared.app.format(),
    };
    let Progress {
        final_until_ms,
        partitions,
        prior_epochs,
        ..
    } = &shared.progress;
    let all = partitions.iter();
    let own: Vec<&PartitionProgress> = all
        .clone()
        .filter(|p| p.partition as usize % worker.peers() == worker.index())
        .collect();
    own.iter().for_each(|it| shared.holds.begin(it.partition));
    let from: Vec<(u32, u64)> = own.iter().map(|p| (p.partition, p.resume_offset)).collect();
    let waker = SourceWaker::default();
    let reader = shared
        .log
        .reader(&config.topics.source, &from, waker.wake())
        .map_err(StreamsError::Start)?;
    let resume =
        |p: &&PartitionProgress| PartitionReading::resume(p, *final_until_ms, prior_epochs, &rules);
    let idle = own.iter().filter(|p| p.idle);
    Ok(SourceContext {
        partitions: own.iter().map(resume).collect(),
        idle: idle.map(|p| p.partition).collect(),
        group: GroupClock::new(
            config.window,
            config.run.lateness_ms,
            own.iter().map(|p| p.partition).collect(),
            all.map(|p| (p.partition, p.resume_watermark_ms)),
        ),
        reader,
        end_offsets: (shared.end_offsets)(waker.wake()),
        waker,
        final_until_ms: *final_until_ms,
        rules,
        timeouts: config.timeouts(),
        holds: shared.holds.clone(),
        timers: timers.clone(),
        durable,
        positions: shared.positions.clone(),
        max_unwritten_bytes: config.run.limits.max_unwritten_bytes,
        metrics: shared.metrics.clone(),
        stop: shared.stop.clone(),
    })
}
