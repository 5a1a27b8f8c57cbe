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

use std::{
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::Instant,
};

use emostream_log::{LogError, NewRecord, Transactor};

use crate::{
    DataflowError, Stop,
    metrics::Metrics,
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

/// Commits on a thread of its own.
pub struct CommitThread {
    queue: Option<SyncSender<Piece>>,
    /// How many of the transaction that is not ended yet were handed over.
    pieces: usize,
    acks: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// A part of a transaction, and what ends it.
struct Piece {
    results: Vec<WindowResult>,
    end: Option<Vec<NewRecord>>,
}

impl CommitThread {
    /// Starts the thread. `wake` is called after each acknowledgement; a failed commit stops the
    /// dataflow, since what the log holds then is known only by reading it.
    pub fn start(
        transactor: Box<dyn Transactor>,
        recording: Recording,
        wake: Wakeup,
        metrics: Metrics,
        stop: Stop,
    ) -> std::io::Result<CommitThread> {
        // The pieces and the end of a transaction, and the pieces of the one behind it.
        let (queue, work) = sync_channel::<Piece>(2 * MOST_PIECES + 1);
        let (ack, acks) = sync_channel(1);
        let mut writing = Writing {
            transactor,
            recording,
        };
        let run = move || {
            for piece in work {
                let begun = Instant::now();
                let ends = piece.end.is_some();
                if let Err(error) = writing.take(piece) {
                    metrics.transactions.with_label_values(&["failed"]).inc();
                    stop.fail(DataflowError::Log(error));
                    return;
                }
                if !ends {
                    continue;
                }
                metrics.commit.observe(begun.elapsed().as_secs_f64());
                metrics.transactions.with_label_values(&["committed"]).inc();
                if ack.send(()).is_err() {
                    return;
                }
                wake();
            }
        };
        let thread = std::thread::Builder::new()
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

/// The thread's side.
struct Writing {
    transactor: Box<dyn Transactor>,
    recording: Recording,
}

impl Writing {
    fn take(&mut self, piece: Piece) -> Result<(), LogError> {
        let mut results = piece.results.into_iter().peekable();
        while results.peek().is_some() {
            let some = results.by_ref().take(RECORDS_AT_ONCE);
            let records = some.map(|result| self.recording.record(result)).collect();
            self.transactor.write(records)?;
        }
        match piece.end {
            Some(records) => self.transactor.commit(records),
            None => Ok(()),
        }
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
    /// Waits for the transaction under way: a stop aborts none that was ended.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
