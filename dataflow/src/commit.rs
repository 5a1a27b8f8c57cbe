//! The thread that commits, so that a timely worker never waits for the log.
//!
//! ```text
//!  sink ──results, as they come──▶ commit thread ──records──▶ the log's open transaction
//!    │                                   │
//!    ├──the rest: results, progress──────┴──commit──▶ durable
//!    ▲                                                  │
//!    └──────────────────ack, wake───────────────────────┘
//! ```
//!
//! Results are written while the worker still computes others of their window: a close of many rooms takes
//! two cores then, not one after the other. A transaction that is never committed leaves nothing behind.
//!
//! A transaction that fails is kept, and written again by a new transactor as [`crate::attempts`] says. Whether the
//! failed one was committed all the same is read from the progress topic: each progress record has the id of its
//! commit in a header. Where the newest one is of another run, that run has taken over.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_log::{Log, LogError, NewRecord, Transactor};
use emostream_model::Topics;

use crate::{
    DataflowError, Stop,
    attempts::{Attempts, Failed, Next, Transaction},
    holds::Holds,
    metrics::Metrics,
    progress::CommitId,
    recovery,
    results::{Recording, WindowResult},
};

/// Wakes the sink after an acknowledgement.
pub type Wakeup = Box<dyn Fn() + Send>;

/// How many pieces of a transaction wait for the thread at most; what comes then waits in the sink, and
/// goes with the next. A close comes in a handful, one each time that the sink runs.
const MOST_PIECES: usize = 64;

/// How many records are made before the log gets them: enough to be worth the call, few enough that their
/// memory stays in the processor's cache.
const RECORDS_AT_ONCE: usize = 64;

/// How often a pause looks whether the dataflow is to stop.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// Commits one transaction after the other, while the sink goes on.
pub trait Commit {
    /// Hands over results of the next transaction; gives them back if they must wait.
    fn write(&mut self, results: Vec<WindowResult>) -> Result<(), Vec<WindowResult>>;

    /// Hands over the rest of the next transaction, which ends it. Only after the previous one was
    /// acknowledged.
    fn submit(&mut self, results: Vec<WindowResult>, records: Vec<NewRecord>);

    /// Whether the transaction handed over last was acknowledged since the last call.
    fn acknowledged(&mut self) -> bool;
}

/// Starts what commits, given what wakes the sink; `None` on a worker that has none.
pub type StartCommitter = Box<dyn FnOnce(Wakeup) -> Option<Box<dyn Commit>> + Send>;

/// What a run commits with.
pub struct Committing {
    /// The only transactor that can commit.
    pub transactor: Box<dyn Transactor>,
    /// Opens another one after a failure.
    pub log: Arc<dyn Log>,
    /// What results become records by.
    pub recording: Recording,
    /// The timeout of transactions.
    pub timeout: Duration,
    /// The newest commit when the run began.
    pub newest: Option<CommitId>,
    /// Where a failure that lasts is reported.
    pub holds: Arc<Holds>,
    /// What to count.
    pub metrics: Metrics,
    /// Where a failure is reported that ends the dataflow.
    pub stop: Stop,
}

/// Commits on a thread of its own.
pub struct CommitThread {
    queue: Option<SyncSender<Piece>>,
    /// How many of the transaction that is not ended yet were handed over.
    pieces: usize,
    acks: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// A part of a transaction, and what ends it: the progress is the last record.
struct Piece {
    results: Vec<WindowResult>,
    end: Option<Vec<NewRecord>>,
}

impl CommitThread {
    /// Starts the thread. `wake` is called after each acknowledgement.
    pub fn start(committing: Committing, wake: Wakeup) -> std::io::Result<CommitThread> {
        // The pieces and the end of a transaction, and the pieces of the one behind it.
        let (queue, work) = sync_channel::<Piece>(2 * MOST_PIECES + 1);
        let (ack, acks) = sync_channel(1);
        let mut writing = Writing {
            id: CommitId::first(),
            newest: committing.newest.clone(),
            committing,
            pieces: Vec::new(),
            attempts: Attempts::default(),
        };
        let run = move || {
            for piece in work {
                let begun = Instant::now();
                let ends = piece.end.is_some();
                match writing.take(piece) {
                    Ok(()) => {}
                    Err(Ended::Stopped) => return,
                    Err(Ended::Failed(error)) => return writing.committing.stop.fail(error),
                }
                if !ends {
                    continue;
                }
                let metrics = &writing.committing.metrics;
                metrics.commit.observe(begun.elapsed().as_secs_f64());
                metrics.transactions.with_label_values(&["committed"]).inc();
                if ack.send(()).is_err() {
                    return;
                }
                wake();
            }
        };
        let thread = thread::Builder::new()
            .name("commit".to_owned())
            .spawn(run)?;
        Ok(CommitThread {
            queue: Some(queue),
            pieces: 0,
            acks,
            thread: Some(thread),
        })
    }
}

/// Why the thread ends.
enum Ended {
    /// The dataflow is stopping, and what is not committed is for the next run.
    Stopped,
    /// The dataflow cannot go on.
    Failed(DataflowError),
}

/// The thread's side.
struct Writing {
    committing: Committing,
    /// Of the transaction that is not acknowledged yet: what has to be written again after a failure.
    pieces: Vec<Piece>,
    /// How it failed so far.
    attempts: Attempts,
    /// The id of that transaction.
    id: CommitId,
    /// The commit before it.
    newest: Option<CommitId>,
}

impl Writing {
    fn take(&mut self, mut piece: Piece) -> Result<(), Ended> {
        let ends = piece.end.is_some();
        if let Some(progress) = piece.end.as_mut().and_then(|records| records.last_mut()) {
            progress.headers.push(self.id.header());
        }
        self.pieces.push(piece);
        let last = self.pieces.len() - 1;
        if let Err(error) = self.write(last) {
            self.retry(error)?;
        }
        if ends {
            self.pieces.clear();
            self.attempts = Attempts::default();
            let next = self.id.next();
            self.newest = Some(std::mem::replace(&mut self.id, next));
        }
        Ok(())
    }

