//! The log of a simulation. It is in memory, uses no threads, and simulates the failures that a real log may have.
//!
//! ```text
//!  submit ─▶ in flight ─┬─ lands ─▶ in the topics ─▶ acknowledged
//!      ▲                ├─ fails, and lands or not: its owner reads later what was committed
//!      └─────retry──────┘
//!                       └─ its owner is fenced or killed, and it lands or not
//! ```
//!
//! A transaction *lands* when it is committed. It is *in flight* until its owner receives the acknowledgement.
//!
//! The simulated log guarantees only what [`emostream_log`] guarantees: a poll returns any number of records, records
//! of the source become visible late, offsets have gaps, and a transaction in flight may land during any call.

#![allow(
    clippy::disallowed_methods,
    reason = "the log does not depend on the time of the host"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_log::{
    Appender, Cleanup, Done, EndOffsets, Header, Log, LogError, NewRecord, Reader, Record,
    TopicDescription, TopicSpec, Transactor, Wake,
};
use rand::RngExt;

use super::{Rng, run::SimClock};
use crate::{
    Stop, StreamsError,
    sink::{
        attempts::{self, Attempts, Failed, Next},
        commit::{Commit, Wakeup, WindowEnds},
        rejections,
        result::SinkResult,
    },
    source::end_offsets::{Answer, EndOffsetRequests},
    topics::Topics,
};

/// A simulated log, which all runs of a seed share.
#[derive(Clone)]
pub struct SimLog(Arc<Mutex<State>>);

struct State {
    rng: Rng,
    clock: Arc<SimClock>,
    topics: BTreeMap<String, Vec<Partition>>,
    /// The names of the application's topics.
    names: Topics,
    wakes: Vec<Wake>,
    /// The number of the newest transactor. Only this transactor can commit.
    epoch: u64,
    in_flight: Option<Transaction>,
    /// A transaction whose owner has received an error and does not know whether the transaction was committed, and the
    /// number of commits at the time of the error.
    failed: Option<(Transaction, u64)>,
    /// Number of committed transactions.
    commits: u64,
    /// Brokers are slow until this time, Unix milliseconds: no transaction is committed before it.
    slow_until_ms: u64,
    /// The transactions that were committed since the last [`SimLog::drain_landed`].
    landed: Vec<Vec<NewRecord>>,
    /// Requests for end offsets of the source topic that are not answered yet.
    requests: Vec<PendingRequest>,
}

#[derive(Default)]
struct Partition {
    slots: Vec<Slot>,
    /// The offset up to which records are visible to readers.
    shown: usize,
    fault: Fault,
}

/// The fault of a partition. While a partition has a fault, its new records do not become visible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// No fault: new records become visible, perhaps after a delay.
    #[default]
    None,
    /// The partition's broker does not answer.
    Unreachable,
    /// Another producer's transaction is open.
    OpenTransaction,
}

struct PendingRequest {
    partition: u32,
    /// The end offset at the time of the request. The answer contains either this end offset, or the one at the time of
    /// the answer.
    end: u64,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    wake: Wake,
}

/// The contents of a partition at one offset.
enum Slot {
    Record {
        time_ms: u64,
        key: Option<Bytes>,
        value: Bytes,
        headers: Vec<Header>,
    },
    /// The marker at the end of a transaction.
    Marker,
}

struct Transaction {
    /// The final-until time that the transaction commits: every window that ends at or before it is final.
    final_until_ms: u64,
    records: Vec<NewRecord>,
    /// The rejected records that were shortened because their topic did not accept them: the original of each, and its
    /// index in `records`.
    refused: Vec<(usize, NewRecord)>,
    landed: bool,
    ack: Ack,
}

/// The channel by which the owner of a transaction receives its outcome.
#[derive(Clone)]
struct Ack {
    /// The number of the owner's transactor.
    epoch: Arc<AtomicU64>,
    acknowledged: Arc<Mutex<bool>>,
    ends: Arc<Mutex<VecDeque<WindowEnds>>>,
    wake: Arc<Mutex<Wakeup>>,
    stop: Stop,
}

