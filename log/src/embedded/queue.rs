//! The queue of the writer thread: a bounded number of appends, and requests whose callers block.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    time::Duration,
};

use crate::{Done, LogError, NewRecord, TopicSpec};

/// Maximum queued appends: some seconds of work for a slow disk. Further ones get [`LogError::Full`], so that callers
/// can refuse their own requests.
const MAX_QUEUE_RECORDS: usize = 100_000;
/// Maximum queued bytes, so that large records cannot use all memory of the process.
const MAX_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Sends the result to a waiting caller.
pub(super) type Reply<T> = SyncSender<Result<T, LogError>>;

/// A request to the writer.
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
    /// Completes the request with an error, without executing it.
    pub(super) fn refuse(self, error: LogError) {
        // Sending fails if the caller has stopped waiting.
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

/// The queue. Appends are bounded here; all other requests have a caller that waits for the result, so there are never
/// more of them than callers.
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
    /// Queues `request`, or refuses it; then its callback is not called.
    pub(super) fn offer(&self, request: Request) -> Result<(), LogError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(closed());
        }
        if let Request::Append { record, .. } = &request {
            let bytes = record_bytes(record);
            // An empty queue accepts any record: otherwise one larger than the limit could never be appended.
            let full = waiting.appends >= MAX_QUEUE_RECORDS
                || waiting.append_bytes.saturating_add(bytes) > MAX_QUEUE_BYTES;
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

    /// Removes at most `limit` requests, in order. Waits at most `timeout` for the first one. `None` when the queue is
    /// closed and empty.
    pub(super) fn drain(&self, limit: usize, timeout: Duration) -> Option<Vec<Request>> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .filled
            .wait_timeout_while(waiting, timeout, |waiting| {
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

    /// Refuses further requests; queued ones are still executed.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Refuses further and queued requests: the writer has ended.
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

/// Returns the error of requests after the writer has ended.
pub(super) fn closed() -> LogError {
    LogError::Refused("the embedded log is closed".to_owned())
}

/// Returns the bytes of a record that count towards [`MAX_QUEUE_BYTES`] and [`super::tables::MAX_RECORD_BYTES`].
pub(super) fn record_bytes(record: &NewRecord) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|h| h.name.len() + h.value.len())
        .sum();
    record.topic.len() + record.bytes() + headers
}
