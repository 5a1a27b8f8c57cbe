//! The thread that commits transactions, so that a timely worker never waits for the log.
//!
//! ```text
//!  sink ──results, as they arrive▶ commit thread ──records──▶ the log's open transaction
//!    │                                   │
//!    ├──the rest: results, progress──────┴──commit──▶ durable
//!    ▲                                                  │
//!    └──────────────────ack, wake───────────────────────┘
//! ```
//!
//! Results are written while the worker still computes other results of the same window, so that a close of many keys
//! uses two cores at the same time. A transaction that is never committed has no effect.
//!
//! Each transaction begins with a copy of the progress of the previous commit. So an open transaction is visible in the
//! progress topic from its start: the end offset exceeds the last stable offset, and a standby does not mistake a long
//! close for the end of the run. Readers of committed records read that progress twice, but the last record is still
//! the newest progress.
//!
//! From its start until the worker loop runs, the thread commits the progress at each heartbeat by itself, since a
//! restore of the tables of many keys takes longer than a standby waits.
//!
//! A transaction that fails stays in memory, and is written again with a new transactor as the policy of
//! [`super::attempts`] decides. A transaction whose commit returned an error may still have been committed. To find
//! out, the thread reads the progress topic, where each record has the id of its commit in a header. If another run
//! wrote the newest record, that run has taken over.

#![allow(
    clippy::disallowed_methods,
    reason = "the commit thread waits and reads the clock"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{
            Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel,
        },
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emostream_log::{Log, LogError, NewRecord, Transactor};

use super::{
    attempts::{Attempts, Failed, Next, Transaction},
    rejections,
    result::SinkResult,
};
use crate::{
    Stop, StreamsError,
    metrics::Metrics,
    progress::{newest, record::CommitId},
    time::holds::Holds,
    topics::Topics,
};

/// Wakes the sink after an acknowledgement.
pub type Wakeup = Box<dyn Fn() + Send>;

/// Maximum number of pieces of a transaction in the queue of the thread. Further results wait in the sink and are part
/// of the next piece. A close has a handful of pieces: one for each time that the sink runs.
const MAX_PIECES: usize = 64;

/// Number of records that are encoded for each call of the log. It is large enough that the cost of the call does not
/// matter, and small enough that the records stay in the processor's cache.
const RECORDS_PER_WRITE: usize = 64;

/// Interval at which end offsets of the final results are requested. A restart begins to read final results at one of
/// these offsets, so it may also read the final results of some seconds that it does not need.
const ENDS_INTERVAL: Duration = Duration::from_secs(5);

/// Timeout of a request for end offsets. The next transaction waits until the response arrives or this time has passed.
const ENDS_TIMEOUT: Duration = Duration::from_millis(500);

/// Interval at which a waiting thread checks whether a stop is requested.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A committer: commits one transaction after the other, while the sink continues. No function waits.
pub trait Commit {
    /// Notifies the committer that the worker loop runs: from now on the sink submits the heartbeats.
    fn begin(&mut self) {}

    /// Adds results to the next transaction. Returns the results as an error if they must wait.
    fn write(&mut self, results: Vec<Box<dyn SinkResult>>) -> Result<(), Vec<Box<dyn SinkResult>>>;

    /// Adds the rest of the next transaction, and commits it with `final_until_ms` as the final-until time. The
    /// previous transaction must be acknowledged.
    fn submit(
        &mut self,
        final_until_ms: u64,
        results: Vec<Box<dyn SinkResult>>,
        records: Vec<NewRecord>,
    );

    /// Whether the last transaction was acknowledged since the last call.
    fn acknowledged(&mut self) -> bool;

    /// Returns end offsets of the topic of final results that were requested between two commits and were not returned
    /// before, if there are any.
    fn ends(&mut self) -> Option<WindowEnds>;
}

/// End offsets of the topic of final results, requested after a commit and before any record of the next one was
/// written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowEnds {
    /// The final-until time of the commit.
    pub final_until_ms: u64,
    /// The end offset of each partition.
    pub offsets: Vec<(u32, u64)>,
}

