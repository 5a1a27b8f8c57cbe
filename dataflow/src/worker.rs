//! One worker of a run: its part of the graph, and its steps.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use emostream_log::{Appender, GroupOffsets, Log};
use timely::{dataflow::operators::probe, scheduling::Activator, worker::Worker};

use crate::{
    Config, DataflowError, Stop,
    clock::GroupClock,
    commit::StartCommitter,
    end_offsets::StartRequests,
    holds::Holds,
    metrics::Metrics,
    partition::{PartitionReading, Rules},
    progress::{PartitionProgress, Progress},
    restoring::RecoveredTrending,
    sink::SinkStart,
    source::{SourceBell, SourceStart},
    timers::{Clock, Timers},
    topology::{self, Parts},
    totals::{RestoredTotals, TotalsRules},
};

/// What the workers of a process share.
pub struct Shared {
    /// What they run with.
    pub config: Config,
    /// What they read, and write live tallies to.
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
    pub first: Mutex<Option<First>>,
    /// The totals as of F, for each worker of this process those that it begins with; differential exchanges them by
    /// room.
    pub totals: Mutex<Vec<Vec<RestoredTotals>>>,
    /// Writes live tallies.
    pub appender: Arc<dyn Appender>,
    /// Where each partition is read.
    pub positions: Arc<Vec<AtomicU64>>,
}

/// What the first worker of all begins with; differential exchanges what was recovered by room.
pub struct First {
    /// Starts what commits.
    pub committer: StartCommitter,
    /// Publishes the read offsets for lag tools, if the log has consumer groups.
    pub group_offsets: Option<Box<dyn GroupOffsets>>,
    /// What lies in the trending span as of F.
    pub trending: RecoveredTrending,
    /// Where each partition of the windows ended.
    pub window_ends: Vec<(u32, u64)>,
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
    pub fn begin(worker: &mut Worker, shared: &Arc<Shared>) -> Result<Counting, DataflowError> {
        let timers = Timers::new(shared.clock.clone());
        let durable = probe::Handle::new();
        let parts = parts(shared, worker, &timers, durable.clone())?;
        let dataflow = worker.next_dataflow_index();
        let source = topology::build(worker, &shared.config, parts);
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
            // A partition that was too far ahead of what is durable may go on.
            self.known_until = frontier;
            self.metrics.final_until(frontier.unwrap_or_default());
            self.source.activate();
        }
    }

    /// The durable frontier as of the last step.
    #[cfg(test)]
    pub fn durable_until_ms(&self) -> Option<u64> {
        self.known_until
    }

    /// Drops the graph as it is, so that no capability goes that would close a window early.
    pub fn end(self, worker: &mut Worker) {
        worker.drop_dataflow(self.dataflow);
    }
}

fn parts(
    shared: &Arc<Shared>,
    worker: &Worker,
    timers: &Timers,
    durable: probe::Handle<u64>,
) -> Result<Parts, DataflowError> {
    let config = &shared.config;
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
        trending: Vec::new(),
        window_ends: Vec::new(),
    });
    Ok(Parts {
        source: reading(shared, worker, timers, durable)?,
        sink: SinkStart {
            topics: config.topics.clone(),
            progress: shared.progress.clone(),
            stored_until_ms: shared.stored_until_ms,
            window: config.window,
            heartbeat: config.heartbeat,
            span_ms: config.span().span_ms,
            window_ends: first.window_ends,
            timers: timers.clone(),
            metrics: shared.metrics.clone(),
            group_offsets: first.group_offsets,
        },
        committer: first.committer,
        totals: own_totals(shared, worker.index() % config.workers),
        totals_rules: TotalsRules {
            size: config.window,
            pace: config.totals_pace,
            retention_ms: config.retention_ms(),
            span_ms: config.span().span_ms,
            finals_kept_ms: shared.finals_kept_ms,
            final_until_ms: shared.progress.final_until_ms,
            resets: shared.progress.resets.number,
            max_step_counts: config.limits.max_step_counts,
        },
        trending: first.trending,
        appender: shared.appender.clone(),
        metrics: shared.metrics.clone(),
    })
}

/// Takes what a worker of this process begins with.
fn own_totals(shared: &Shared, worker: usize) -> Vec<RestoredTotals> {
    let mut totals = shared.totals.lock().unwrap_or_else(PoisonError::into_inner);
    totals
        .get_mut(worker)
        .map(std::mem::take)
        .unwrap_or_default()
}

/// How the worker reads its share of the partitions.
fn reading(
    shared: &Arc<Shared>,
    worker: &Worker,
    timers: &Timers,
    durable: probe::Handle<u64>,
) -> Result<SourceStart, DataflowError> {
    let config = &shared.config;
    let rules = Rules {
        size: config.window,
        lateness_ms: config.lateness_ms,
        emojis: config.emojis.clone(),
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
        .reader(&config.topics.reactions(), &from, bell.wake())
        .map_err(DataflowError::Start)?;
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
        metrics: shared.metrics.clone(),
        stop: shared.stop.clone(),
    })
}
