//! Runs a dataflow: recovers, starts the workers, steps them until it is stopped.
//!
//! Stopping means not stepping any more: operators are dropped as they are, so no capability goes
//! that would close a window early.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emostream_log::Log;
use prometheus::Registry;
use timely::{
    CommunicationConfig, WorkerConfig, communication::AllocatorBuilder, execute::execute_from,
    worker::Worker,
};

use crate::{
    Config, DataflowError, Ready, Stop,
    cluster::{Agreement, Cluster, Group, SharedBeginning},
    commit::{Commit, CommitThread, Committing, StartCommitter, Wakeup},
    end_offsets::{RequestThreads, StartRequests},
    holds::Holds,
    metrics::Metrics,
    recovery::{self, Beginning},
    timers::MachineClock,
    watchdog::{WORKER_PATIENCE, Watchdog, WorkerHeartbeats},
    worker::{Counting, First, Shared},
};

/// How long a worker sleeps at most before it looks whether it should stop.
const PARK: Duration = Duration::from_millis(100);

/// A live tally that was not acknowledged by then is worth nothing.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the lag is measured, and new partitions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long brokers may take to tell the ends of partitions: a stop waits for them.
const LAG_PATIENCE: Duration = Duration::from_secs(2);

/// How often it looks whether its workers have ended.
const END_LOOK: Duration = Duration::from_millis(5);

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
    let join = |cluster: Cluster| {
        let agreement = Agreement::of(&config, cluster.hosts.len(), log.cluster_id());
        Group::join(cluster, agreement, stop.clone())
    };
    let group = config.cluster.clone().map(join).transpose()?.map(Arc::new);
    let counted = count(config, log, metrics, &stop, &ready, group.as_ref());
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
    let topic = config.topics.reactions();
    let holds = Arc::new(Holds::new(topic.clone(), metrics.clone()));
    let (mut first, mut found) = (None, None);
    if group.is_none_or(|group| group.leads()) {
        ready(Err("reading where the last run got to".to_owned()));
        let Beginning {
            transactor,
            newest,
            progress,
            totals,
            trending,
        } = recovery::recover(&config, &*log)?;
        let committing = Committing {
            transactor,
            log: log.clone(),
            recording: config.recording(progress.resets.number),
            timeout: config.commit_timeout,
            newest,
            holds: holds.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        first = Some(First {
            committer: commit_thread(committing),
            group_offsets: log
                .group_offsets(
                    &recovery::consumer_group(&config.topics),
                    &config.topics.reactions(),
                )
                .map_err(DataflowError::Start)?,
            totals,
            trending,
        });
        found = Some(progress);
    } else {
        ready(Err(
            "waiting for process 0 of the cluster to begin".to_owned()
        ));
    }
    let begun = match (group, found) {
        (Some(group), found) => {
            let shared = found.as_ref().map(SharedBeginning::of);
            let begun = group.begin(shared, config.workers)?;
            // Process 0 knows more than it shares.
            begun.map(|(shared, allocators)| (found.unwrap_or(shared.into()), allocators))
        }
        (None, Some(found)) => Some((found, allocators(config.workers)?)),
        (None, None) => None,
    };
    let Some((progress, allocators)) = begun else {
        return Ok(());
    };
    let appender = log.appender(LIVE_TIMEOUT).map_err(DataflowError::Start)?;
    tracing::info!(
        partitions = progress.partitions.len(),
        final_until_ms = progress.final_until_ms,
        workers = config.workers,
        "counting"
    );
    let positions = progress.partitions.iter();
    let positions = positions.map(|p| AtomicU64::new(p.resume_offset));
    let of_log = log.clone();
    let end_offsets: StartRequests =
        Box::new(move |wake| Box::new(RequestThreads::new(of_log.clone(), topic.clone(), wake)));
    let run = Arc::new(Run {
        heartbeats: WorkerHeartbeats::new(config.workers),
        shared: Arc::new(Shared {
            clock: Arc::new(MachineClock(config.clock.clone())),
            config,
            log,
            metrics,
            stop: stop.clone(),
            positions: Arc::new(positions.collect()),
            progress,
            end_offsets,
            holds,
            first: Mutex::new(first),
            appender: Arc::from(appender),
        }),
        group: group.cloned(),
        ready: ready.clone(),
        reading: AtomicUsize::new(0),
    });
    Run::workers(&run, allocators)
}

fn commit_thread(committing: Committing) -> StartCommitter {
    Box::new(move |wake: Wakeup| {
        let stop = committing.stop.clone();
        let started = CommitThread::start(committing, wake);
        let started = started.map(|thread| Box::new(thread) as Box<dyn Commit>);
        started
            .inspect_err(|error| {
                stop.fail(DataflowError::Worker(format!("commit thread: {error}")))
            })
            .ok()
    })
}

/// Timely's allocators for the workers of one process alone.
pub(crate) fn allocators(workers: usize) -> Result<Vec<AllocatorBuilder>, DataflowError> {
    let communication = match workers {
        0 | 1 => CommunicationConfig::Thread,
        workers => CommunicationConfig::Process(workers),
    };
    let (allocators, _) = communication.try_build().map_err(DataflowError::Worker)?;
    Ok(allocators)
}

/// A process' part in counting.
struct Run {
    shared: Arc<Shared>,
    group: Option<Arc<Group>>,
    heartbeats: WorkerHeartbeats,
    ready: Ready,
    /// How many workers of this process have begun to read.
    reading: AtomicUsize,
}

