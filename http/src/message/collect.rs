//! Reading requests' bodies within limits: each, and all together.
//!
//! ```text
//!  piece ──▶ small yet? ──▶ the connection's own ────────────┐
//!              └ no ──────▶ room for it in common? ─▶ kept ───┴─▶ whole body
//!                                    └ no ─▶ 503
//! ```
//!
//! Invariant: room is taken for bytes that have come, never for bytes that were announced. So a client
//! that announces much and sends little takes nothing from the others.

use std::{ops::Deref, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{StatusCode, body::Body as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{Problem, Request};

/// As many bytes of each body need no room in common: they count as their connection's, which has read
/// buffers of that size anyway. Whoever sends one reaction, or an array of fifty, is therefore served
/// while others fill all the room with large bodies that they do not finish.
const SMALL_BODY_BYTES: usize = 4 << 10;

/// What is allowed to the bodies of a service's requests.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The most bytes of one body.
    pub body_bytes: usize,
    /// How long one may take to arrive.
    pub time: Duration,
    /// The most bytes of bodies that are being read or worked on at once, small ones not counted.
    pub together_bytes: u32,
}

/// Receives the bodies of a service's requests.
#[derive(Debug)]
pub struct BodyReader {
    limits: BodyLimits,
    room: Arc<Semaphore>,
}

/// A whole body. Its room is free again when it is dropped.
#[derive(Debug)]
pub struct CollectedBody {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for CollectedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body was not received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It has more bytes than allowed.
    #[error("the body has more than {body_bytes} bytes; send less at once")]
    TooLarge {
        /// The most that is taken.
        body_bytes: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Slow(Duration),
    /// Other bodies take all the room.
    #[error("too many large bodies arrive at once; nothing was kept, send it again later")]
    Crowded,
    /// The client broke off, or its framing is broken.
    #[error("the body broke off: {0}")]
    Broken(String),
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let detail = error.to_string();
        match error {
            BodyError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            BodyError::Slow(_) => Self::new(StatusCode::REQUEST_TIMEOUT, detail),
            BodyError::Broken(_) => Self::bad_request(detail),
            BodyError::Crowded => Self::unavailable(detail),
        }
    }
}

impl BodyReader {
    /// Receives within `limits`.
    pub fn new(limits: BodyLimits) -> Self {
        let room = Arc::new(Semaphore::new(limits.together_bytes as usize));
        Self { limits, room }
    }

    /// Refuses a body that says itself that it is too large, before it is asked for.
    pub fn check(&self, request: &Request) -> Result<(), BodyError> {
        let body_bytes = self.limits.body_bytes;
        if request.body().size_hint().lower() > body_bytes as u64 {
            return Err(BodyError::TooLarge { body_bytes });
        }
        Ok(())
    }

    /// The whole body.
    pub async fn read(&self, request: &mut Request) -> Result<CollectedBody, BodyError> {
        self.check(request)?;
        let BodyLimits {
            body_bytes, time, ..
        } = self.limits;
        let deadline = Instant::now() + time;
        let body = request.body_mut();
        let (mut pieces, mut room) = (Pieces::default(), None);
        while let Some(frame) = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| BodyError::Slow(time))?
        {
            let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            let bytes = pieces.len() + piece.len();
            if bytes > body_bytes {
                return Err(BodyError::TooLarge { body_bytes });
            }
            self.make_room(&mut room, bytes)?;
            pieces.push(piece);
        }
        Ok(CollectedBody {
            bytes: pieces.into_bytes(),
            _room: room,
        })
    }

    /// Takes as much more room as a body of `bytes` needs.
    fn make_room(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        bytes: usize,
    ) -> Result<(), BodyError> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.saturating_sub(SMALL_BODY_BYTES).saturating_sub(has);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| BodyError::Crowded)?;
        let room = self.room.clone().try_acquire_many_owned(more);
        let room = room.map_err(|_| BodyError::Crowded)?;
        match held {
            Some(held) => held.merge(room),
            none => *none = Some(room),
        }
        Ok(())
    }
}

/// Pieces put together; a body that comes in one piece, as most do, is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    joined: BytesMut,
}

impl Pieces {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn push(&mut self, piece: Bytes) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.joined.extend_from_slice(&first);
        self.joined.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() {
            self.first
        } else {
            self.joined.freeze()
        }
    }
}