impl Ack {
    fn is_newest(&self, epoch: u64) -> bool {
        self.epoch.load(Ordering::Relaxed) == epoch
    }

    /// Whether the owner is alive and waits for the outcome.
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.acknowledged) > 1
    }

    fn acknowledge(&self) {
        *self.acknowledged.lock().unwrap() = true;
        (self.wake.lock().unwrap())();
    }

    fn fail(&self, error: LogError) {
        self.stop.fail(StreamsError::Log(error));
    }
}

fn fenced() -> LogError {
    let id = "simulation".to_owned();
    LogError::Fenced { id }
}

impl SimLog {
    /// Creates a log. Records of the source topic become visible only by [`SimLog::show`].
    pub fn new(rng: Rng, clock: Arc<SimClock>, names: Topics) -> SimLog {
        SimLog(Arc::new(Mutex::new(State {
            rng,
            clock,
            topics: BTreeMap::new(),
            names,
            wakes: Vec::new(),
            epoch: 0,
            in_flight: None,
            failed: None,
            commits: 0,
            slow_until_ms: 0,
            landed: Vec::new(),
            requests: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Locks the state for a call that waits for a broker. Before the call, the transaction in flight is committed with
    /// the probability `lands`.
    fn called(&self, lands: f64) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.rng.random_bool(lands) {
            state.land();
        }
        state
    }

    /// Adds a partition to `topic`.
    pub fn add_partition(&self, topic: &str) {
        let mut state = self.state();
        state
            .topics
            .get_mut(topic)
            .unwrap()
            .push(Partition::default());
    }

    /// Appends a record. Returns its offset.
    pub fn append(&self, record: NewRecord) -> u64 {
        self.state().append(record)
    }

    /// Makes the records of `partition` of the source topic visible up to `offset`.
    pub fn show(&self, partition: u32, offset: u64) {
        let wakes = {
            let mut state = self.state();
            let delayed = state.names.source.clone();
            let partition = state.partition(&delayed, partition);
            partition.shown = partition.shown.max(offset as usize);
            state.wakes.clone()
        };
        // Runs that have ended are notified, too, since the threads of a real log may also notify them.
        wakes.iter().for_each(|wake| wake());
    }

    /// Returns two offsets for each partition of the source topic: the end offset that readers see, and the real end
    /// offset.
    pub fn delays(&self) -> Vec<(u64, u64)> {
        let state = self.state();
        let partitions = state.topics[&state.names.source].iter();
        partitions
            .map(|p| (p.shown as u64, p.slots.len() as u64))
            .collect()
    }

    /// Sets the fault of a partition of the source topic, which replaces its previous fault.
    pub fn set_fault(&self, partition: u32, fault: Fault) {
        let mut state = self.state();
        let delayed = state.names.source.clone();
        state.partition(&delayed, partition).fault = fault;
    }

    /// Answers a random request for end offsets. Returns whether there was one.
    pub fn answer_any(&self) -> bool {
        let wake = {
            let mut state = self.state();
            let count = state.requests.len();
            if count == 0 {
                return false;
            }
            let which = state.rng.random_range(0..count);
            let request = state.requests.swap_remove(which);
            let as_requested = state.rng.random_bool(0.5);
            let delayed = state.names.source.clone();
            let partition = state.partition(&delayed, request.partition);
            let end = match as_requested {
                true => request.end,
                false => partition.slots.len() as u64,
            };
            let ends = match partition.fault {
                Fault::Unreachable => None,
                Fault::OpenTransaction => Some(EndOffsets {
                    stable: end.min(partition.shown as u64),
                    end,
                }),
                Fault::None => Some(EndOffsets { stable: end, end }),
            };
            request
                .answers
                .lock()
                .unwrap()
                .push_back((request.partition, ends));
            request.wake
        };
        wake();
        true
    }

    /// Returns a requester of end offsets of the source topic.
    pub fn requests(&self, wake: Wake) -> Box<dyn EndOffsetRequests> {
        Box::new(SimRequests {
            log: self.clone(),
            answers: Arc::default(),
            wake,
        })
    }

    /// Returns a committer that commits with the newest transactor.
    pub fn committer(&self, wake: Wakeup, stop: Stop) -> Box<dyn Commit> {
        let ack = Ack {
            epoch: Arc::new(AtomicU64::new(self.state().epoch)),
            acknowledged: Arc::default(),
            ends: Arc::default(),
            wake: Arc::new(Mutex::new(wake)),
            stop,
        };
        Box::new(SimCommitter {
            log: self.clone(),
            written: Vec::new(),
            ack,
        })
    }

    /// Commits the progress of a run that starts. In some cases it does not commit, as if the run had ended before the
    /// commit.
    pub fn start_heartbeat(&self, progress: NewRecord) {
        let mut state = self.state();
        if state.rng.random_bool(0.8) {
            state.commit(vec![progress]);
        }
    }

    /// Commits the transaction in flight. Does nothing while brokers are slow.
    pub fn land(&self) {
        self.state().land();
    }

    /// Acknowledges the transaction in flight if it is committed. Returns whether it was acknowledged.
    pub fn acknowledge(&self) -> bool {
        let (done, ends) = {
            let mut state = self.state();
            let done = state.in_flight.take_if(|it| it.landed);
            // The end offsets of the windows topic are reported only in some cases: the commit thread requests them
            // only after some commits, and a broker may not answer.
            let ends = state.rng.random_bool(0.3).then(|| state.window_ends());
            (done, ends)
        };
        let Some(done) = done else {
            return false;
        };
        done.ack.acknowledge();
        let final_until_ms = done.final_until_ms;
        done.ack
            .ends
            .lock()
            .unwrap()
            .extend(ends.map(|offsets| WindowEnds {
                final_until_ms,
                offsets,
            }));
        true
    }

    /// Reports a failure of the transaction in flight to its owner, who may never know whether the transaction was
    /// committed. If `lands` is set, the transaction is committed first.
    pub fn fail_transaction(&self, lands: bool) {
        let mut state = self.state();
        if lands {
            state.land();
        }
        if let Some(failed) = state.in_flight.take() {
            let detail = "by the seed".to_owned();
            failed.ack.fail(LogError::Aborted { detail });
        }
    }

    /// Reports a failure of the transaction in flight to its owner, who retries the transaction by [`SimLog::retry`].
    /// If `lands` is set, the transaction is committed before that, and the owner does not know it.
    pub fn fail_retriable(&self, lands: bool) {
        let mut state = self.state();
        if lands {
            state.land();
        }
        if let Some(mut failed) = state.in_flight.take() {
            if !failed.landed && state.rng.random_bool(0.5) {
                failed.refuse(&state.names.rejected);
            }
            state.failed = Some((failed, state.commits));
        }
    }

    /// Retries the transaction that has failed, as `commit.rs` does: its owner opens another transactor, and writes the
    /// transaction again unless it was committed. In the meantime another run may have fenced the owner. If that run
    /// has not committed anything, the new transactor fences it. If that run has committed, the owner fails instead.
    pub fn retry(&self) {
        let mut state = self.state();
        let failed = state.failed.take();
        let Some((failed, commits)) = failed.filter(|(failed, _)| failed.ack.is_awaited()) else {
            return;
        };
        // Another run may commit between the check of the number of commits and the fence, so the number is checked
        // again.
        if state.commits == commits {
            state.fence();
        }
        if state.commits != commits {
            return failed.ack.fail(fenced());
        }
        failed.ack.epoch.store(state.epoch, Ordering::Relaxed);
        state.in_flight = Some(failed);
    }

    /// Makes brokers slow until this time, so that no transaction is committed before it.
    pub fn set_slow_until(&self, until_ms: u64) {
        self.state().slow_until_ms = until_ms;
    }

    /// Returns the records of the transaction in flight, if it belongs to the run with this stop signal.
    pub fn unacknowledged(&self, stop: &Stop) -> Vec<NewRecord> {
        let state = self.state();
        let in_flight = state.in_flight.as_ref().filter(|it| it.ack.stop.is(stop));
        let records = in_flight.map(|it| it.records.clone());
        records.unwrap_or_default()
    }

    /// Returns the transactions that were committed since the last call, and removes them. Rejected records that were
    /// shortened are returned in their original form.
    pub fn drain_landed(&self) -> Vec<Vec<NewRecord>> {
        std::mem::take(&mut self.state().landed)
    }
}

impl Transaction {
    /// Shortens the largest rejected records to their headers, as `commit.rs` does if their topic does not accept them.
    fn refuse(&mut self, topic: &str) {
        let rejected = self.records.iter().filter(|record| record.topic == topic);
        let largest = rejected.filter(|record| !record.value.is_empty());
        let Some(bytes) = largest.map(NewRecord::bytes).max() else {
            return;
        };
        let refused = LogError::NotAccepted {
            topic: topic.to_owned(),
            bytes,
            reason: "by the seed".to_owned(),
        };
        let transaction = attempts::Transaction {
            rejected: topic,
            bytes: 0,
            timeout: Duration::ZERO,
        };
        let next = Attempts::default().on(Failed::Writing(refused), transaction, Instant::now());
        let Next::Shorten(bytes, _) = next else {
            panic!("a rejected record that is refused is shortened: {next:?}");
        };
        let before = self.records.clone();
        let shortened = rejections::shorten(&mut self.records, topic, bytes);
        for (index, before) in before.into_iter().enumerate() {
            let now = &self.records[index];
            assert_eq!((&now.topic, &now.headers), (&before.topic, &before.headers));
            if now.value != before.value {
                self.refused.push((index, before));
            }
        }
        assert!(shortened > 0);
    }
}

impl State {
    fn partition(&mut self, topic: &str, partition: u32) -> &mut Partition {
        &mut self.topics.get_mut(topic).unwrap()[partition as usize]
    }

    /// Opens a transactor, which fences the owner of the transaction in flight. The transaction in flight may be
    /// committed just before the fence.
    fn fence(&mut self) {
        if self.rng.random_bool(0.5) {
            self.land();
        }
        self.epoch += 1;
        if let Some(older) = self.in_flight.take() {
            older.ack.fail(fenced());
        }
    }

    fn window_ends(&self) -> Vec<(u32, u64)> {
        let partitions = &self.topics[&self.names.finals];
        let ends = partitions.iter().map(|it| it.slots.len() as u64);
        (0..).zip(ends).collect()
    }

    fn append(&mut self, record: NewRecord) -> u64 {
        let delayed = record.topic == self.names.source;
        let now_ms = self.clock.unix_ms();
        let partition = self.partition(&record.topic, record.partition.unwrap_or(0));
        partition.slots.push(Slot::Record {
            time_ms: record.time_ms.unwrap_or(now_ms),
            key: record.key,
            value: record.value,
            headers: record.headers,
        });
        if !delayed {
            partition.shown = partition.slots.len();
        }
        partition.slots.len() as u64 - 1
    }

    fn land(&mut self) {
        if self.clock.unix_ms() < self.slow_until_ms {
            return;
        }
        let Some(transaction) = self.in_flight.as_mut().filter(|it| !it.landed) else {
            return;
        };
        transaction.landed = true;
        let (records, refused) = (transaction.records.clone(), transaction.refused.clone());
        self.commit(records);
        let landed = self.landed.last_mut().unwrap();
        for (index, record) in refused {
            landed[index] = record;
        }
    }

    fn commit(&mut self, records: Vec<NewRecord>) {
        for record in &records {
            self.append(record.clone());
        }
        for record in &records {
            let partition = self.partition(&record.topic, record.partition.unwrap_or(0));
            if !matches!(partition.slots.last(), Some(Slot::Marker)) {
                partition.slots.push(Slot::Marker);
                partition.shown = partition.slots.len();
            }
        }
        self.commits += 1;
        self.landed.push(records);
    }
}

impl Log for SimLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        let partitions = (0..spec.partitions).map(|_| Partition::default());
        self.state()
            .topics
            .insert(spec.name.clone(), partitions.collect());
        Ok(())
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let topics = &self.called(0.03).topics;
        topics
            .get(topic)
            .map(|it| it.len() as u32)
            .ok_or_else(|| LogError::UnknownTopic {
                topic: topic.to_owned(),
            })
    }

    /// Describes a topic with unlimited retention.
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        Ok(TopicDescription::of(&TopicSpec {
            name: topic.to_owned(),
            partitions: self.state().topics.get(topic).map_or(0, Vec::len) as u32,
            replication: 1,
            min_in_sync: 1,
            cleanup: Cleanup::Compact,
            max_ahead: None,
        }))
    }

    fn answers(&self, _topic: &str, _patience: Duration) -> Result<(), LogError> {
        Ok(())
    }

    /// Returns the offsets of each partition. A transaction may be committed between the requests for two partitions,
    /// as on Kafka, where different brokers answer them.
    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        let end = |partition| self.called(0.03).partition(topic, partition).slots.len() as u64;
        Ok((0..self.partitions(topic)?).map(|it| 0..end(it)).collect())
    }

