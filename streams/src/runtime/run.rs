//! Runs an application: recovers its progress, starts the workers, and steps them until a stop is requested. While
//! another run is active, the process stands by.
//!
//! ```text
//!   turn:  ─▶ (standby: wait) ─▶ take over ─▶ restore ─▶ process ─┬─ stop requested ─▶ end
//!    ▲                                                            ├─ failed ─────────▶ end with an exit code
//!    └──────────────── stand by ◀── fenced ───────────────────────┘
//! ```
//!
//! To stop, the workers take no more steps and drop the operators as they are. If the operators dropped their
//! capabilities while the workers still took steps, windows would close early.

#![allow(
    clippy::disallowed_methods,
    reason = "the threads of a run sleep and read the clock"
)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emostream_log::{Log, LogError};
use prometheus::Registry;
use timely::{
    CommunicationConfig, WorkerConfig, communication::AllocatorBuilder, execute::execute_from,
    worker::Worker,
};

use super::{
    watchdog::{self, WORKER_TIMEOUT, Watchdog, WorkerHeartbeats},
    worker::{DataflowWorker, LeaderState, RunContext},
};
use crate::{
    Stop, StreamsError,
    cluster::{Cluster, Group, SharedBeginning},
    config::Config,
    metrics::Metrics,
    progress::{record::RunIdentity, stored::progress_record},
    recovery::{
        restore::{Restored, restore},
        take_over, topic_settings,
    },
    sink::commit::{CommitThread, CommitterParams},
    source::{
        end_offsets::{RequestThreads, StartRequests},
        format::Format,
        partition::reasons,
    },
    standby::Standby,
    time::{holds::Holds, timers::MachineClock},
    topology::Application,
};

/// The activity of a process that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activity {
    /// The process is part of the active run, which reads and commits.
    Active,
    /// The process waits until the active run has ended. Contains a description of that run for messages.
    Standby(String),
}

/// A callback for the readiness of the process: `Ok` while it is active or stands by, `Err` with the reason while it is
/// not ready.
pub type Ready = Arc<dyn Fn(Result<Activity, String>) + Send + Sync>;

/// Maximum time that a worker sleeps before it checks whether a stop is requested.
const PARK: Duration = Duration::from_millis(100);

/// Timeout for writing an update. After this time a newer update has replaced it.
const LIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval at which the lag is measured, and the number of partitions is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Timeout of requests for end offsets. It is short, since a stop waits for the request.
const LAG_TIMEOUT: Duration = Duration::from_secs(2);

/// The description of the active run as long as a standby does not know which run is active.
const UNKNOWN_ACTIVE: &str = "no active run is known";

/// The reason why a process of a cluster is not ready while process 0 recovers.
const AWAITS_BEGINNING: &str = "waiting for process 0 of the cluster to begin";

/// The exit code of a process that cannot reach Kafka at the start.
const NOT_REACHABLE: u8 = 69;

/// Interval at which the main thread checks whether the workers have ended.
const END_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Runs an application until `stop` is requested. Blocks, so it should have a thread of its own.
///
/// # Errors
///
/// Returns the error because of which the application cannot continue.
pub fn run<F: Format>(
    app: Application<F>,
    log: Arc<dyn Log>,
    registry: &Registry,
    stop: Stop,
    ready: Ready,
) -> Result<(), StreamsError> {
    let metrics = Metrics::register(registry, app.metrics_prefix(), &reasons::<F>())
        .map_err(|error| StreamsError::Worker(format!("metrics: {error}")))?;
    let dataflow = Dataflow {
        app,
        log,
        metrics,
        ready,
    };
    let ended = dataflow.turns(&stop);
    (dataflow.ready)(Err("stopped".to_owned()));
    ended
}

/// The values of a process that do not change when it becomes a standby or part of the active run. The process runs in
/// *turns*: each turn is the wait of a standby, if it is one, and then a run.
struct Dataflow<F: Format> {
    app: Application<F>,
    log: Arc<dyn Log>,
    metrics: Metrics,
    ready: Ready,
}

/// The reason why a process stands by.
#[derive(Debug, Clone)]
enum StandbyCause {
    /// The process was started as a standby.
    StartedAsStandby,
    /// Another run has fenced the run of this process, which ended with this error.
    Fenced(StreamsError),
}

