//! The thread that commits, so that a timely worker never waits for the log.
//!
//! ```text
//!  sink ──records──▶ commit thread ──transaction──▶ log
//!    ▲                     │
//!    └───────ack, wake─────┘
//! ```
//!
//! One transaction at a time: while it is under way the sink gathers the next.

use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::Instant,
};

use emostream_log::{NewRecord, Transactor};

use crate::{DataflowError, Stop, metrics::Metrics};

/// Wakes the sink after an acknowledgement.
pub type Wakeup = Box<dyn Fn() + Send>;

/// Commits one transaction after the other, while the sink goes on.
pub trait Commit {
    /// Hands over the next transaction. Only after the previous one was acknowledged.
    fn submit(&mut self, records: Vec<NewRecord>);

    /// Whether the transaction handed over last was acknowledged since the last call.
    fn acknowledged(&mut self) -> bool;
}

/// Starts what commits, given what wakes the sink; `None` on a worker that has none.
pub type StartCommitter = Box<dyn FnOnce(Wakeup) -> Option<Box<dyn Commit>> + Send>;

/// Commits on a thread of its own.
pub struct CommitThread {
    queue: Option<SyncSender<Vec<NewRecord>>>,
    acks: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    /// Starts the thread. `wake` is called after each acknowledgement; a failed commit stops the
    /// dataflow, since what the log holds then is known only by reading it.
    pub fn start(
        mut transactor: Box<dyn Transactor>,
        wake: Wakeup,
        metrics: Metrics,
        stop: Stop,
    ) -> std::io::Result<CommitThread> {
        let (queue, work) = sync_channel::<Vec<NewRecord>>(1);
        let (ack, acks) = sync_channel(1);
        let run = move || {
            for records in work {
                let begun = Instant::now();
                if let Err(error) = transactor.commit(records) {
                    metrics.transactions.with_label_values(&["failed"]).inc();
                    stop.fail(DataflowError::Log(error));
                    return;
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
            acks,
            thread: Some(thread),
        })
    }
}

impl Commit for CommitThread {
    /// The queue of one always has room; after a failure it is not taken, and the dataflow is stopping.
    fn submit(&mut self, records: Vec<NewRecord>) {
        if let Some(queue) = &self.queue {
            // A refusal means that the thread has ended by a failure, which it has reported.
            let _ = queue.try_send(records);
        }
    }

    fn acknowledged(&mut self) -> bool {
        self.acks.try_recv().is_ok()
    }
}

impl Drop for CommitThread {
    /// Waits for the transaction under way: a stop aborts none.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
