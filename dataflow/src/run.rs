//! Runs a dataflow: recovers, starts the workers, steps them until it is stopped.
//!
//! Stopping means not stepping any more: operators are dropped as they are, so no capability goes
//! that would close a window early.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_log::{Appender, Log, Transactor};
use prometheus::Registry;
use timely::{CommunicationConfig, WorkerConfig, dataflow::operators::probe, worker::Worker};

use crate::{
    Config, DataflowError, Ready, Stop,
    clock::GroupClock,
    commit::{Committer, Wakeup},
    metrics::Metrics,
    partition::{PartitionReading, Rules},
    progress::{Former, PartitionProgress},
    recovery::{self, Beginning, RecoveredTotals},
    sink::{QUIET_COMMIT, SinkStart},
    source::{SourceBell, SourceStart},
    topology::{self, Parts},
};

/// How long a worker sleeps at most before it looks whether it should stop.
const PARK: Duration = Duration::from_millis(100);

/// A live tally that was not acknowledged by then is worth nothing.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the lag is measured.
const LAG_EVERY: Duration = Duration::from_secs(5);

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
    ready(Err("reading where the last run got to".to_owned()));
    let Beginning {
        transactor,
        final_until_ms,
        partitions,
        formers,
        totals,
    } = recovery::recover(&config, &*log)?;
    let appender = log.appender(LIVE_TIMEOUT).map_err(DataflowError::Start)?;
    tracing::info!(
        partitions = partitions.len(),
        final_until_ms,
        workers = config.workers,
        "counting"
    );
    let positions = partitions.iter().map(|p| AtomicU64::new(p.resume_offset));
    let run = Arc::new(Run {
        transactor: Mutex::new(Some(transactor)),
        totals: Mutex::new(Some(totals)),
        appender: Arc::from(appender),
        positions: Arc::new(positions.collect()),
        config,
        log,
        metrics,
        stop: stop.clone(),
        final_until_ms,
        partitions,
        formers,
    });
    ready(Ok(()));
    let outcome = Run::workers(&run);
    ready(Err("stopped".to_owned()));
    match stop.failure() {
        Some(failure) => Err(failure),
        None => outcome,
    }
}

/// What all workers share.
struct Run {
    config: Config,
    log: Arc<dyn Log>,
    metrics: Metrics,
    stop: Stop,
    final_until_ms: u64,
    partitions: Vec<PartitionProgress>,
    formers: Vec<Former>,
    /// Taken by the first worker.
    transactor: Mutex<Option<Box<dyn Transactor>>>,
    /// Taken by the first worker; differential exchanges them by room.
    totals: Mutex<Option<RecoveredTotals>>,
    appender: Arc<dyn Appender>,
    positions: Arc<Vec<AtomicU64>>,
}

impl Run {
    fn workers(run: &Arc<Run>) -> Result<(), DataflowError> {
        let communication = match run.config.workers {
            0 | 1 => CommunicationConfig::Thread,
            workers => CommunicationConfig::Process(workers),
        };
        let config = timely::Config {
            communication,
            // Spinning before parking would burn a core for a rate that parks most of the time.
            worker: WorkerConfig::default().idle_spin(Duration::ZERO),
        };
        let shared = run.clone();
        let guards = timely::execute(config, move |worker| shared.work(worker))
            .map_err(DataflowError::Worker)?;
        run.measure_lag();
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
        let mut known = None;
        while !self.stop.is_requested() {
            worker.step_or_park(Some(PARK));
            let frontier = durable.with_frontier(|f| f.first().copied());
            if frontier != known {
                // A partition that was too far ahead of what is durable may go on.
                known = frontier;
                source.activate();
            }
        }
        worker.drop_dataflow(dataflow);
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
            appender: self.appender.clone(),
            metrics: self.metrics.clone(),
        })
    }

    /// Measures how far reading is behind the log until the dataflow stops.
    fn measure_lag(&self) {
        let topic = self.config.topics.reactions();
        let mut next = Instant::now();
        while !self.stop.is_requested() {
            if Instant::now() >= next {
                next = Instant::now() + LAG_EVERY;
                for (partition, position) in (0..).zip(self.positions.iter()) {
                    // A log that is away takes seconds to say so, for each partition.
                    if self.stop.is_requested() {
                        return;
                    }
                    if let Ok(kept) = self.log.offsets(&topic, partition) {
                        let lag = kept.end.saturating_sub(position.load(Ordering::Relaxed));
                        let label = [partition.to_string()];
                        self.metrics.lag.with_label_values(&label).set(lag as i64);
                    }
                }
            }
            std::thread::sleep(PARK);
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
