//! The open streams of an HTTP/2 connection, and whether each of them waits for the client.
//!
//! ```text
//!  open ──▶ the server reads, works, waits for data ⇄ chunks wait to be sent to the client ──▶ all are sent: ended
//! ```
//!
//! A client can keep the flow-control window of a stream closed although it reads from the connection. The write
//! timeout of the TCP stream does not detect this, so this module tracks the progress of each response.
//!
//! Invariant: a stream is open until its last chunk is written to the socket. hyper drops the body of a response
//! earlier, when up to 64 KiB of the body are still in hyper's buffers. If the stream ended when the body is dropped,
//! the connection could be closed as idle, and these bytes would be lost.

#![allow(
    clippy::disallowed_methods,
    reason = "measures how long streams wait for a client"
)]

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::Body;

/// Maximum bytes of a chunk. This is the default size of an HTTP/2 frame, so that hyper buffers no more than one or two
/// chunks of each response.
const CHUNK_BYTES: usize = 16 << 10;

/// The streams of one connection.
pub(crate) struct Streams {
    open: Mutex<Open>,
    /// The permits of the listener. The first stream of a connection needs no permit, and all further streams need one.
    extra_streams: Arc<Semaphore>,
}

struct Open {
    /// For each open stream, the time at which its oldest unsent chunk began to wait. `None` if no chunk waits.
    streams: BTreeMap<u64, Option<Instant>>,
    next: u64,
    idle_since: Instant,
}

/// Timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamTimeouts {
    /// Earliest time at which the connection can become idle.
    pub(crate) from: Instant,
    /// Timeout of a connection without open streams.
    pub(crate) idle: Duration,
    /// Timeout of a chunk that the client does not read.
    pub(crate) write_timeout: Duration,
}

/// The state of a connection's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamsState {
    /// No timeout has passed, and none will pass before this time.
    Active(Instant),
    /// No stream was open for the idle timeout.
    Idle,
    /// The client did not read a chunk within the write timeout.
    WriteTimeout,
}

impl Streams {
    pub(crate) fn new(extra_streams: Arc<Semaphore>) -> Arc<Self> {
        let open = Open {
            streams: BTreeMap::new(),
            next: 0,
            idle_since: Instant::now(),
        };
        Arc::new(Self {
            open: Mutex::new(open),
            extra_streams,
        })
    }

    /// Opens a stream. If it is the only open stream of its connection, it uses the permit of the connection. Otherwise
    /// it needs a permit of its own, and the result is `None` if no permit is free.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Stream> {
        let mut open = self.lock();
        let permit = match open.streams.is_empty() {
            true => None,
            false => Some(self.extra_streams.clone().try_acquire_owned().ok()?),
        };
        let number = open.next;
        open.next += 1;
        open.streams.insert(number, None);
        Some(Stream {
            streams: self.clone(),
            number,
            _permit: permit,
        })
    }

    /// Returns which timeout has passed, or the time before which no timeout can pass.
    pub(crate) fn state(&self, timeouts: StreamTimeouts) -> StreamsState {
        let (now, open) = (Instant::now(), self.lock());
        let oldest_pending = open.streams.values().flatten().min();
        // No stream that is opened after this call has an earlier deadline than these.
        let (mut idle_deadline, mut write_deadline) =
            (now + timeouts.idle, now + timeouts.write_timeout);
        if let Some(since) = oldest_pending {
            write_deadline = *since + timeouts.write_timeout;
        }
        if open.streams.is_empty() {
            idle_deadline = open.idle_since.max(timeouts.from) + timeouts.idle;
        }
        if write_deadline <= now {
            StreamsState::WriteTimeout
        } else if idle_deadline <= now {
            StreamsState::Idle
        } else {
            StreamsState::Active(write_deadline.min(idle_deadline))
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream. The stream ends when this value is dropped.
pub(crate) struct Stream {
    streams: Arc<Streams>,
    number: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Stream {
    fn set_pending_since(&self, since: Option<Instant>) {
        self.streams.lock().streams.insert(self.number, since);
    }

    /// Notes that a chunk was sent. If further chunks wait, their timeout starts again now.
    fn sent(&self) {
        let mut open = self.streams.lock();
        if let Some(Some(since)) = open.streams.get_mut(&self.number) {
            *since = Instant::now();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.streams.remove(&self.number);
        if open.streams.is_empty() {
            open.idle_since = Instant::now();
        }
    }
}

/// The body of a response, split into chunks whose progress is tracked.
pub(crate) struct TrackedBody {
    body: Body,
    /// The part of a long body frame that was not returned as a chunk yet.
    rest: Bytes,
    /// `None` for HTTP/1, and for the response to a refused request, which is too short to be tracked.
    stream: Option<Arc<Stream>>,
}

/// A chunk of a response. hyper drops it when it is written to the socket, and the stream is open until then.
pub(crate) struct TrackedChunk {
    bytes: Bytes,
    stream: Option<Arc<Stream>>,
}

impl Buf for TrackedChunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
    }
}

impl Drop for TrackedChunk {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            stream.sent();
        }
    }
}

impl TrackedBody {
    pub(crate) fn new(body: Body, stream: Option<Stream>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            stream: stream.map(Arc::new),
        }
    }

    fn set_pending_since(&self, since: Option<Instant>) {
        if let Some(stream) = &self.stream {
            stream.set_pending_since(since);
        }
    }
}

impl HttpBody for TrackedBody {
    type Data = TrackedChunk;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<TrackedChunk>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            // hyper polls the body again, so it has sent the previous chunk.
            this.set_pending_since(None);
            match Pin::new(&mut this.body).poll_frame(cx) {
                // No response of this server has trailers, so a frame without data is treated as an empty one.
                Poll::Ready(Some(Ok(frame))) => this.rest = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        let bytes = this.rest.len().min(CHUNK_BYTES);
        this.set_pending_since(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(TrackedChunk {
            bytes: this.rest.split_to(bytes),
            stream: this.stream.clone(),
        }))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
