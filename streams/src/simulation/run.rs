//! A run of the real application. Its workers take a step only on request.

#![allow(clippy::disallowed_methods, reason = "this module provides the clock")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use emostream_log::Log;
use prometheus::Registry;
use timely::{WorkerConfig, communication::WorkerGuards, execute::execute_from, worker::Worker};

use super::{T0, log::SimLog};
use crate::{
    Stop, StreamsError,
    metrics::Metrics,
    progress::stored::progress_record,
    recovery::{
        restore::{Restored, restore},
        take_over::take_over,
    },
    runtime::{
        run::allocators,
        worker::{DataflowWorker, LeaderState, RunContext},
    },
    source::{format::Format, partition::reasons},
    time::{holds::Holds, timers::Clock},
    topology::Application,
};

/// A clock that advances only by [`SimClock::advance`].
pub struct SimClock {
    begun: Instant,
    passed_ms: AtomicU64,
}

impl Default for SimClock {
    /// Creates a clock that shows [`T0`].
    fn default() -> SimClock {
        SimClock {
            begun: Instant::now(),
            passed_ms: AtomicU64::new(0),
        }
    }
}

impl SimClock {
    /// Advances the clock.
    pub fn advance(&self, ms: u64) {
        self.passed_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Returns the time since the Unix epoch, milliseconds.
    pub fn unix_ms(&self) -> u64 {
        T0 + self.passed_ms.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.begun + Duration::from_millis(self.passed_ms.load(Ordering::Relaxed))
    }

    fn unix_time(&self) -> Duration {
        Duration::from_millis(self.unix_ms())
    }
}

/// A request to a worker thread.
enum Turn {
    Begin,
    Step,
}

/// A simulated run. Dropping it simulates a crash.
pub struct SimRun {
    /// The number of partitions that the run reads.
    pub partitions: u32,
    /// Reports the partitions that are held or behind.
    pub holds: Arc<Holds>,
    /// Stops the run, and records a failure.
    pub stop: Stop,
    turns: Vec<Sender<Turn>>,
    /// After each step of a worker, receives the durable frontier as the worker knows it.
    answers: Receiver<Option<u64>>,
    threads: Option<WorkerGuards<()>>,
}

impl SimRun {
    /// Recovers the progress and starts the workers. If `silent_at` is set, the run takes over only if no run has
    /// committed: this function returns `None` if the progress topic has another end offset than `silent_at`.
    pub fn begin<F: Format>(
        app: Application<F>,
        log: &SimLog,
        clock: &Arc<SimClock>,
        silent_at: Option<u64>,
    ) -> Result<Option<SimRun>, StreamsError> {
        let Some(taken) = take_over(app.config(), log, silent_at)? else {
            return Ok(None);
        };
        let unchanged = taken.unchanged();
        log.start_heartbeat(progress_record(&app.config().topics, &unchanged));
        let (progress, stored_until_ms) = (taken.progress, taken.stored_until_ms);
        let Restored {
            workers: restored,
            final_ends,
        } = restore(
            app.config(),
            &app.stored(),
            log,
            &unchanged,
            progress.final_until_ms,
        )?;
        let stop = Stop::default();
        let (of_log, of_stop) = (log.clone(), stop.clone());
        let leader = LeaderState {
            committer: Box::new(move |wake| Some(of_log.committer(wake, of_stop))),
            group_offsets: None,
            final_ends,
        };
        let workers = app.config().run.workers;
        let partitions = progress.partitions.len() as u32;
        let metrics =
            Metrics::register(&Registry::new(), app.metrics_prefix(), &reasons::<F>()).unwrap();
        let holds = Arc::new(Holds::new(
            app.config().topics.source.clone(),
            metrics.clone(),
        ));
        let of_log = log.clone();
        let shared = Arc::new(RunContext {
            app,
            log: Arc::new(log.clone()),
            clock: clock.clone(),
            metrics,
            stop: stop.clone(),
            positions: Arc::new((0..partitions).map(|_| AtomicU64::new(0)).collect()),
            progress,
            stored_until_ms,
            finals_kept_ms: None,
            end_offsets: Box::new(move |wake| of_log.requests(wake)),
            holds: holds.clone(),
            leader: Mutex::new(Some(leader)),
            restored: Mutex::new(restored),
            appender: Arc::from(log.appender(Duration::ZERO).unwrap()),
        });
        let (answer, answers) = channel();
        let (turns, taken): (Vec<_>, Vec<_>) = (0..workers).map(|_| channel()).unzip();
        let taken: Mutex<Vec<Option<Receiver<Turn>>>> =
            Mutex::new(taken.into_iter().map(Some).collect());
        let work = move |worker: &mut Worker| {
            let turns = taken.lock().unwrap()[worker.index()].take().unwrap();
            run_turns(worker, &shared, &turns, &answer);
        };
        let config = WorkerConfig::default().idle_spin(Duration::ZERO);
        let threads = execute_from(allocators(workers)?, Box::new(()), config, work);
        let run = SimRun {
            partitions,
            holds,
            stop,
            turns,
            answers,
            threads: Some(threads.map_err(StreamsError::Worker)?),
        };
        for worker in 0..workers {
            run.turn(worker, Turn::Begin);
        }
        Ok(Some(run))
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.turns.len()
    }

    /// Makes a worker take a step. Returns the durable frontier as that worker knows it.
    pub fn step(&self, worker: usize) -> Option<u64> {
        self.turn(worker, Turn::Step)
    }

    fn turn(&self, worker: usize, turn: Turn) -> Option<u64> {
        self.turns[worker].send(turn).expect("the worker lives");
        self.answers.recv().expect("the worker did not panic")
    }

    /// Returns the error with which the run has failed, if it has.
    pub fn failure(&self) -> Option<StreamsError> {
        self.stop.why_failed()
    }
}

impl Drop for SimRun {
    /// Ends the run as `kill -9` does, so that it reads and writes nothing more.
    fn drop(&mut self) {
        self.turns.clear();
        if let Some(threads) = self.threads.take() {
            for ended in threads.join() {
                if !std::thread::panicking() {
                    ended.unwrap();
                }
            }
        }
    }
}

fn run_turns<F: Format>(
    worker: &mut Worker,
    shared: &Arc<RunContext<F>>,
    turns: &Receiver<Turn>,
    answer: &Sender<Option<u64>>,
) {
    let mut dataflow: Option<DataflowWorker> = None;
    for turn in turns {
        let durable_until_ms = match (turn, &mut dataflow) {
            (Turn::Begin, dataflow) => {
                *dataflow = Some(DataflowWorker::start(worker, shared).unwrap());
                None
            }
            (Turn::Step, Some(dataflow)) => {
                dataflow.step(worker, Duration::ZERO);
                dataflow.durable_until_ms()
            }
            (Turn::Step, None) => None,
        };
        if answer.send(durable_until_ms).is_err() {
            break;
        }
    }
    if let Some(dataflow) = dataflow {
        dataflow.end(worker);
    }
}
