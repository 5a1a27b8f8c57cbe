//! The simulated cluster: its processes, its log, and the random events of one seed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use emostream_log::{Cleanup, LogError, NewRecord, testing::create_topics};
use emostream_model::{Topics, WindowRecord, WindowSize};
use rand::RngExt;

use emostream_streams::{
    simulation::{
        log::{Fault, SimLog},
        run::{SimClock, SimRun},
    },
    standby::Standby,
    time::timers::Clock,
};

use super::{
    LATENESS_MS, PACE, Rng, SPAN_MS, SWARM, T0, TOP, WINDOW_MS,
    oracle::{Oracle, Output, TotalsChecked},
    producers::{Producers, heartbeat, record},
    rng,
};
use crate::{
    Config, EmoStream, Limits, RunConfig, Stop, StreamsError, TotalsPace, application,
    streams_topics,
};

/// Time without a record after which a partition is quiet. The time is short, so that partitions often become quiet.
const IDLE_TIMEOUT_MS: u64 = 2_000;

/// Maximum time for which a partition that cannot be read to its end holds the frontier back.
const HOLD_TIMEOUT_MS: u64 = 12_000;

/// Time without a commit after which a standby takes over. A run that is not frozen commits more often.
const TAKEOVER_MS: u64 = 10_000;

/// Timeout of a transaction.
const COMMIT_TIMEOUT_MS: u64 = 15_000;

/// Maximum number of standbys.
const MAX_STANDBYS: usize = 2;

/// Interval at which an ingest writes to every partition.
const TICK_MS: u64 = 500;

/// Maximum number of partitions of the source, including those that are added during the simulation.
const MAX_PARTITIONS: usize = 6;

/// Maximum number of rounds within which all results must be written after all faults have ended.
const MAX_ROUNDS: u32 = 5_000;

/// A simulated cluster.
pub struct SimCluster {
    rng: Rng,
    clock: Arc<SimClock>,
    log: SimLog,
    topics: Topics,
    oracle: Oracle,
    output: Output,
    /// The runs that have not ended, the newest one last. Older runs are fenced, but may not have detected this yet.
    runs: Vec<SimRun>,
    /// The standbys. Each was a run that was fenced, and now waits until the active run stops committing.
    standbys: Vec<Standby>,
    /// The time of the last commit.
    committed_ms: u64,
    /// The number of partitions that producers write to. A partition that was added counts once a run reads it.
    known: u32,
    producers: Producers,
    next_tick_ms: u64,
    /// For each partition, the time until which no new records become visible to readers.
    stalled_until_ms: Vec<u64>,
    /// Maximum time for which the new records of a partition stay invisible to readers.
    longest_stall_ms: u64,
    /// For each partition, the time until which producers write no records to it.
    silent_until_ms: Vec<u64>,
    /// The partitions that were held until the hold timeout expired. The frontier no longer waits for them, so their
    /// records may be late.
    released: BTreeSet<u32>,
    /// The settings that determine how often the totals of large rooms are written.
    pace: TotalsPace,
    /// Time without a final after which a room's totals begin at 0.
    retention_ms: u64,
    /// All committed transactions.
    transactions: Vec<Vec<NewRecord>>,
}

impl SimCluster {
    /// Creates the simulated cluster of a seed.
    pub fn new(seed: u64) -> SimCluster {
        let topics = Topics::default();
        let mut rng = rng(seed);
        let clock = Arc::new(SimClock::default());
        let log = SimLog::new(self::rng(!seed), clock.clone(), streams_topics(&topics));
        let partitions = rng.random_range(1..5);
        let topics_of = [
            (topics.reactions(), partitions),
            (topics.windows(), 1),
            (topics.live(), 1),
            (topics.rejected(), 1),
            (topics.totals(), 1),
            (topics.trending(), 1),
            (topics.progress(), 1),
        ];
        let compacted = topics_of.map(|(name, partitions)| (name, partitions, Cleanup::Compact));
        create_topics(&log, compacted);
        SimCluster {
            longest_stall_ms: match rng.random_range(0..10) {
                0 => 2 * HOLD_TIMEOUT_MS,
                1..5 => 3 * IDLE_TIMEOUT_MS,
                _ => IDLE_TIMEOUT_MS / 2,
            },
            released: BTreeSet::new(),
            pace: TotalsPace {
                close_bytes: match rng.random_bool(0.3) {
                    // Each worker writes one totals record per close.
                    true => 0,
                    false => usize::MAX,
                },
                ..PACE
            },
            retention_ms: match rng.random_bool(0.5) {
                true => rng.random_range(SPAN_MS..10 * WINDOW_MS),
                false => u64::MAX,
            },
            producers: Producers::any(&mut rng),
            rng,
            clock,
            log,
            topics,
            oracle: Oracle::default(),
            output: Output::default(),
            runs: Vec::new(),
            standbys: Vec::new(),
            committed_ms: T0,
            known: partitions,
            next_tick_ms: T0,
            stalled_until_ms: vec![0; partitions as usize],
            silent_until_ms: vec![0; partitions as usize],
            transactions: Vec::new(),
        }
    }