impl Run {
    fn workers(run: &Arc<Run>, allocators: Vec<AllocatorBuilder>) -> Result<(), DataflowError> {
        let watching = run.clone();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watching.watch())
            .map_err(|error| DataflowError::Worker(format!("the watchdog's thread: {error}")))?;
        // Spinning before parking would burn a core for a rate that parks most of the time.
        let config = WorkerConfig::default().idle_spin(Duration::ZERO);
        let this = run.clone();
        let work = move |worker: &mut Worker| this.work(worker);
        let guards =
            execute_from(allocators, Box::new(()), config, work).map_err(DataflowError::Worker)?;
        run.look_after();
        if let Some(worker) = run.left_behind(guards.guards()) {
            run.shared.stop.fail(DataflowError::Stuck { worker });
            // Its thread ends with the process: dropping the guards would wait for it.
            std::mem::forget(guards);
            return Ok(());
        }
        for outcome in guards.join() {
            outcome.map_err(DataflowError::Worker)?;
        }
        Ok(())
    }

    /// A worker that does not end although the dataflow has failed; `None` once all have ended.
    fn left_behind(&self, workers: &[JoinHandle<()>]) -> Option<usize> {
        let until = Instant::now() + WORKER_PATIENCE;
        loop {
            let running = workers.iter().position(|worker| !worker.is_finished())?;
            match self.shared.stop.why_failed() {
                Some(DataflowError::Stuck { .. }) => return Some(running),
                Some(_) if Instant::now() >= until => return Some(running),
                // Whoever has asked it to stop knows how long to wait.
                _ => thread::sleep(END_LOOK),
            }
        }
    }

    /// One worker, until the dataflow stops.
    fn work(&self, worker: &mut Worker) {
        let (stop, workers) = (&self.shared.stop, self.shared.config.workers);
        let mut counting = match Counting::begin(worker, &self.shared) {
            Ok(counting) => counting,
            Err(error) => return stop.fail(error),
        };
        // The first step reads: with the last worker's, every partition of this process is.
        counting.step(worker, Duration::ZERO);
        let local = worker.index() % workers;
        // From now on the watchdog expects another step.
        self.heartbeats.record_step(local);
        if self.reading.fetch_add(1, Ordering::AcqRel) + 1 == workers {
            (self.ready)(Ok(()));
        }
        let mut reported = 0;
        while !stop.is_requested() {
            self.heartbeats.record_step(local);
            counting.step(worker, PARK);
            if local == 0 {
                self.report_holds(&mut reported);
            }
        }
        counting.end(worker);
        // A worker that ends closes its connections.
        if let Some(group) = &self.group {
            group.wait_for_goodbye();
        }
    }

    /// Reports whether partitions are held where that has changed since the `reported` version, once every worker
    /// reads.
    fn report_holds(&self, reported: &mut u64) {
        let (holds, reading) = (&self.shared.holds, self.reading.load(Ordering::Acquire));
        let version = holds.version();
        if version != *reported && reading >= self.shared.config.workers {
            *reported = version;
            (self.ready)(holds.reason().map_or(Ok(()), Err));
        }
    }

    /// Watches the workers until the dataflow stops.
    fn watch(&self) {
        let mut watchdog = Watchdog::new(self.heartbeats.clone(), Instant::now());
        while !self.shared.stop.is_requested() {
            if let Some(worker) = watchdog.stalled_worker(Instant::now()) {
                self.shared.stop.fail(DataflowError::Stuck { worker });
            }
            thread::sleep(PARK);
        }
    }

    /// Measures how far reading is behind the log, and looks for new partitions, until the dataflow
    /// stops.
    fn look_after(&self) {
        let mut next = Instant::now();
        while !self.shared.stop.is_requested() {
            if Instant::now() >= next {
                next = Instant::now() + LOOK_EVERY;
                self.measure_lag();
                self.look_for_partitions();
            }
            thread::sleep(PARK);
        }
    }

    fn measure_lag(&self) {
        let topic = self.shared.config.topics.reactions();
        let Ok(ends) = self.shared.log.high_watermarks(&topic, LAG_PATIENCE) else {
            return;
        };
        let positions = self.shared.positions.iter();
        for (partition, (position, end)) in (0..).zip(positions.zip(ends)) {
            if let Ok(end) = end
                && self.is_read_here(partition)
            {
                let lag = end.saturating_sub(position.load(Ordering::Relaxed));
                let label = [partition.to_string()];
                let lags = &self.shared.metrics.lag;
                lags.with_label_values(&label).set(lag as i64);
            }
        }
    }

    fn is_read_here(&self, partition: u32) -> bool {
        let cluster = self.shared.config.cluster.as_ref();
        let (index, processes) = cluster.map_or((0, 1), |c| (c.index, c.hosts.len()));
        let workers = self.shared.config.workers;
        partition as usize % (workers * processes) / workers == index
    }

    /// A run reads the partitions that it began with: new ones want a new run.
    fn look_for_partitions(&self) {
        let leads = self.is_read_here(0);
        if !leads || self.shared.stop.is_requested() {
            return;
        }
        let topic = self.shared.config.topics.reactions();
        let before = self.shared.progress.partitions.len() as u32;
        match self.shared.log.partitions(&topic) {
            Ok(now) if now > before => {
                self.shared
                    .stop
                    .fail(DataflowError::NewPartitions { topic, before, now });
            }
            // Fewer, or no topic at all: the readers find out.
            Ok(_) | Err(_) => {}
        }
    }
}