    /// Returns the end offsets of a partition. A transaction in flight counts as one record after the stable offset,
    /// since each transaction has one record in the progress topic. A request may fail.
    fn end_offsets(
        &self,
        topic: &str,
        partition: u32,
        _patience: Duration,
    ) -> Result<EndOffsets, LogError> {
        let mut state = self.called(0.03);
        if state.rng.random_bool(0.02) {
            return Err(LogError::Unreachable {
                brokers: "simulation".to_owned(),
                detail: "by the seed".to_owned(),
            });
        }
        let stable = state.partition(topic, partition).slots.len() as u64;
        let open = state.in_flight.as_ref().is_some_and(|it| !it.landed);
        Ok(EndOffsets {
            stable,
            end: stable + u64::from(open),
        })
    }

    fn offsets_at(&self, topic: &str, at_ms: u64) -> Result<Vec<u64>, LogError> {
        let since = |slot: &Slot| matches!(slot, Slot::Record { time_ms, .. } if *time_ms >= at_ms);
        let offset = |partition| {
            let mut state = self.called(0.03);
            let slots = &state.partition(topic, partition).slots;
            slots.iter().position(since).unwrap_or(slots.len()) as u64
        };
        Ok((0..self.partitions(topic)?).map(offset).collect())
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        let mut state = self.called(0.03);
        if topic == state.names.source {
            state.wakes.push(wake);
        }
        let at = |(partition, offset): &(u32, u64)| (*partition, (*offset as usize, false));
        Ok(Box::new(SimReader {
            log: self.clone(),
            topic: topic.to_owned(),
            at: from.iter().map(at).collect(),
        }))
    }

