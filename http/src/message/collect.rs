//! Reads the bodies of requests within two limits: one for each body, and a budget for all bodies together.
//!
//! ```text
//!  chunk ──▶ still small? ──▶ counts as part of the connection ─┐
//!              └ no ────────▶ within the common budget? ─▶ kept ┴─▶ whole body
//!                                        └ no ─▶ 503
//! ```
//!
//! Invariant: the budget is charged for bytes that have arrived, never for announced bytes. So a client that announces
//! a large body and sends little uses no budget that other clients need.

use std::{ops::Deref, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{StatusCode, body::Body as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{Problem, Request};

/// The first bytes of each body are not charged to the budget, up to this number, since every connection has read
/// buffers of this size in any case. So a client that sends one reaction, or an array of fifty, is served even while
/// large bodies use the whole budget.
const SMALL_BODY_BYTES: usize = 4 << 10;

/// Limits of the bodies of a service's requests.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Maximum bytes of a body.
    pub body_bytes: usize,
    /// Timeout for receiving a body.
    pub time: Duration,
    /// The budget: maximum bytes of all bodies that are being received or processed. The first 4 KiB of each body do
    /// not count.
    pub total_bytes: u32,
}

/// Reads the bodies of a service's requests.
#[derive(Debug)]
pub struct BodyReader {
    limits: BodyLimits,
    budget: Arc<Semaphore>,
}

/// A whole body. Dropping it releases its part of the budget.
#[derive(Debug)]
pub struct CollectedBody {
    bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Deref for CollectedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The reason why a body was not received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body has more bytes than allowed.
    #[error("the body has more than {body_bytes} bytes; send fewer reactions at once")]
    TooLarge {
        /// Maximum bytes.
        body_bytes: usize,
    },
    /// The body did not arrive in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Slow(Duration),
    /// Other bodies use the whole budget.
    #[error("too many large bodies arrive at once; no reaction was accepted, retry later")]
    BudgetExceeded,
    /// The client disconnected, or the framing of the body is invalid.
    #[error("the body is incomplete: {0}")]
    Broken(String),
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let detail = error.to_string();
        match error {
            BodyError::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            BodyError::Slow(_) => Self::new(StatusCode::REQUEST_TIMEOUT, detail),
            BodyError::Broken(_) => Self::bad_request(detail),
            BodyError::BudgetExceeded => Self::unavailable(detail),
        }
    }
}

impl BodyReader {
    /// Creates a reader with these limits.
    pub fn new(limits: BodyLimits) -> Self {
        let budget = Arc::new(Semaphore::new(limits.total_bytes as usize));
        Self { limits, budget }
    }

    /// Returns an error if the announced length of the body exceeds the limit. So a client that sends `Expect:
    /// 100-continue` is refused before it sends the body (RFC 9110, 10.1.1).
    pub fn check(&self, request: &Request) -> Result<(), BodyError> {
        let body_bytes = self.limits.body_bytes;
        if request.body().size_hint().lower() > body_bytes as u64 {
            return Err(BodyError::TooLarge { body_bytes });
        }
        Ok(())
    }

    /// Reads the whole body.
    pub async fn read(&self, request: &mut Request) -> Result<CollectedBody, BodyError> {
        self.check(request)?;
        let BodyLimits {
            body_bytes, time, ..
        } = self.limits;
        let deadline = Instant::now() + time;
        let body = request.body_mut();
        let (mut chunks, mut budget) = (Chunks::default(), None);
        while let Some(frame) = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| BodyError::Slow(time))?
        {
            let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            let bytes = chunks.len() + chunk.len();
            if bytes > body_bytes {
                return Err(BodyError::TooLarge { body_bytes });
            }
            self.charge(&mut budget, bytes)?;
            chunks.push(chunk);
        }
        Ok(CollectedBody {
            bytes: chunks.into_bytes(),
            _permit: budget,
        })
    }

    /// Acquires permits from the budget until `held` covers a body of `bytes` bytes.
    fn charge(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        bytes: usize,
    ) -> Result<(), BodyError> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.saturating_sub(SMALL_BODY_BYTES).saturating_sub(has);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| BodyError::BudgetExceeded)?;
        let budget = self.budget.clone().try_acquire_many_owned(more);
        let budget = budget.map_err(|_| BodyError::BudgetExceeded)?;
        match held {
            Some(held) => held.merge(budget),
            none => *none = Some(budget),
        }
        Ok(())
    }
}

/// Joins the chunks of a body. Most bodies have a single chunk, which is not copied.
#[derive(Default)]
struct Chunks {
    first: Bytes,
    joined: BytesMut,
}

impl Chunks {
    fn len(&self) -> usize {
        self.first.len() + self.joined.len()
    }

    fn push(&mut self, chunk: Bytes) {
        if self.len() == 0 {
            self.first = chunk;
            return;
        }
        let first = std::mem::take(&mut self.first);
        self.joined.extend_from_slice(&first);
        self.joined.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() {
            self.first
        } else {
            self.joined.freeze()
        }
    }
}