/// The state that a process keeps from one turn (a wait as a standby, then a run) to the next.
#[derive(Debug, Default)]
struct ProcessState {
    /// The reason why the process stands by, if it does.
    standby: Option<StandbyCause>,
    /// The offset of the newest progress record that the process has read when it began to wait or to run. A reset at a
    /// later offset ends the process.
    newest: Option<u64>,
}

impl<F: Format> Dataflow<F> {
    fn config(&self) -> &Config {
        self.app.config()
    }

    fn turns(&self, stop: &Stop) -> Result<(), StreamsError> {
        let leads = self
            .config()
            .run
            .cluster
            .as_ref()
            .is_none_or(|it| it.index == 0);
        let mut state = ProcessState::default();
        // In a cluster only process 0 decides whether the processes stand by.
        if self.config().run.standby && leads {
            // The progress is checked now, so that a standby with wrong flags fails at its start, not when it must take
            // over.
            state.newest = take_over::check(self.config(), &*self.log)?;
            state.standby = Some(StandbyCause::StartedAsStandby);
        }
        loop {
            let turn = stop.child();
            match self.turn(&turn, &mut state) {
                Err(error) if error.is_fence() => {
                    tracing::warn!(
                        "another run has taken over, or the progress was reset: this process becomes a standby"
                    );
                    self.metrics.stand_by();
                    state.standby = Some(StandbyCause::Fenced(error));
                }
                Err(StreamsError::Dissolved { peer }) => {
                    tracing::warn!(
                        "{peer} was fenced by another run: this process joins the cluster again"
                    );
                    self.metrics.stand_by();
                }
                // A standby that loses its cluster does not end, but waits for the cluster: its supervisor might
                // restart it without --standby, and that run would fence the active one.
                Err(error @ (StreamsError::PeerLost { .. } | StreamsError::Incomplete { .. }))
                    if state.standby.is_some() =>
                {
                    tracing::warn!("the standby waits for its cluster: {error}")
                }
                // The port is in use by a new cluster on this host, which was started before this process was fenced.
                // So this process cannot stand by, and ends with the error of the fence.
                Err(StreamsError::Listen { .. })
                    if let Some(StandbyCause::Fenced(error)) = &state.standby =>
                {
                    return Err(error.clone());
                }
                // If a retry may succeed, the standby does not end: it may not have fenced any run yet, and a restart
                // without --standby would fence one.
                Err(StreamsError::Start(error)) if state.standby.is_some() && passes(&error) => {
                    tracing::warn!("the standby cannot take over and continues to wait: {error}");
                }
                ended => return ended,
            }
        }
    }

    /// Runs one turn: stands by if `state` has a reason for it, takes over, and processes records until the end of the
    /// run.
    fn turn(&self, stop: &Stop, state: &mut ProcessState) -> Result<(), StreamsError> {
        let join = |cluster: Cluster| {
            let settings = self
                .config()
                .cluster_settings(cluster.hosts.len(), self.log.cluster_id());
            Group::join(cluster, settings, stop.clone())
        };
        let group = self.config().run.cluster.clone().map(join).transpose()?;
        let group = group.map(Arc::new);
        let ended = self.run_once(stop, group.as_ref(), state);
        self.metrics.active.set(0);
        if let Err(error) = &ended {
            stop.fail(error.clone());
        }
        // The other processes must be notified of the end even if no stop was requested.
        stop.request();
        if let Some(group) = group {
            group.wait_for_shutdown();
        }
        stop.end();
        match ended {
            // The stuck worker thread is still running, so the process cannot begin another turn. It ends with this
            // error even if another one came first.
            Err(StreamsError::Stuck { worker }) => Err(StreamsError::Stuck { worker }),
            _ => stop.why_failed().map_or(Ok(()), Err),
        }
    }