    fn appender(&self, _timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        Ok(Box::new(SimAppender(self.clone())))
    }

    fn transactor(&self, _id: &str, _timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        self.state().fence();
        Ok(Box::new(SimTransactor))
    }
}

/// A transactor that always fails, since the runs of a simulation commit by [`SimLog::committer`].
struct SimTransactor;

impl Transactor for SimTransactor {
    fn write(&mut self, _records: Vec<NewRecord>) -> Result<(), LogError> {
        Err(LogError::Refused(
            "the simulation commits without waiting".to_owned(),
        ))
    }

    fn commit(&mut self, _records: Vec<NewRecord>) -> Result<(), LogError> {
        Err(LogError::Refused(
            "the simulation commits without waiting".to_owned(),
        ))
    }
}

struct SimCommitter {
    log: SimLog,
    /// The records of the open transaction. They are lost if the owner is killed.
    written: Vec<NewRecord>,
    ack: Ack,
}

impl SimCommitter {
    fn add(&mut self, results: &[Box<dyn SinkResult>]) {
        let records = results.iter().map(|it| it.record());
        self.written.extend(records);
    }
}

impl Commit for SimCommitter {
    fn write(&mut self, results: Vec<Box<dyn SinkResult>>) -> Result<(), Vec<Box<dyn SinkResult>>> {
        // In some cases the results are returned to the caller, as if the queue of the commit thread were full.
        if self.log.state().rng.random_bool(0.2) {
            return Err(results);
        }
        self.add(&results);
        Ok(())
    }