    /// Runs `events` random events of the simulation.
    pub fn run_events(&mut self, events: u32) {
        for _ in 0..events {
            match self.rng.random_range(0..1000) {
                0..522 => self.step_any(),
                522..542 => self.poll_standby(),
                542..722 => {
                    let ms = self.rng.random_range(1..400);
                    self.advance_clock(ms);
                }
                722..842 => self.show_some(),
                842..882 => {
                    self.log.land();
                    self.apply_landed();
                }
                882..922 => self.acknowledge(),
                922..954 => drop(self.log.answer_any()),
                954..958 => self.fail_transaction(),
                958..964 => self.fail_retriable(),
                964..974 => self.log.retry(),
                974..976 => self.slow_down(),
                976..986 => drop(self.runs.pop()),
                986..988 => self.silence(),
                988..990 => self.begin(),
                990..993 => self.stop(),
                993..997 => self.stall(),
                997 => self.add_partition(),
                998 => self.freeze(),
                _ => self.pause(),
            }
            // If there is no run, the next one is likely to start soon, since a supervisor restarts a process faster
            // than a standby takes over. If there are standbys, a start is less likely, since the hosts of the other
            // processes may be down.
            let likely = if self.standbys.is_empty() {
                0.05
            } else {
                0.005
            };
            if self.runs.is_empty() && self.rng.random_bool(likely) {
                self.begin();
            }
        }
    }

    /// Ends all faults, waits until all results are written, and checks them. Returns the committed transactions.
    pub fn end(mut self) -> Vec<Vec<NewRecord>> {
        self.log.set_slow_until(0);
        self.stalled_until_ms.fill(0);
        self.silent_until_ms.fill(0);
        self.end_stalls();
        self.runs.clear();
        if self.standbys.is_empty() {
            self.begin();
        }
        let mut rounds = 0..MAX_ROUNDS;
        while self.runs.is_empty() {
            assert!(rounds.next().is_some(), "no standby takes over");
            self.clock.advance(500);
            self.poll_standby();
        }
        for round in 0.. {
            if self.oracle.is_written(&self.output) {
                break;
            }
            assert!(round < MAX_ROUNDS, "the group makes no progress");
            self.clock.advance(50);
            self.tick(false);
            self.show_all(0);
            for worker in 0..self.runs[0].workers() {
                self.step(0, worker);
            }
            self.log.land();
            self.apply_landed();
            self.acknowledge();
            while self.log.answer_any() {}
        }
        let rules = TotalsChecked {
            pace: self.pace,
            retention_ms: self.retention_ms,
        };
        self.output.check(&self.oracle, &self.released, rules);
        self.transactions
    }

    fn begin(&mut self) {
        let app = self.app();
        let run = SimRun::begin(app, &self.log, &self.clock, None).unwrap();
        self.add_run(run.unwrap());
    }

    fn add_run(&mut self, run: SimRun) {
        let newest = self.runs.len().saturating_sub(1);
        self.runs.drain(..newest);
        self.apply_landed();
        self.known = self.known.max(run.partitions);
        self.runs.push(run);
    }