    /// Runs the application once: waits for all processes, takes over, restores, and processes records until the stop.
    fn run_once(
        &self,
        stop: &Stop,
        group: Option<&Arc<Group>>,
        state: &mut ProcessState,
    ) -> Result<(), StreamsError> {
        let (config, log, ready) = (self.config(), &self.log, &self.ready);
        let topics = &config.topics;
        if let Some(group) = group.filter(|group| group.leads()) {
            ready(Err(
                "waiting for the other processes of the cluster".to_owned()
            ));
            if !group.complete() {
                return Ok(());
            }
        }
        let topic = topics.source.clone();
        let holds = Arc::new(Holds::new(topic.clone(), self.metrics.clone()));
        let (mut leader, mut found, mut stored_until_ms) = (None, None, 0);
        let mut restored = Vec::new();
        if group.is_none_or(|group| group.leads()) {
            let Some(taken) = self.take_over(stop, state, group)? else {
                return Ok(());
            };
            let progress = taken.progress.clone();
            stored_until_ms = taken.stored_until_ms;
            let unchanged = taken.unchanged();
            // From now on the commit thread commits the progress at each heartbeat, however long the restore takes.
            let committing = CommitThread::start(CommitterParams {
                transactor: taken.transactor,
                log: log.clone(),
                topics: topics.clone(),
                timeout: config.run.commit_timeout,
                newest: taken.newest,
                progress: progress_record(topics, &unchanged),
                heartbeat: config.run.heartbeat,
                holds: holds.clone(),
                metrics: self.metrics.clone(),
                stop: stop.clone(),
            });
            let committing = committing
                .map_err(|error| StreamsError::Worker(format!("commit thread: {error}")))?;
            // There is no commit thread if another run has fenced this one in the meantime, or if a stop is requested.
            // In both cases nothing is restored.
            let Some(committing) = committing else {
                return Ok(());
            };
            let Restored {
                workers,
                final_ends,
            } = restore(
                config,
                &self.app.stored(),
                &**log,
                &unchanged,
                progress.final_until_ms,
            )?;
            if stop.is_requested() {
                return Ok(());
            }
            restored = workers;
            let topic = topics.source.clone();
            leader = Some(LeaderState {
                committer: Box::new(move |wake| Some(Box::new(committing.attached(wake)))),
                group_offsets: log
                    .group_offsets(&topics.application_id, &topic)
                    .map_err(StreamsError::Start)?,
                final_ends,
            });
            found = Some(progress);
        } else {
            ready(Err(AWAITS_BEGINNING.to_owned()));
        }
        let begun = match (group, found) {
            (Some(group), found) => {
                let shared = found.as_ref().map(SharedBeginning::of);
                let mut report = |active: Option<String>| match active {
                    Some(active) => ready(Ok(Activity::Standby(active))),
                    None => ready(Err(AWAITS_BEGINNING.to_owned())),
                };
                let begun = group.begin(shared, config.run.workers, &mut report)?;
                // Process 0 uses its own progress, which has more fields than the part that it sends to the other
                // processes.
                begun.map(|(shared, allocators)| (found.unwrap_or(shared.into()), allocators))
            }
            (None, Some(found)) => Some((found, allocators(config.run.workers)?)),
            (None, None) => None,
        };
        let Some((progress, allocators)) = begun else {
            return Ok(());
        };
        let finals_kept = topic_settings::finals_kept(config, &**log)?;
        let appender = log.appender(LIVE_TIMEOUT).map_err(StreamsError::Start)?;
        tracing::info!(
            partitions = progress.partitions.len(),
            final_until_ms = progress.final_until_ms,
            workers = config.run.workers,
            "counting"
        );
        let positions = progress.partitions.iter();
        let positions = positions.map(|p| AtomicU64::new(p.resume_offset));
        let of_log = log.clone();
        let end_offsets: StartRequests = Box::new(move |wake| {
            Box::new(RequestThreads::new(of_log.clone(), topic.clone(), wake))
        });
        let run = Arc::new(Run {
            heartbeats: WorkerHeartbeats::new(config.run.workers),
            shared: Arc::new(RunContext {
                clock: Arc::new(MachineClock(config.run.clock.clone())),
                app: self.app.clone(),
                log: log.clone(),
                metrics: self.metrics.clone(),
                stop: stop.clone(),
                positions: Arc::new(positions.collect()),
                progress,
                stored_until_ms,
                finals_kept_ms: finals_kept.map(|kept| kept.as_millis() as u64),
                end_offsets,
                holds,
                leader: Mutex::new(leader),
                restored: Mutex::new(restored),
                appender: Arc::from(appender),
            }),
            group: group.cloned(),
            ready: ready.clone(),
            reading: AtomicUsize::new(0),
        });
        state.standby = None;
        Run::workers(&run, allocators)
    }

