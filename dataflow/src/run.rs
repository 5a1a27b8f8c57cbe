//! Runs a dataflow: recovers, starts the workers, steps them until it is stopped.
//!
//! Stopping means not stepping any more: operators are dropped as they are, so no capability goes
//! that would close a window early.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_log::{Appender, Log, Transactor};
use prometheus::Registry;
use timely::{
    CommunicationConfig, WorkerConfig, communication::AllocatorBuilder, dataflow::operators::probe,
    execute::execute_from, worker::Worker,
};

use crate::{
    Config, DataflowError, Ready, Stop,
    clock::GroupClock,
    cluster::{Agreement, Cluster, Group, Pulse, SharedBeginning},
    commit::{Committer, Wakeup},
    metrics::Metrics,
    partition::{PartitionReading, Rules},
    progress::{Former, PartitionProgress},
    recovery::{self, RecoveredTotals, RecoveredTrending},
    sink::{QUIET_COMMIT, SinkStart},
    source::{SourceBell, SourceStart},
    topology::{self, Parts},
};

/// How long a worker sleeps at most before it looks whether it should stop.
const PARK: Duration = Duration::from_millis(100);

/// A live tally that was not acknowledged by then is worth nothing.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the lag is measured, and new partitions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until `stop` is requested (`Ok`) or it cannot go on (`Err`). Blocks: give it a thread.
pub fn run(
    config: Config,
    log: Arc<dyn Log>,
    registry: &Registry,
    stop: Stop,
    ready: Ready,
) -> Result<(), DataflowError> {
    let metrics = Metrics::register(registry)
        .map_err(|error| DataflowError::Worker(format!("metrics: {error}")))?;
    let pulse = Pulse::new(config.workers);
    let join = |cluster: Cluster| {
        let agreement = Agreement::of(&config, cluster.hosts.len());
        Group::join(cluster, agreement, pulse.clone(), stop.clone())
    };
    let group = config.cluster.clone().map(join).transpose()?.map(Arc::new);
    let counted = count(config, log, metrics, pulse, &stop, &ready, group.as_ref());
    if let Err(error) = counted {
        stop.fail(error);
    }
    ready(Err("stopped".to_owned()));
    // Also where it ended without being asked to, the others must hear of it.
    stop.request();
    if let Some(group) = group {
        group.wait_for_goodbye();
    }
    stop.why_failed().map_or(Ok(()), Err)
}

/// From the beginning, once everybody is there, to the stop.
fn count(
    config: Config,
    log: Arc<dyn Log>,
    metrics: Metrics,
    pulse: Pulse,
    stop: &Stop,
    ready: &Ready,
    group: Option<&Arc<Group>>,
) -> Result<(), DataflowError> {
    if let Some(group) = group.filter(|group| group.leads()) {
        ready(Err(
            "waiting for the other processes of the cluster".to_owned()
        ));
        if !group.complete() {
            return Ok(());
        }
    }
    let (mut transactor, mut totals, mut trending, mut found) = (None, None, None, None);
    if group.is_none_or(|group| group.leads()) {
        ready(Err("reading where the last run got to".to_owned()));
        let beginning = recovery::recover(&config, &*log)?;
        transactor = Some(beginning.transactor);
        totals = Some(beginning.totals);
        trending = Some(beginning.trending);
        found = Some(SharedBeginning {
            final_until_ms: beginning.final_until_ms,
            partitions: beginning.partitions,
            formers: beginning.formers,
        });
    } else {
        ready(Err(
            "waiting for process 0 of the cluster to begin".to_owned()
        ));
    }
    let begun = match (group, found) {
        (Some(group), found) => group.begin(found, config.workers)?,
        (None, Some(found)) => Some((found, allocators(config.workers)?)),
        (None, None) => None,
    };
    let Some((beginning, allocators)) = begun else {
        return Ok(());
    };
    let appender = log.appender(LIVE_TIMEOUT).map_err(DataflowError::Start)?;
    tracing::info!(
        partitions = beginning.partitions.len(),
        final_until_ms = beginning.final_until_ms,
        workers = config.workers,
        "counting"
    );
    let positions = beginning.partitions.iter();
    let positions = positions.map(|p| AtomicU64::new(p.resume_offset));
    let run = Arc::new(Run {
        transactor: Mutex::new(transactor),
        totals: Mutex::new(totals),
        trending: Mutex::new(trending),
        appender: Arc::from(appender),
        positions: Arc::new(positions.collect()),
        config,
        log,
        metrics,
        group: group.cloned(),
        pulse,
        stop: stop.clone(),
        ready: ready.clone(),
        reading: AtomicUsize::new(0),
        final_until_ms: beginning.final_until_ms,
        partitions: beginning.partitions,
        formers: beginning.formers,
    });
    Run::workers(&run, allocators)
}

