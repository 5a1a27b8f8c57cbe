//! One worker of a run: its part of the graph, and its steps.

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

use super::app::{Application, WorkerContext};
use crate::{
    Stop, StreamsError,
    metrics::Metrics,
    progress::record::{PartitionProgress, Progress},
    sink::{
        commit::StartCommitter,
        operator::{SinkStart, commit},
    },
    source::{
        end_offsets::StartRequests,
        operator::{News, SourceBell, SourceStart, SourceStreams, source},
        partition::{PartitionReading, Rules},
    },
    time::{
        clock::GroupClock,
        holds::Holds,
        timers::{Clock, Timers},
    },
};

/// What the workers of a process share.
pub struct Shared<A: Application> {
    /// What they run.
    pub app: A,
    /// What they read, and write updates to.
    pub log: Arc<dyn Log>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// What to count.
    pub metrics: Metrics,
    /// Where to report a failure.
    pub stop: Stop,
    /// The progress of this run before its first commit; what only the sink needs is process 0's.
    pub progress: Progress,
    /// F as it was stored; only the sink needs it.
    pub stored_until_ms: u64,
    /// How long the log keeps finals, milliseconds; `None` for ever.
    pub finals_kept_ms: Option<u64>,
    /// Starts what requests end offsets of the partitions.
    pub end_offsets: StartRequests,
    /// The partitions that are held or behind.
    pub holds: Arc<Holds>,
    /// For the first worker.
    pub first: Mutex<Option<First<A>>>,
    /// What each worker of this process begins with.
    pub states: Mutex<Vec<A::State>>,
    /// Writes updates.
    pub appender: Arc<dyn Appender>,
    /// Where each partition is read.
    pub positions: Arc<Vec<AtomicU64>>,
}

/// What the first worker of all begins with.
pub struct First<A: Application> {
    /// Starts what commits.
    pub committer: StartCommitter<A::Result>,
    /// Publishes the read offsets for lag tools, if the log has consumer groups.
    pub group_offsets: Option<Box<dyn GroupOffsets>>,
    /// Where each partition of the finals ended.
    pub final_ends: Vec<(u32, u64)>,
}

/// A worker that counts.
pub struct Counting {
    timers: Timers,
    durable: probe::Handle<u64>,
    /// The durable frontier when it was last looked at.
    known_until: Option<u64>,
    source: Activator,
    dataflow: usize,
    metrics: Metrics,
}

impl Counting {
    /// Builds the worker's part of the graph.
    pub fn begin<A: Application>(
        worker: &mut Worker,
        shared: &Arc<Shared<A>>,
    ) -> Result<Counting, StreamsError> {
        let timers = Timers::new(shared.clock.clone());
        let durable = probe::Handle::new();
        let reading = reading(shared, worker, &timers, durable.clone())?;
        let dataflow = worker.next_dataflow_index();
        let source = build(worker, shared, reading, &timers, &durable);
        Ok(Counting {
            timers,
            durable,
            known_until: None,
            source,
            dataflow,
            metrics: shared.metrics.clone(),
        })
    }

    /// Takes one step; with nothing to do it sleeps before, up to `limit`.
    pub fn step(&mut self, worker: &mut Worker, limit: Duration) {
        let next = self.timers.ring();
        worker.step_or_park(Some(next.map_or(limit, |next| next.min(limit))));
        let frontier = self.durable.with_frontier(|f| f.first().copied());
        if frontier != self.known_until {
            // A partition that was too far ahead of what is durable may be read further.
            self.known_until = frontier;
            self.metrics.final_until(frontier.unwrap_or_default());
            self.source.activate();
        }
    }

    /// The durable frontier as of the last step.
    pub fn durable_until_ms(&self) -> Option<u64> {
        self.known_until
    }

    /// Drops the graph as it is, so that no capability goes that would close a window early.
    pub fn end(self, worker: &mut Worker) {
        worker.drop_dataflow(self.dataflow);
    }
}