    /// Fences every other run. A standby first waits until the active run has ended. Returns `None` if a stop is
    /// requested during the wait.
    fn take_over(
        &self,
        stop: &Stop,
        state: &mut ProcessState,
        group: Option<&Arc<Group>>,
    ) -> Result<Option<take_over::TakenOver>, StreamsError> {
        loop {
            let mut silent_at = None;
            if state.standby.is_some() {
                silent_at = self.stand_by(stop, state, group)?;
                if silent_at.is_none() {
                    return Ok(None);
                }
            }
            (self.ready)(Err("reading the progress of the last run".to_owned()));
            // If another run has committed just before, `take_over` returns `None`, and the standby waits again.
            if let Some(taken) = take_over::take_over(self.config(), &*self.log, silent_at)? {
                state.newest = taken.offset;
                return Ok(Some(taken));
            }
        }
    }

    /// Waits until the active run has ended. Returns the end offset of the progress topic, or `None` if a stop is
    /// requested.
    fn stand_by(
        &self,
        stop: &Stop,
        state: &ProcessState,
        group: Option<&Arc<Group>>,
    ) -> Result<Option<u64>, StreamsError> {
        let fenced = matches!(state.standby, Some(StandbyCause::Fenced(_)));
        let own = self.config().identity();
        // The active run that was reported last.
        let mut shown: Option<Option<RunIdentity>> = None;
        (self.ready)(Ok(Activity::Standby(UNKNOWN_ACTIVE.to_owned())));
        let mut report = |newest: Option<&RunIdentity>| {
            // The first record that a fenced run reads may be from its own last commit, so this record does not name
            // the active run.
            let active = newest.filter(|run| !fenced || **run != own);
            if shown.as_ref() == Some(&active.cloned()) {
                return;
            }
            shown = Some(active.cloned());
            let active = match active {
                Some(run) => format!("the active run is that of {run}"),
                None => UNKNOWN_ACTIVE.to_owned(),
            };
            tracing::info!("standing by: {active}");
            if let Some(group) = group {
                group.stand_by(&active);
            }
            (self.ready)(Ok(Activity::Standby(active)));
        };
        let (config, log) = (self.config().clone(), self.log.clone());
        let silent_at = Standby::new(config, log, state.newest).wait(stop, &mut report)?;
        if silent_at.is_some() {
            let silence = format!("no run has committed for {:?}", self.config().run.takeover);
            match shown.flatten() {
                Some(last) => tracing::warn!("taking over from {last}, since {silence} or longer"),
                None => tracing::info!("becoming the active run, since {silence} or longer"),
            }
        }
        Ok(silent_at)
    }
}

/// Whether a retry may succeed after this failure of a start. The exit code for supervisors follows the same rule.
fn passes(error: &LogError) -> bool {
    StreamsError::Start(error.clone()).exit_code() == NOT_REACHABLE
}

/// Returns timely's allocators for the workers of a single process.
pub fn allocators(workers: usize) -> Result<Vec<AllocatorBuilder>, StreamsError> {
    let communication = match workers {
        0 | 1 => CommunicationConfig::Thread,
        workers => CommunicationConfig::Process(workers),
    };
    let (allocators, _) = communication.try_build().map_err(StreamsError::Worker)?;
    Ok(allocators)
}

/// The part of the active run that is in one process.
struct Run<F: Format> {
    shared: Arc<RunContext<F>>,
    group: Option<Arc<Group>>,
    heartbeats: WorkerHeartbeats,
    ready: Ready,
    /// Number of workers of this process that have begun to read.
    reading: AtomicUsize,
}