/// Timely's allocators for the workers of one process alone.
fn allocators(workers: usize) -> Result<Vec<AllocatorBuilder>, DataflowError> {
    let communication = match workers {
        0 | 1 => CommunicationConfig::Thread,
        workers => CommunicationConfig::Process(workers),
    };
    let (allocators, _) = communication.try_build().map_err(DataflowError::Worker)?;
    Ok(allocators)
}

/// What all workers share.
struct Run {
    config: Config,
    log: Arc<dyn Log>,
    metrics: Metrics,
    group: Option<Arc<Group>>,
    pulse: Pulse,
    stop: Stop,
    ready: Ready,
    /// How many workers of this process have begun to read.
    reading: AtomicUsize,
    final_until_ms: u64,
    partitions: Vec<PartitionProgress>,
    formers: Vec<Former>,
    /// Taken by the first worker.
    transactor: Mutex<Option<Box<dyn Transactor>>>,
    /// Taken by the first worker; differential exchanges them by room.
    totals: Mutex<Option<RecoveredTotals>>,
    /// Taken by the first worker, exchanged by room like the totals.
    trending: Mutex<Option<RecoveredTrending>>,
    appender: Arc<dyn Appender>,
    positions: Arc<Vec<AtomicU64>>,
}

impl Run {
    fn workers(run: &Arc<Run>, allocators: Vec<AllocatorBuilder>) -> Result<(), DataflowError> {
        // Spinning before parking would burn a core for a rate that parks most of the time.
        let config = WorkerConfig::default().idle_spin(Duration::ZERO);
        let shared = run.clone();
        let work = move |worker: &mut Worker| shared.work(worker);
        let guards =
            execute_from(allocators, Box::new(()), config, work).map_err(DataflowError::Worker)?;
        run.look_after();
        for outcome in guards.join() {
            outcome.map_err(DataflowError::Worker)?;
        }
        Ok(())
    }

    /// One worker, until the dataflow stops.
    fn work(&self, worker: &mut Worker) {
        let durable = probe::Handle::new();
        let parts = match self.parts(worker, durable.clone()) {
            Ok(parts) => parts,
            Err(error) => return self.stop.fail(error),
        };
        let dataflow = worker.next_dataflow_index();
        let source = topology::build(worker, &self.config, parts);
        // The first step reads: with the last worker's, every partition of this process is.
        worker.step();
        if self.reading.fetch_add(1, Ordering::AcqRel) + 1 == self.config.workers {
            (self.ready)(Ok(()));
        }
        let mut known = None;
        let local = worker.index() % self.config.workers;
        while !self.stop.is_requested() {
            self.pulse.beat(local);
            worker.step_or_park(Some(PARK));
            let frontier = durable.with_frontier(|f| f.first().copied());
            if frontier != known {
                // A partition that was too far ahead of what is durable may go on.
                known = frontier;
                source.activate();
            }
        }
        worker.drop_dataflow(dataflow);
        // A worker that ends closes its connections.
        if let Some(group) = &self.group {
            group.wait_for_goodbye();
        }
    }