    fn submit(
        &mut self,
        final_until_ms: u64,
        results: Vec<Box<dyn SinkResult>>,
        rest: Vec<NewRecord>,
    ) {
        self.add(&results);
        let mut records = std::mem::take(&mut self.written);
        records.extend(rest);
        let mut state = self.log.state();
        if !self.ack.is_newest(state.epoch) {
            return self.ack.fail(fenced());
        }
        assert!(state.in_flight.is_none(), "one transaction at a time");
        state.in_flight = Some(Transaction {
            final_until_ms,
            records,
            refused: Vec::new(),
            landed: false,
            ack: self.ack.clone(),
        });
    }

    fn acknowledged(&mut self) -> bool {
        std::mem::take(&mut *self.ack.acknowledged.lock().unwrap())
    }

    fn ends(&mut self) -> Option<WindowEnds> {
        self.ack.ends.lock().unwrap().pop_front()
    }
}

struct SimReader {
    log: SimLog,
    topic: String,
    /// For each partition, the next offset, and whether the last poll reached the end of the partition.
    at: BTreeMap<u32, (usize, bool)>,
}

impl Reader for SimReader {
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError> {
        let mut state = self.log.state();
        let limit = match state.rng.random_bool(0.5) {
            true => limit.min(state.rng.random_range(1..6)),
            false => limit,
        };
        let from = state.partition(&self.topic, partition);
        let (next, at_end) = self.at.get_mut(&partition).unwrap();
        let mut records = 0;
        while *next < from.shown && records < limit {
            if let Slot::Record {
                time_ms,
                key,
                value,
                headers,
            } = &from.slots[*next]
            {
                let consumed = each(Record {
                    partition,
                    offset: *next as u64,
                    time_ms: *time_ms,
                    key: key.as_deref(),
                    value,
                    headers,
                });
                if !consumed {
                    break;
                }
                records += 1;
            }
            *next += 1;
        }
        *at_end = *next >= from.shown;
        Ok(records)
    }

    fn position(&self, partition: u32) -> u64 {
        self.at[&partition].0 as u64
    }

    fn at_end(&self, partition: u32) -> bool {
        self.at[&partition].1
    }
}

struct SimRequests {
    log: SimLog,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    wake: Wake,
}

impl EndOffsetRequests for SimRequests {
    fn request(&mut self, partition: u32) {
        let mut state = self.log.state();
        let delayed = state.names.source.clone();
        let end = state.partition(&delayed, partition).slots.len() as u64;
        state.requests.push(PendingRequest {
            partition,
            end,
            answers: self.answers.clone(),
            wake: self.wake.clone(),
        });
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.lock().unwrap().pop_front()
    }
}

struct SimAppender(SimLog);

impl Appender for SimAppender {
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError> {
        let mut state = self.0.state();
        match state.rng.random_range(0..10) {
            0 => return Err(LogError::Full),
            1 => {
                let detail = "by the seed".to_owned();
                done(Err(LogError::TimedOut { detail }));
            }
            _ => done(Ok(state.append(record))),
        }
        Ok(())
    }
}