/// A function that creates the committer, given the function that wakes the sink. Returns `None` on workers that do not
/// commit.
pub type StartCommitter = Box<dyn FnOnce(Wakeup) -> Option<Box<dyn Commit>> + Send>;

/// The values with which the commit thread starts.
pub struct CommitterParams {
    /// The newest transactor of the application, the only one that can commit.
    pub transactor: Box<dyn Transactor>,
    /// The log, where another transactor is opened after a failure.
    pub log: Arc<dyn Log>,
    /// The topics of the application.
    pub topics: Topics,
    /// The timeout of transactions.
    pub timeout: Duration,
    /// The id of the newest commit when the run began.
    pub newest: Option<CommitId>,
    /// The progress when the run began. It is committed at each heartbeat until the worker loop runs.
    pub progress: NewRecord,
    /// The interval of the heartbeats.
    pub heartbeat: Duration,
    /// Reports failures that are retried.
    pub holds: Arc<Holds>,
    /// The metrics of the application.
    pub metrics: Metrics,
    /// Stores a failure that ends the run.
    pub stop: Stop,
}

/// A committer with a thread of its own.
pub struct CommitThread {
    queue: Option<SyncSender<Work>>,
    /// Whether the sink was dropped, so that the thread must not retry.
    closing: Arc<AtomicBool>,
    /// Number of pieces of the current transaction that were sent to the thread.
    pieces: usize,
    acks: Receiver<()>,
    /// The function that wakes the sink, until it is sent to the thread.
    wake: Option<Wakeup>,
    ends: Receiver<WindowEnds>,
    thread: Option<JoinHandle<()>>,
}

/// A message to the thread.
enum Work {
    /// The worker loop runs from now on. The function wakes the sink.
    Begin(Wakeup),
    /// A piece of a transaction.
    Piece(Piece),
}

/// A piece of a transaction. The last piece has an end.
struct Piece {
    results: Vec<Box<dyn SinkResult>>,
    end: Option<End>,
}

/// The end of a transaction.
struct End {
    /// The final-until time that the transaction commits.
    final_until_ms: u64,
    /// Rejected records, followed by the progress record.
    records: Vec<NewRecord>,
}

impl CommitThread {
    /// Starts the thread, and waits until it has committed the progress, so that a run that is fenced in the meantime
    /// does not begin. Returns `None` if a stop is requested before.
    pub fn start(committing: CommitterParams) -> std::io::Result<Option<CommitThread>> {
        // The queue has space for `Begin`, the pieces and the end of a transaction, and the pieces of the next
        // transaction.
        let (queue, work) = sync_channel::<Work>(1 + 2 * MAX_PIECES + 1);
        let (ack, acks) = sync_channel(1);
        let (found, ends) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let (stop, stopping) = (committing.stop.clone(), committing.stop.clone());
        let mut writing = Writing {
            id: CommitId::first(),
            newest: committing.newest.clone(),
            last: None,
            committing,
            pieces: Vec::new(),
            attempts: Attempts::default(),
            closing: closing.clone(),
        };
        let run = move || match writing.run(&work, &ack, &found) {
            Ok(()) | Err(Ended::Stopped) => {}
            // A stop was requested, so the fence is not reported: the process must not become a standby.
            Err(Ended::Failed(error)) if error.is_fence() && stop.is_requested() => {}
            Err(Ended::Failed(error)) => stop.fail(error),
        };
        let thread = thread::Builder::new()
            .name("commit".to_owned())
            .spawn(run)?;
        let started = CommitThread {
            queue: Some(queue),
            closing,
            pieces: 0,
            acks,
            ends,
            wake: None,
            thread: Some(thread),
        };
        loop {
            match started.acks.recv_timeout(STOP_CHECK_INTERVAL) {
                Ok(()) => return Ok(Some(started)),
                Err(RecvTimeoutError::Timeout) if !stopping.is_requested() => {}
                Err(_) => return Ok(None),
            }
        }
    }