    fn parts(&self, worker: &Worker, durable: probe::Handle<u64>) -> Result<Parts, DataflowError> {
        let config = &self.config;
        let rules = Rules {
            size: config.window,
            lateness_ms: config.lateness_ms,
            emojis: config.emojis.clone(),
        };
        let own: Vec<&PartitionProgress> = self
            .partitions
            .iter()
            .filter(|p| p.partition as usize % worker.peers() == worker.index())
            .collect();
        let from: Vec<(u32, u64)> = own.iter().map(|p| (p.partition, p.resume_offset)).collect();
        let bell = SourceBell::default();
        let topic = config.topics.reactions();
        let reader = self
            .log
            .reader(&topic, &from, bell.wake())
            .map_err(DataflowError::Start)?;
        let watermarks = self
            .partitions
            .iter()
            .map(|p| (p.partition, p.resume_watermark_ms));
        let group = GroupClock::new(
            config.window,
            own.iter().map(|p| p.partition).collect(),
            watermarks,
        );
        let resume = |p: &&PartitionProgress| {
            PartitionReading::resume(p, self.final_until_ms, &self.formers, &rules)
        };
        let source = SourceStart {
            partitions: own.iter().map(resume).collect(),
            group,
            reader,
            bell,
            final_until_ms: self.final_until_ms,
            rules: rules.clone(),
            idle_timeout: config.idle_timeout,
            durable,
            positions: self.positions.clone(),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
        };
        let sink = SinkStart {
            topics: config.topics.clone(),
            settings: config.settings(),
            formers: self.formers.clone(),
            final_until_ms: self.final_until_ms,
            partitions: self.partitions.clone(),
            window_ms: config.window.as_ms(),
            quiet: QUIET_COMMIT,
            metrics: self.metrics.clone(),
        };
        let (metrics, stop) = (self.metrics.clone(), self.stop.clone());
        let first = worker.index() == 0;
        let transactor = first.then(|| take(&self.transactor)).flatten();
        Ok(Parts {
            source,
            sink,
            committer: Box::new(move |wake| start_committer(transactor?, wake, metrics, stop)),
            totals: first
                .then(|| take(&self.totals))
                .flatten()
                .unwrap_or_default(),
            trending: first
                .then(|| take(&self.trending))
                .flatten()
                .unwrap_or_default(),
            appender: self.appender.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// Measures how far reading is behind the log, and looks for new partitions, until the dataflow
    /// stops.
    fn look_after(&self) {
        let mut next = Instant::now();
        while !self.stop.is_requested() {
            if Instant::now() >= next {
                next = Instant::now() + LOOK_EVERY;
                self.measure_lag();
                self.look_for_partitions();
            }
            std::thread::sleep(PARK);
        }
    }

    fn measure_lag(&self) {
        let topic = self.config.topics.reactions();
        for (partition, position) in (0..).zip(self.positions.iter()) {
            // A log that is away takes seconds to say so, for each partition.
            if self.stop.is_requested() {
                return;
            }
            if !self.is_read_here(partition) {
                continue;
            }
            if let Ok(kept) = self.log.offsets(&topic, partition) {
                let lag = kept.end.saturating_sub(position.load(Ordering::Relaxed));
                let label = [partition.to_string()];
                self.metrics.lag.with_label_values(&label).set(lag as i64);
            }
        }
    }

    fn is_read_here(&self, partition: u32) -> bool {
        let cluster = self.config.cluster.as_ref();
        let (index, processes) = cluster.map_or((0, 1), |c| (c.index, c.hosts.len()));
        let workers = self.config.workers;
        partition as usize % (workers * processes) / workers == index
    }

    /// A run reads the partitions that it began with: new ones want a new run.
    fn look_for_partitions(&self) {
        let leads = self.is_read_here(0);
        if !leads || self.stop.is_requested() {
            return;
        }
        let topic = self.config.topics.reactions();
        let before = self.partitions.len() as u32;
        match self.log.partitions(&topic) {
            Ok(now) if now > before => {
                self.stop
                    .fail(DataflowError::NewPartitions { topic, before, now });
            }
            // Fewer, or no topic at all: the readers find out.
            Ok(_) | Err(_) => {}
        }
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn start_committer(
    transactor: Box<dyn Transactor>,
    wake: Wakeup,
    metrics: Metrics,
    stop: Stop,
) -> Option<Committer> {
    let started = Committer::start(transactor, wake, metrics, stop.clone());
    started
        .inspect_err(|error| stop.fail(DataflowError::Worker(format!("commit thread: {error}"))))
        .ok()
}
