//! The streams of an HTTP/2 connection: how many are open, and which wait for the client.
//!
//! ```text
//!  open ──▶ with us: reads, works, waits for news ⇄ with the client: pieces wait to be sent ──▶ all are sent: ended
//! ```
//!
//! TCP tells nothing of a client that reads the connection but gives one stream no room to send, so each
//! answer's own progress is looked at.
//!
//! Invariant: a stream is open until its last piece is written to the socket. hyper drops the body of a response before:
//! up to 64 KiB of each wait in its buffers, and would be lost if the connection was ended as an idle one.

#![allow(clippy::disallowed_methods, reason = "times the streams of a client")]

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

/// Responses are sent in pieces of a frame's size, so that hyper buffers no more than one or two pieces of each.
const PIECE_BYTES: usize = 16 << 10;

/// The streams of one connection.
pub(crate) struct Streams {
    open: Mutex<Open>,
    /// The listener's places for streams beside a connection's first.
    beside: Arc<Semaphore>,
}

struct Open {
    /// Since when the client has left a piece of it standing, for each.
    streams: BTreeMap<u64, Option<Instant>>,
    next: u64,
    none_since: Instant,
}

/// How long a connection is borne.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From when on it counts as idle, if it is.
    pub(crate) from: Instant,
    /// Without a stream.
    pub(crate) idle: Duration,
    /// With a piece of an answer that is not taken.
    pub(crate) unread: Duration,
}

/// What a look at the streams shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// All is well; it cannot change before then.
    Again(Instant),
    /// There was no stream for too long.
    Idle,
    /// An answer was left standing for too long.
    Unread,
}

impl Streams {
    pub(crate) fn new(beside: Arc<Semaphore>) -> Arc<Self> {
        let open = Open {
            streams: BTreeMap::new(),
            next: 0,
            none_since: Instant::now(),
        };
        Arc::new(Self {
            open: Mutex::new(open),
            beside,
        })
    }

    /// One more. The first of a connection has its connection's place, another needs one of its own: `None`
    /// if there is none left.
    pub(crate) fn open(self: &Arc<Self>) -> Option<Stream> {
        let mut open = self.lock();
        let place = match open.streams.is_empty() {
            true => None,
            false => Some(self.beside.clone().try_acquire_owned().ok()?),
        };
        let number = open.next;
        open.next += 1;
        open.streams.insert(number, None);
        Some(Stream {
            streams: self.clone(),
            number,
            _place: place,
        })
    }

    pub(crate) fn look(&self, patience: Patience) -> Look {
        let (now, open) = (Instant::now(), self.lock());
        let waits = open.streams.values().flatten().min();
        // What begins from now on ends no earlier than this.
        let (mut idle, mut unread) = (now + patience.idle, now + patience.unread);
        if let Some(since) = waits {
            unread = *since + patience.unread;
        }
        if open.streams.is_empty() {
            idle = open.none_since.max(patience.from) + patience.idle;
        }
        if unread <= now {
            Look::Unread
        } else if idle <= now {
            Look::Idle
        } else {
            Look::Again(unread.min(idle))
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream; dropped, it has ended.
pub(crate) struct Stream {
    streams: Arc<Streams>,
    number: u64,
    _place: Option<OwnedSemaphorePermit>,
}

impl Stream {
    fn waits(&self, since: Option<Instant>) {
        self.streams.lock().streams.insert(self.number, since);
    }

    /// The client has received a piece: if more of them wait, they wait from now on.
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
            open.none_since = Instant::now();
        }
    }
}

/// The body of a response, in pieces.
pub(crate) struct Answered {
    body: Body,
    /// The rest of a piece that was too long.
    rest: Bytes,
    /// None: a refusal, which is as short as its connection's patience, or HTTP/1.
    stream: Option<Arc<Stream>>,
}

/// A piece of a response, which hyper drops when it is written to the socket. Until then its stream is open.
pub(crate) struct Piece {
    bytes: Bytes,
    stream: Option<Arc<Stream>>,
}

impl Buf for Piece {
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

impl Drop for Piece {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream {
            stream.sent();
        }
    }
}

impl Answered {
    pub(crate) fn new(body: Body, stream: Option<Stream>) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            stream: stream.map(Arc::new),
        }
    }

    fn waits(&self, since: Option<Instant>) {
        if let Some(stream) = &self.stream {
            stream.waits(since);
        }
    }
}

impl HttpBody for Answered {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            // It asks for more, so the client has taken what there was.
            this.waits(None);
            match Pin::new(&mut this.body).poll_frame(cx) {
                // No response has trailers.
                Poll::Ready(Some(Ok(frame))) => this.rest = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        let bytes = this.rest.len().min(PIECE_BYTES);
        this.waits(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(Piece {
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