    /// Sets the function by which the thread wakes the sink after each acknowledgement.
    pub fn attached(mut self, wake: Wakeup) -> CommitThread {
        self.wake = Some(wake);
        self
    }
}

/// The reason why the thread ends.
enum Ended {
    /// The run was stopped. The next run reads the records again whose events are not committed.
    Stopped,
    /// The run ends with an error.
    Failed(StreamsError),
}

/// The state of the thread.
struct Writing {
    committing: CommitterParams,
    /// The progress that was committed last.
    last: Option<NewRecord>,
    /// Whether the sink was dropped, so that the thread must not retry.
    closing: Arc<AtomicBool>,
    /// The pieces of the current transaction, which are written again after a failure.
    pieces: Vec<Piece>,
    /// The failed attempts to commit the current transaction.
    attempts: Attempts,
    /// The id of the current transaction.
    id: CommitId,
    /// The id of the commit before the current transaction.
    newest: Option<CommitId>,
}

impl Writing {
    fn run(
        &mut self,
        work: &Receiver<Work>,
        ack: &SyncSender<()>,
        found: &Sender<WindowEnds>,
    ) -> Result<(), Ended> {
        self.commit_heartbeat()?;
        if ack.send(()).is_err() {
            return Ok(());
        }
        let mut wake: Option<Wakeup> = None;
        let mut requested: Option<Instant> = None;
        loop {
            let next = match wake {
                None => work.recv_timeout(self.committing.heartbeat),
                Some(_) => work.recv().map_err(RecvTimeoutError::from),
            };
            match next {
                Ok(Work::Begin(wakeup)) => wake = Some(wakeup),
                Ok(Work::Piece(piece)) => {
                    let final_until_ms = piece.end.as_ref().map(|end| end.final_until_ms);
                    self.accept(piece)?;
                    let Some(final_until_ms) = final_until_ms else {
                        continue;
                    };
                    if ack.send(()).is_err() {
                        return Ok(());
                    }
                    wake.iter().for_each(|wake| wake());
                    if requested.is_none_or(|at| at.elapsed() >= ENDS_INTERVAL) {
                        requested = Some(Instant::now());
                        // No record of the next transaction is written before this request, since this thread writes
                        // it.
                        let offsets = self.window_ends();
                        // The call fails only if the sink was dropped, and then the offsets are not needed any more.
                        let _ = offsets.map(|offsets| {
                            found.send(WindowEnds {
                                final_until_ms,
                                offsets,
                            })
                        });
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.commit_heartbeat()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// Commits again the progress with which the run began.
    fn commit_heartbeat(&mut self) -> Result<(), Ended> {
        let progress = self.committing.progress.clone();
        self.accept(Piece {
            results: Vec::new(),
            // The final-until time is needed only for requests of end offsets, and these commits make no such requests.
            end: Some(End {
                final_until_ms: 0,
                records: vec![progress],
            }),
        })
    }

    fn accept(&mut self, mut piece: Piece) -> Result<(), Ended> {
        let begun = Instant::now();
        let ends = piece.end.is_some();
        let records = piece.end.as_mut().map(|end| &mut end.records);
        if let Some(progress) = records.and_then(|records| records.last_mut()) {
            progress.headers.push(self.id.header());
        }
        self.pieces.push(piece);
        let last = self.pieces.len() - 1;
        if let Err(error) = self.write(last) {
            self.retry(error)?;
        }
        if ends {
            let heartbeat = self.is_heartbeat();
            let last = self.pieces.pop().and_then(|piece| piece.end?.records.pop());
            self.last = last.or_else(|| self.last.take());
            self.pieces.clear();
            self.attempts = Attempts::default();
            let next = self.id.next();
            self.newest = Some(std::mem::replace(&mut self.id, next));
            let metrics = &self.committing.metrics;
            if !heartbeat {
                metrics.commit.observe(begun.elapsed().as_secs_f64());
            }
            metrics.transactions.with_label_values(&["committed"]).inc();
        }
        Ok(())
    }

    /// Whether the transaction contains only progress.
    fn is_heartbeat(&self) -> bool {
        self.pieces.first().is_some_and(|piece| {
            let progress_alone = piece.end.as_ref().is_some_and(|end| end.records.len() == 1);
            piece.results.is_empty() && progress_alone
        })
    }

    /// Returns the record with which the transaction begins: the progress of the previous commit. A transaction of
    /// progress alone does not need this record, since it writes to the progress topic anyway.
    fn opening(&self) -> Option<NewRecord> {
        self.last.clone().filter(|_| !self.is_heartbeat())
    }

    /// Writes the pieces from number `first` on, and commits the transaction if the last piece has its end.
    fn write(&mut self, first: usize) -> Result<(), LogError> {
        let opening = self.opening().filter(|_| first == 0);
        let transactor = &mut self.committing.transactor;
        if let Some(opening) = opening {
            transactor.write(vec![opening])?;
        }
        for piece in &self.pieces[first..] {
            for some in piece.results.chunks(RECORDS_PER_WRITE) {
                let records = some.iter().map(|result| result.record());
                transactor.write(records.collect())?;
            }
            if let Some(end) = &piece.end {
                transactor.commit(end.records.clone())?;
            }
        }
        Ok(())
    }

    /// Retries a failed transaction until it succeeds or the policy ends the run.
    fn retry(&mut self, error: LogError) -> Result<(), Ended> {
        let mut failed = Failed::Writing(error);
        loop {
            let outcome = ["failed"];
            let metrics = &self.committing.metrics;
            metrics.transactions.with_label_values(&outcome).inc();
            let reason = failed.to_string();
            let rejected = self.topics().rejected.clone();
            let transaction = Transaction {
                rejected: &rejected,
                bytes: self.bytes(),
                timeout: self.committing.timeout,
            };
            match self.attempts.on(failed, transaction, Instant::now()) {
                Next::Retry(pause) => {
                    self.committing.holds.commit_failing(Some(reason));
                    self.pause(pause)?;
                }
                Next::Shorten(bytes, error) => self.shorten(bytes, error)?,
                Next::End(error) => return Err(Ended::Failed(error)),
            }
            failed = match self.reopen() {
                Err(error) => Failed::Opening(error),
                Ok(true) => break,
                Ok(false) => match self.write(0) {
                    Ok(()) => break,
                    Err(error) => Failed::Writing(error),
                },
            };
        }
        self.committing.holds.commit_failing(None);
        Ok(())
    }

    /// Returns the end offset of each partition of the topic of final results; `None` if a broker does not respond in
    /// time.
    fn window_ends(&self) -> Option<Vec<(u32, u64)>> {
        let topic = self.topics().finals.clone();
        let ends = self.committing.log.high_watermarks(&topic, ENDS_TIMEOUT);
        let ends: Result<Vec<u64>, LogError> = ends.and_then(|ends| ends.into_iter().collect());
        let ends = ends.inspect_err(|error| tracing::debug!(%error, "no end offsets"));
        Some((0..).zip(ends.ok()?).collect())
    }

    fn topics(&self) -> &Topics {
        &self.committing.topics
    }

    /// Returns the size of the results of the transaction, bytes.
    fn bytes(&self) -> usize {
        let results = self.pieces.iter().flat_map(|piece| &piece.results);
        results.map(|result| result.bytes()).sum()
    }

    fn pause(&self, pause: Duration) -> Result<(), Ended> {
        let until = Instant::now() + pause;
        loop {
            if self.committing.stop.is_requested() || self.closing.load(Ordering::Acquire) {
                return Err(Ended::Stopped);
            }
            if Instant::now() >= until {
                return Ok(());
            }
            thread::sleep(STOP_CHECK_INTERVAL);
        }
    }

    /// Opens another transactor. Returns whether the failed transaction was committed.
    ///
    /// The newest commit is also read before the transactor is opened: if another run has taken over, this one must not
    /// fence it.
    fn reopen(&mut self) -> Result<bool, LogError> {
        let (log, timeout) = (self.committing.log.clone(), self.committing.timeout);
        self.is_committed()?;
        newest::require_result_topics(self.topics(), &*log)?;
        self.committing.transactor = newest::fence(self.topics(), &*log, timeout)?;
        self.is_committed()
    }

    /// Whether the newest commit in the log is the current transaction.
    ///
    /// # Errors
    ///
    /// [`LogError::Fenced`] if another run has committed.
    fn is_committed(&self) -> Result<bool, LogError> {
        let newest = newest::newest_commit(self.topics(), &*self.committing.log)?;
        if newest.as_ref() == Some(&self.id) {
            return Ok(true);
        }
        if newest == self.newest {
            return Ok(false);
        }
        let id = self.topics().application_id.clone();
        Err(LogError::Fenced { id })
    }

    /// Removes key and value from the rejected records of at least `bytes` bytes. Fails with `error` if there are no
    /// such records.
    fn shorten(&mut self, bytes: usize, error: StreamsError) -> Result<(), Ended> {
        let rejected = self.topics().rejected.clone();
        let records = self.pieces.iter_mut().filter_map(|it| it.end.as_mut());
        let records = records.flat_map(|end| &mut end.records);
        let shortened = rejections::shorten(records, &rejected, bytes);
        if shortened == 0 {
            return Err(Ended::Failed(error));
        }
        tracing::warn!(
            "the log has not accepted {shortened} rejected record(s), which are written without their values now: {error}"
        );
        Ok(())
    }
}

impl Commit for CommitThread {
    fn begin(&mut self) {
        if let (Some(queue), Some(wake)) = (&self.queue, self.wake.take()) {
            // The queue always has space for this message. If the thread has ended, it has reported the failure.
            let _ = queue.try_send(Work::Begin(wake));
        }
    }

    fn write(&mut self, results: Vec<Box<dyn SinkResult>>) -> Result<(), Vec<Box<dyn SinkResult>>> {
        let Some(queue) = self.queue.as_ref().filter(|_| self.pieces < MAX_PIECES) else {
            return Err(results);
        };
        match queue.try_send(Work::Piece(Piece { results, end: None })) {
            Ok(()) => {
                self.pieces += 1;
                Ok(())
            }
            // If the thread has ended, it has reported the failure.
            Err(TrySendError::Full(work) | TrySendError::Disconnected(work)) => match work {
                Work::Piece(piece) => Err(piece.results),
                Work::Begin(_) => Ok(()),
            },
        }
    }

    /// Sends the end of the transaction. The queue always has space for it. If the thread has failed, the transaction
    /// is dropped, since the run stops.
    fn submit(
        &mut self,
        final_until_ms: u64,
        results: Vec<Box<dyn SinkResult>>,
        records: Vec<NewRecord>,
    ) {
        self.pieces = 0;
        if let Some(queue) = &self.queue {
            let end = Some(End {
                final_until_ms,
                records,
            });
            match queue.try_send(Work::Piece(Piece { results, end })) {
                // If the thread has ended, it has reported the failure.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(_)) => {
                    unreachable!("the queue has space for the end of a transaction")
                }
            }
        }
    }

    fn acknowledged(&mut self) -> bool {
        self.acks.try_recv().is_ok()
    }

    fn ends(&mut self) -> Option<WindowEnds> {
        self.ends.try_recv().ok()
    }
}

impl Drop for CommitThread {
    /// Waits for the transaction in flight, so that a stop does not abort a transaction that was submitted. Does not
    /// wait for retries of a failed transaction.
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::sync::mpsc::{Sender, channel};

    use emostream_log::embedded::EmbeddedLog;

    use super::*;
    use crate::{
        progress::{
            record::{COMMIT_HEADER, Progress},
            stored::progress_record,
        },
        testing::{TestResult, metrics, topics},
    };

    const DEADLINE: Duration = Duration::from_secs(60);
    const HEARTBEAT: Duration = Duration::from_millis(50);

    /// A call of a transactor: topics and commit numbers of the records, and whether they are committed.
    type Call = (Vec<(String, Option<u64>)>, bool);

    struct RecordingTransactor(Sender<Call>);

    impl RecordingTransactor {
        fn show(&self, records: &[NewRecord], ends: bool) {
            let number = |record: &NewRecord| {
                let id = record.headers.iter().find(|it| it.name == COMMIT_HEADER)?;
                let (_, number) = std::str::from_utf8(&id.value).ok()?.split_once('-')?;
                number.parse().ok()
            };
            let shown = records.iter().map(|it| (it.topic.clone(), number(it)));
            // The call fails only if the test has ended.
            let _ = self.0.send((shown.collect(), ends));
        }
    }

    impl Transactor for RecordingTransactor {
        fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
            self.show(&records, false);
            Ok(())
        }

        fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
            self.show(&records, true);
            Ok(())
        }
    }

    fn progress(final_until_ms: u64) -> NewRecord {
        let progress = Progress {
            final_until_ms,
            ..Progress::default()
        };
        progress_record(&topics(), &progress)
    }

    fn start(heartbeat: Duration) -> (CommitThread, Receiver<Call>) {
        let (calls, shown) = channel();
        let metrics = metrics();
        let committing = CommitterParams {
            transactor: Box::new(RecordingTransactor(calls)),
            log: Arc::new(EmbeddedLog::in_memory().unwrap()),
            topics: topics(),
            timeout: DEADLINE,
            newest: None,
            progress: progress(0),
            heartbeat,
            holds: Arc::new(Holds::new(topics().source, metrics.clone())),
            metrics,
            stop: Stop::default(),
        };
        (CommitThread::start(committing).unwrap().unwrap(), shown)
    }

    fn until_acknowledged(thread: &mut CommitThread) {
        let until = Instant::now() + DEADLINE;
        while !thread.acknowledged() {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn until_the_worker_loop_runs_the_progress_is_committed_at_each_heartbeat() {
        let (thread, shown) = start(HEARTBEAT);
        let mut thread = thread.attached(Box::new(|| {}));
        for number in 1..4 {
            let call = shown.recv_timeout(DEADLINE).unwrap();
            assert_eq!(call, (vec![(topics().progress, Some(number))], true));
        }
        thread.begin();
        // One heartbeat may be in flight when the worker loop begins.
        thread::sleep(HEARTBEAT);
        let _ = shown.try_iter().count();
        assert!(shown.recv_timeout(10 * HEARTBEAT).is_err());
    }

    #[test]
    fn a_transaction_begins_with_the_progress_of_the_commit_before() {
        let names = topics();
        let (mut thread, shown) = start(DEADLINE);
        let next = || shown.recv_timeout(DEADLINE).unwrap();
        assert_eq!(next(), (vec![(names.progress.clone(), Some(1))], true));
        for number in 2..4 {
            // The result is written before the end of the transaction is submitted.
            thread.write(vec![Box::new(TestResult::Final)]).unwrap();
            assert_eq!(
                next(),
                (vec![(names.progress.clone(), Some(number - 1))], false)
            );
            assert_eq!(next(), (vec![(names.finals.clone(), None)], false));
            thread.submit(
                number,
                vec![Box::new(TestResult::Final)],
                vec![progress(number)],
            );
            assert_eq!(next(), (vec![(names.finals.clone(), None)], false));
            assert_eq!(next(), (vec![(names.progress.clone(), Some(number))], true));
            until_acknowledged(&mut thread);
        }
        // A transaction of progress alone does not begin with the progress of the previous commit.
        thread.submit(4, Vec::new(), vec![progress(4)]);
        assert_eq!(next(), (vec![(names.progress.clone(), Some(4))], true));
        until_acknowledged(&mut thread);
        let mut rejected = progress(0);
        rejected.topic = names.rejected.clone();
        thread.submit(5, Vec::new(), vec![rejected, progress(5)]);
        assert_eq!(next(), (vec![(names.progress.clone(), Some(4))], false));
        assert_eq!(next().0.len(), 2);
    }
}