/// Builds the graph on one worker. The activator runs its source; the probe shows what is durable.
///
/// ```text
///  source ─▶ what the application builds ─▶ commit ─▶ durable
///   ▲  └────rejected records, marks───────────▲ │
///   └──statuses of partitions, durable rejections
/// ```
fn build<A: Application>(
    worker: &mut Worker,
    shared: &Arc<Shared<A>>,
    reading: SourceStart<A::Format>,
    timers: &Timers,
    durable: &probe::Handle<u64>,
) -> Activator {
    let config = shared.app.config();
    let first = match worker.index() {
        0 => shared
            .first
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(),
        _ => None,
    };
    let first = first.unwrap_or_else(|| First {
        committer: Box::new(|_| None),
        group_offsets: None,
        final_ends: Vec::new(),
    });
    let sink = SinkStart {
        topics: config.topics.clone(),
        progress: shared.progress.clone(),
        stored_until_ms: shared.stored_until_ms,
        window: config.window,
        heartbeat: config.heartbeat,
        span_ms: config.span_ms,
        window_ends: first.final_ends,
        timers: timers.clone(),
        max_unwritten_bytes: config.limits.max_unwritten_bytes,
        metrics: shared.metrics.clone(),
        group_offsets: first.group_offsets,
    };
    let context = WorkerContext {
        state: own_state(shared, worker.index() % config.workers),
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
        let outcomes = shared.app.build(counts, context).concat(notices);
        let written = commit(outcomes, sink, first.committer).probe_with(durable);
        let news = updates
            .map(News::Partition)
            .concat(written.map(News::Written));
        news.broadcast().connect_loop(sent);
        activator
    })
}

/// Takes what a worker of this process begins with.
fn own_state<A: Application>(shared: &Shared<A>, worker: usize) -> A::State {
    let mut states = shared.states.lock().unwrap_or_else(PoisonError::into_inner);
    states
        .get_mut(worker)
        .map(std::mem::take)
        .unwrap_or_default()
}

/// How the worker reads its share of the partitions.
fn reading<A: Application>(
    shared: &Arc<Shared<A>>,
    worker: &Worker,
    timers: &Timers,
    durable: probe::Handle<u64>,
) -> Result<SourceStart<A::Format>, StreamsError> {
    let config = shared.app.config();
    let rules = Rules {
        size: config.window,
        lateness_ms: config.lateness_ms,
        format: shared.app.format(),
    };
    let Progress {
        final_until_ms,
        partitions,
        formers,
        ..
    } = &shared.progress;
    let all = partitions.iter();
    let own: Vec<&PartitionProgress> = all
        .clone()
        .filter(|p| p.partition as usize % worker.peers() == worker.index())
        .collect();
    own.iter().for_each(|it| shared.holds.begin(it.partition));
    let from: Vec<(u32, u64)> = own.iter().map(|p| (p.partition, p.resume_offset)).collect();
    let bell = SourceBell::default();
    let reader = shared
        .log
        .reader(&config.topics.source, &from, bell.wake())
        .map_err(StreamsError::Start)?;
    let resume =
        |p: &&PartitionProgress| PartitionReading::resume(p, *final_until_ms, formers, &rules);
    let idle = own.iter().filter(|p| p.idle);
    Ok(SourceStart {
        partitions: own.iter().map(resume).collect(),
        idle: idle.map(|p| p.partition).collect(),
        group: GroupClock::new(
            config.window,
            config.lateness_ms,
            own.iter().map(|p| p.partition).collect(),
            all.map(|p| (p.partition, p.resume_watermark_ms)),
        ),
        reader,
        end_offsets: (shared.end_offsets)(bell.wake()),
        bell,
        final_until_ms: *final_until_ms,
        rules,
        timeouts: config.timeouts(),
        holds: shared.holds.clone(),
        timers: timers.clone(),
        durable,
        positions: shared.positions.clone(),
        max_unwritten_bytes: config.limits.max_unwritten_bytes,
        metrics: shared.metrics.clone(),
        stop: shared.stop.clone(),
    })
}