    /// Writes the pieces from that of number `first` on, and commits if the end is among them.
    fn write(&mut self, first: usize) -> Result<(), LogError> {
        let Committing {
            transactor,
            recording,
            ..
        } = &mut self.committing;
        for piece in &self.pieces[first..] {
            for some in piece.results.chunks(RECORDS_AT_ONCE) {
                let records = some.iter().map(|result| recording.record(result));
                transactor.write(records.collect())?;
            }
            if let Some(records) = &piece.end {
                transactor.commit(records.clone())?;
            }
        }
        Ok(())
    }

    /// Repeats a transaction that failed, until it succeeds or cannot.
    fn retry(&mut self, error: LogError) -> Result<(), Ended> {
        let mut failed = Failed::Writing(error);
        loop {
            let outcome = ["failed"];
            let metrics = &self.committing.metrics;
            metrics.transactions.with_label_values(&outcome).inc();
            let reason = failed.to_string();
            let rejected = self.topics().rejected();
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

    fn topics(&self) -> &Topics {
        &self.committing.recording.topics
    }

    /// How large the results of the transaction are.
    fn bytes(&self) -> usize {
        let results = self.pieces.iter().flat_map(|piece| &piece.results);
        results.map(WindowResult::bytes).sum()
    }

    fn pause(&self, pause: Duration) -> Result<(), Ended> {
        let until = Instant::now() + pause;
        loop {
            if self.committing.stop.is_requested() {
                return Err(Ended::Stopped);
            }
            if Instant::now() >= until {
                return Ok(());
            }
            thread::sleep(STOP_LOOK);
        }
    }

    /// Opens another transactor. Returns whether the failed transaction was committed.
    ///
    /// Progress is read before, too: a run that has taken over must not be fenced.
    fn reopen(&mut self) -> Result<bool, LogError> {
        let (log, timeout) = (self.committing.log.clone(), self.committing.timeout);
        self.is_committed()?;
        recovery::require_result_topics(self.topics(), &*log)?;
        self.committing.transactor = recovery::fence(self.topics(), &*log, timeout)?;
        self.is_committed()
    }

    /// Whether the newest commit is that of this transaction; [`LogError::Fenced`] if another run has committed.
    fn is_committed(&self) -> Result<bool, LogError> {
        let newest = recovery::newest_commit(self.topics(), &*self.committing.log)?;
        if newest.as_ref() == Some(&self.id) {
            return Ok(true);
        }
        if newest == self.newest {
            return Ok(false);
        }
        let id = recovery::transactional_id(self.topics());
        Err(LogError::Fenced { id })
    }

    /// Takes key and value from the rejected records of at least so many bytes; fails by `error` if there are none.
    fn shorten(&mut self, bytes: usize, error: DataflowError) -> Result<(), Ended> {
        let rejected = self.topics().rejected();
        let records = self.pieces.iter_mut().filter_map(|it| it.end.as_mut());
        let too_large = records
            .flatten()
            .filter(|record| record.topic == rejected && record.bytes() >= bytes.max(1));
        let mut shortened = 0;
        for record in too_large {
            record.key = None;
            record.value = Bytes::new();
            // Its own may be what the topic does not accept.
            record.time_ms = None;
            shortened += 1;
        }
        if shortened == 0 {
            return Err(Ended::Failed(error));
        }
        tracing::warn!("{shortened} rejected record(s) are written as headers alone: {error}");
        Ok(())
    }
}

impl Commit for CommitThread {
    fn write(&mut self, results: Vec<WindowResult>) -> Result<(), Vec<WindowResult>> {
        let Some(queue) = self.queue.as_ref().filter(|_| self.pieces < MOST_PIECES) else {
            return Err(results);
        };
        match queue.try_send(Piece { results, end: None }) {
            Ok(()) => {
                self.pieces += 1;
                Ok(())
            }
            // The thread has ended by a failure, which it has reported.
            Err(TrySendError::Full(piece) | TrySendError::Disconnected(piece)) => {
                Err(piece.results)
            }
        }
    }

    /// The queue always has room for it; after a failure it is not taken, and the dataflow is stopping.
    fn submit(&mut self, results: Vec<WindowResult>, records: Vec<NewRecord>) {
        self.pieces = 0;
        if let Some(queue) = &self.queue {
            let end = Some(records);
            match queue.try_send(Piece { results, end }) {
                // Without the thread: it has ended by a failure, which it has reported.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(_)) => unreachable!("the pieces before it are bounded"),
            }
        }
    }

    fn acknowledged(&mut self) -> bool {
        self.acks.try_recv().is_ok()
    }
}

impl Drop for CommitThread {
    /// Waits for the transaction under way, but not for one that failed: a stop aborts none that was ended.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
