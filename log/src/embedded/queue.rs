//! The queue of the writer thread. It has a bounded number of appends, and other requests whose callers wait for the
//! result.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    time::Duration,
};

use crate::{Done, LogError, NewRecord, TopicSpec};

/// Maximum number of queued appends: a slow disk needs some seconds to write them. Further appends fail with
/// [`LogError::Full`], so that the callers can refuse requests of their own clients.
const MAX_QUEUE_RECORDS: usize = 100_000;
/// Maximum bytes of queued appends, so that large records cannot use all memory of the process.
const MAX_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Channel that sends the result of a request to the waiting caller.
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
        // Sending fails if the caller no longer waits, which is not an error.
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

/// The queue. It limits the number of appends. Every other request has a caller that waits for the result, so there are
/// never more of these requests than callers.
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
    /// Queues `request`, or returns an error; if it returns an error, the callback of the request is not called.
    pub(super) fn offer(&self, request: Request) -> Result<(), LogError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(closed());
        }
        if let Request::Append { record, .. } = &request {
            let bytes = record_bytes(record);
            // If no append is queued, a record of any size is accepted. A record that is larger than the limit would
            // otherwise get `Full` at each retry, and never the writer's error that it is too large.
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

    /// Removes and returns at most `limit` requests, in order. Waits at most `timeout` for the first request; returns
    /// no requests if none arrives by then. Returns `None` if the queue is closed and empty.
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

    /// Refuses further requests. Queued requests are still executed.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// Refuses all queued requests and all further requests, since the writer has ended.
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
