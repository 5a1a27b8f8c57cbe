//! What waits for the writer thread: a bounded queue of appends, and the few requests whose callers wait.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    time::Duration,
};

use crate::{Done, LogError, NewRecord, TopicSpec};

/// The most appends that wait: some seconds of work for a slow disk. Behind it callers hear
/// [`LogError::Full`] and can turn their own callers away.
const QUEUE_RECORDS: usize = 100_000;
/// The most bytes that wait, so that large records cannot take the process's memory.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Where a waiting caller gets its answer.
pub(super) type Reply<T> = SyncSender<Result<T, LogError>>;

/// What the writer is asked to do.
pub(super) enum Request {
    Append {
        record: NewRecord,
        done: Done,
    },
    Commit {
        id: String,
        epoch: u64,
        records: Vec<NewRecord>,
        reply: Reply<()>,
    },
    Fence {
        id: String,
        reply: Reply<u64>,
    },
    Create {
        spec: TopicSpec,
        reply: Reply<()>,
    },
    Sweep {
        reply: Reply<()>,
    },
}

impl Request {
    /// Answers without doing it.
    pub(super) fn refuse(self, error: LogError) {
        // A caller that has given up waiting is no error.
        match self {
            Self::Append { done, .. } => done(Err(error)),
            Self::Commit { reply, .. } | Self::Create { reply, .. } | Self::Sweep { reply } => {
                let _ = reply.send(Err(error));
            }
            Self::Fence { reply, .. } => {
                let _ = reply.send(Err(error));
            }
        }
    }
}

/// The queue. Appends are bounded here; every other request has a caller that waits for its answer, so
/// there are never more of them than callers.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    appends: usize,
    append_bytes: usize,
    closed: bool,
}

impl Queue {
    /// Queues `request`, or says at once why not; then nothing of it is called.
    pub(super) fn offer(&self, request: Request) -> Result<(), LogError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(closed());
        }
        if let Request::Append { record, .. } = &request {
            let bytes = record_bytes(record);
            // An empty queue takes any record, else one larger than the bound could never pass.
            let full = waiting.appends >= QUEUE_RECORDS
                || waiting.append_bytes.saturating_add(bytes) > QUEUE_BYTES;
            if full && waiting.appends > 0 {
                return Err(LogError::Full);
            }
            waiting.appends += 1;
            waiting.append_bytes += bytes;
        }
        waiting.requests.push_back(request);
        drop(waiting);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes at most `limit` requests, in order, waiting at most `patience` for the first one.
    /// `None` once the queue is closed and empty.
    pub(super) fn take(&self, limit: usize, patience: Duration) -> Option<Vec<Request>> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .filled
            .wait_timeout_while(waiting, patience, |waiting| {
                waiting.requests.is_empty() && !waiting.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.requests.is_empty() && waiting.closed {
            return None;
        }
        let count = limit.min(waiting.requests.len());
        let taken: Vec<Request> = waiting.requests.drain(..count).collect();
        for request in &taken {
            if let Request::Append { record, .. } = request {
                waiting.appends -= 1;
                waiting.append_bytes -= record_bytes(record);
            }
        }
        Some(taken)
    }

    /// Takes no more; what waits is still served.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Takes no more and refuses what waits: the writer is gone.
    pub(super) fn abandon(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let left = std::mem::take(&mut waiting.requests);
        drop(waiting);
        for request in left {
            request.refuse(closed());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a caller hears when the writer takes nothing any more.
pub(super) fn closed() -> LogError {
    LogError::Refused("the embedded log is closed".to_owned())
}

/// What a record counts towards [`QUEUE_BYTES`] and [`super::tables::MAX_RECORD_BYTES`].
pub(super) fn record_bytes(record: &NewRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|h| h.name.len() + h.value.len())
        .sum();
    record.topic.len() + record.bytes() + headers
}