    /// Lets a random standby check whether it must take over. If so, starts a run in place of the standby.
    fn poll_standby(&mut self) {
        if self.standbys.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.standbys.len());
        let (clock, committed_ms) = (self.clock.clone(), self.committed_ms);
        let looked = self.standbys[which].poll(clock.now(), &|| clock.now());
        let Some(end) = looked.unwrap() else {
            self.apply_landed();
            return;
        };
        let silent_ms = self.clock.unix_ms() - committed_ms;
        assert!(
            silent_ms >= TAKEOVER_MS,
            "the last commit was only {silent_ms} ms ago"
        );
        // The active run may commit just before the standby fences it.
        if self.rng.random_bool(0.3) {
            self.log.land();
        }
        let moved = self.apply_landed();
        let app = self.app();
        match SimRun::begin(app, &self.log, &self.clock, Some(end)) {
            Ok(Some(run)) => {
                assert!(!moved, "it has fenced a run that committed");
                self.standbys.swap_remove(which);
                self.add_run(run);
            }
            Ok(None) | Err(StreamsError::Start(LogError::Unreachable { .. })) => {}
            Err(other) => panic!("{other}"),
        }
        self.apply_landed();
    }

    fn config(&mut self) -> Config {
        Config {
            window: WindowSize::from_ms(WINDOW_MS).unwrap(),
            swarm_size: SWARM,
            trending_span: Duration::from_millis(SPAN_MS),
            trending_top: TOP,
            totals_pace: self.pace,
            totals_retention: Duration::from_millis(self.retention_ms),
            run: RunConfig {
                workers: self.rng.random_range(1..5),
                lateness_ms: LATENESS_MS,
                idle_timeout: Duration::from_millis(IDLE_TIMEOUT_MS),
                hold_timeout: Duration::from_millis(HOLD_TIMEOUT_MS),
                commit_timeout: Duration::from_millis(COMMIT_TIMEOUT_MS),
                takeover: Duration::from_millis(TAKEOVER_MS),
                unbounded_timestamps: true,
                limits: Limits {
                    max_step_counts: 4,
                    max_unwritten_bytes: 1024,
                },
                ..RunConfig::default()
            },
            ..Config::new(self.topics.clone())
        }
    }

    fn app(&mut self) -> EmoStream {
        application(&self.config()).unwrap()
    }

    /// Stops the newest run as SIGTERM does: the transaction in flight may still be committed.
    fn stop(&mut self) {
        match self.rng.random_bool(0.8) {
            true => self.log.land(),
            false => self.log.fail_transaction(false),
        }
        self.apply_landed();
        self.acknowledge();
        self.runs.pop();
    }

    /// Ends all runs, and advances the clock for some time, so that a backlog grows.
    fn pause(&mut self) {
        self.runs.clear();
        let until_ms = self.clock.unix_ms() + self.rng.random_range(0..100_000);
        while self.clock.unix_ms() < until_ms {
            self.advance_clock(TICK_MS);
        }
    }

    /// Freezes all processes for some time, so that a backlog grows.
    fn freeze(&mut self) {
        let until_ms = self.clock.unix_ms() + self.rng.random_range(0..2 * HOLD_TIMEOUT_MS);
        while self.clock.unix_ms() < until_ms {
            self.advance_clock(TICK_MS);
        }
    }

    fn step_any(&mut self) {
        if !self.runs.is_empty() {
            let run = self.rng.random_range(0..self.runs.len());
            let worker = self.rng.random_range(0..self.runs[run].workers());
            self.step(run, worker);
        }
    }

    fn step(&mut self, run: usize, worker: usize) {
        let durable_until_ms = self.runs[run].step(worker);
        self.released.extend(self.runs[run].holds.behind());
        self.compare_durable(&self.runs[run].stop, durable_until_ms);
        match self.runs[run].failure() {
            None => {}
            Some(StreamsError::Log(LogError::Fenced { .. })) => {
                self.runs.remove(run);
                if self.standbys.len() < MAX_STANDBYS {
                    let (config, log) = (self.app().config().clone(), Arc::new(self.log.clone()));
                    self.standbys.push(Standby::new(config, log, None));
                }
            }
            Some(StreamsError::Log(LogError::Aborted { .. })) => {
                self.runs.remove(run);
            }
            Some(other) => panic!("{other}"),
        }
    }

    /// Checks that the durable frontier has not passed the end of a window whose final is not acknowledged yet.
    fn compare_durable(&self, run: &Stop, durable_until_ms: Option<u64>) {
        for record in self.log.unacknowledged(run) {
            if record.topic == self.topics.windows() {
                let closed: WindowRecord = serde_json::from_slice(&record.value).unwrap();
                assert!(
                    durable_until_ms < Some(closed.window.end),
                    "not durable: {closed:?}"
                );
            }
        }
    }

    /// Applies the transactions that were committed since the last call. Returns whether there were any.
    fn apply_landed(&mut self) -> bool {
        let landed = self.log.drain_landed();
        let any = !landed.is_empty();
        if any {
            self.committed_ms = self.clock.unix_ms();
        }
        for records in landed {
            self.output.apply(&self.topics, &records);
            self.transactions.push(records);
        }
        any
    }

    fn acknowledge(&mut self) {
        self.log.acknowledge();
    }

    fn fail_transaction(&mut self) {
        let lands = self.rng.random_bool(0.5);
        self.log.fail_transaction(lands);
        self.apply_landed();
    }

    /// Makes the transaction in flight fail, so that its run retries it later.
    fn fail_retriable(&mut self) {
        let lands = self.rng.random_bool(0.5);
        self.log.fail_retriable(lands);
        self.apply_landed();
    }

    /// Makes commits slow for some time, which may be longer than the timeout of a transaction.
    fn slow_down(&mut self) {
        let ms = self.rng.random_range(0..2 * COMMIT_TIMEOUT_MS);
        self.log.set_slow_until(self.clock.unix_ms() + ms);
    }

    /// Advances the clock, and appends the records that producers write in this time.
    fn advance_clock(&mut self, ms: u64) {
        self.clock.advance(ms);
        self.tick(true);
        self.end_stalls();
        // Records of partitions that are not stalled become visible before the idle timeout, so these partitions do not
        // become quiet.
        self.show_all(IDLE_TIMEOUT_MS / 4);
    }

    fn tick(&mut self, reactions: bool) {
        while self.next_tick_ms <= self.clock.unix_ms() {
            let at_ms = self.next_tick_ms;
            for partition in 0..self.known {
                let silent_until_ms = &mut self.silent_until_ms[partition as usize];
                if at_ms < *silent_until_ms {
                    continue;
                }
                let topic = self.topics.reactions();
                // The first record of a partition, and the first record after a silence, is a heartbeat, so that it is
                // not late. The frontier may have passed over the quiet partition, so reactions could be late even if
                // the oracle, which knows only the watermark of the partition, expects that they are counted.
                let silent = std::mem::take(silent_until_ms) > 0;
                let first = silent || self.log.delays()[partition as usize].1 == 0;
                let (record, produced) = match reactions && !first {
                    true => record(&mut self.rng, &self.producers, &topic, partition, at_ms),
                    false => heartbeat(&topic, partition, at_ms),
                };
                // In some cases the record is appended twice, as by a producer that received no acknowledgement and
                // retries.
                let again = self.rng.random_bool(0.03);
                for _ in 0..=usize::from(again) {
                    let offset = self.log.append(record.clone());
                    let time_ms = record.time_ms.unwrap();
                    self.oracle.append((partition, offset), time_ms, &produced);
                }
            }
            self.next_tick_ms += TICK_MS;
        }
    }

    fn show_some(&mut self) {
        let now_ms = self.clock.unix_ms();
        let partition = self.rng.random_range(0..self.stalled_until_ms.len());
        if self.stalled_until_ms[partition] <= now_ms {
            let (shown, stored) = self.log.delays()[partition];
            let until = self.rng.random_range(shown..=stored);
            self.log.show(partition as u32, until);
        }
    }

    /// Makes all records visible that are older than `delay_ms`, except those of stalled partitions.
    fn show_all(&mut self, delay_ms: u64) {
        let now_ms = self.clock.unix_ms();
        for (partition, (_, stored)) in (0..).zip(self.log.delays()) {
            if self.stalled_until_ms[partition as usize] <= now_ms {
                self.log
                    .show(partition, stored.saturating_sub(delay_ms / TICK_MS));
            }
        }
    }

    /// Makes producers write no records to one partition, or to any partition, for some time.
    fn silence(&mut self) {
        let until_ms = self.clock.unix_ms() + self.rng.random_range(0..4 * IDLE_TIMEOUT_MS);
        let partition = self.rng.random_range(0..self.silent_until_ms.len());
        match self.rng.random_bool(0.5) {
            true => self.silent_until_ms.fill(until_ms),
            false => self.silent_until_ms[partition] = until_ms,
        }
    }

    fn stall(&mut self) {
        let partition = self.rng.random_range(0..self.stalled_until_ms.len());
        let ms = self.rng.random_range(0..self.longest_stall_ms);
        self.stalled_until_ms[partition] = self.clock.unix_ms() + ms;
        let faults = [Fault::None, Fault::Unreachable, Fault::OpenTransaction];
        let fault = faults[self.rng.random_range(0..faults.len())];
        self.log.set_fault(partition as u32, fault);
    }

    fn end_stalls(&self) {
        let now_ms = self.clock.unix_ms();
        for (partition, until_ms) in (0..).zip(&self.stalled_until_ms) {
            if *until_ms <= now_ms {
                self.log.set_fault(partition, Fault::None);
            }
        }
    }

    /// Adds a partition, and stops the newest run, since a run reads only the partitions that existed at its start.
    fn add_partition(&mut self) {
        if self.stalled_until_ms.len() < MAX_PARTITIONS {
            self.log.add_partition(&self.topics.reactions());
            self.stalled_until_ms.push(0);
            self.silent_until_ms.push(0);
            self.stop();
        }
    }
}