impl<F: Format> Run<F> {
    fn workers(run: &Arc<Run<F>>, allocators: Vec<AllocatorBuilder>) -> Result<(), StreamsError> {
        let watching = run.clone();
        thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watching.watch())
            .map_err(|error| {
                StreamsError::Worker(format!("the watchdog's thread cannot start: {error}"))
            })?;
        // A worker does not spin before it parks: at usual rates a worker is parked most of the time, and spinning
        // would use a whole core.
        let config = WorkerConfig::default().idle_spin(Duration::ZERO);
        let this = run.clone();
        let work = move |worker: &mut Worker| this.work(worker);
        let guards =
            execute_from(allocators, Box::new(()), config, work).map_err(StreamsError::Worker)?;
        run.monitor();
        if let Some(worker) = run.running_worker(guards.guards()) {
            // The guards are not dropped, since that would wait for the stuck worker. Its thread ends with the process.
            std::mem::forget(guards);
            return Err(StreamsError::Stuck { worker });
        }
        for outcome in guards.join() {
            outcome.map_err(StreamsError::Worker)?;
        }
        Ok(())
    }

    /// Waits until all workers have ended, then returns `None`. If the run has failed and a worker does not end,
    /// returns the first running worker.
    fn running_worker(&self, workers: &[JoinHandle<()>]) -> Option<usize> {
        let until = Instant::now() + WORKER_TIMEOUT;
        loop {
            let running = workers.iter().position(|worker| !worker.is_finished())?;
            match self.shared.stop.why_failed() {
                Some(StreamsError::Stuck { .. }) => return Some(running),
                Some(_) if Instant::now() >= until => return Some(running),
                // A requested stop has no timeout here; the supervisor of the process has one.
                _ => thread::sleep(END_CHECK_INTERVAL),
            }
        }
    }

    /// Runs one worker until the run stops.
    fn work(&self, worker: &mut Worker) {
        let (stop, workers) = (&self.shared.stop, self.shared.app.config().run.workers);
        let mut dataflow = match DataflowWorker::start(worker, &self.shared) {
            Ok(dataflow) => dataflow,
            Err(error) => return stop.fail(error),
        };
        // The first step of a worker reads its partitions. After the first step of the last worker, every partition of
        // this process has been read once.
        dataflow.step(worker, Duration::ZERO);
        let local = worker.index() % workers;
        // From now on the watchdog expects the worker to take steps.
        self.heartbeats.record_step(local);
        if self.reading.fetch_add(1, Ordering::AcqRel) + 1 == workers {
            self.shared.metrics.active.set(1);
            (self.ready)(Ok(Activity::Active));
        }
        let mut reported = 0;
        while !stop.is_requested() {
            self.heartbeats.record_step(local);
            dataflow.step(worker, PARK);
            if local == 0 {
                self.report_holds(&mut reported);
            }
        }
        dataflow.end(worker);
        // When the worker ends, its connections close. So the other processes must first be notified of the stop.
        if let Some(group) = &self.group {
            group.wait_for_shutdown();
        }
    }

    /// Reports the readiness if held partitions or failing commits have changed since the version `reported`. Does
    /// nothing until all workers read.
    fn report_holds(&self, reported: &mut u64) {
        let (holds, reading) = (&self.shared.holds, self.reading.load(Ordering::Acquire));
        let version = holds.version();
        if version != *reported && reading >= self.shared.app.config().run.workers {
            *reported = version;
            (self.ready)(holds.reason().map_or(Ok(Activity::Active), Err));
        }
    }

    /// Runs the watchdog until the run stops.
    fn watch(&self) {
        let mut watchdog = Watchdog::new(self.heartbeats.clone(), Instant::now());
        while !self.shared.stop.is_requested() {
            if let Some(worker) = watchdog.stalled_worker(Instant::now()) {
                self.shared.stop.fail(StreamsError::Stuck { worker });
            }
            thread::sleep(watchdog::CHECK_INTERVAL);
        }
    }

    /// Measures the lag of the source, and checks for new partitions, until the run stops.
    fn monitor(&self) {
        let mut next = Instant::now();
        while !self.shared.stop.is_requested() {
            if Instant::now() >= next {
                next = Instant::now() + CHECK_INTERVAL;
                self.measure_lag();
                self.check_partitions();
            }
            thread::sleep(PARK);
        }
    }

    fn measure_lag(&self) {
        let topic = self.shared.app.config().topics.source.clone();
        let Ok(ends) = self.shared.log.high_watermarks(&topic, LAG_TIMEOUT) else {
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
        let cluster = self.shared.app.config().run.cluster.as_ref();
        let (index, processes) = cluster.map_or((0, 1), |c| (c.index, c.hosts.len()));
        let workers = self.shared.app.config().run.workers;
        partition as usize % (workers * processes) / workers == index
    }

    /// Stops the run if the source topic has new partitions: a run reads only the partitions with which it began.
    fn check_partitions(&self) {
        let leads = self.is_read_here(0);
        if !leads || self.shared.stop.is_requested() {
            return;
        }
        let topic = self.shared.app.config().topics.source.clone();
        let before = self.shared.progress.partitions.len() as u32;
        match self.shared.log.partitions(&topic) {
            Ok(now) if now > before => {
                self.shared
                    .stop
                    .fail(StreamsError::NewPartitions { topic, before, now });
            }
            // If there are fewer partitions, or the topic does not exist any more, the readers fail, so nothing is done
            // here.
            Ok(_) | Err(_) => {}
        }
    }
}
