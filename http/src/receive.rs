//! Reading a request's body within limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::{StatusCode, body::Body as _};
use tokio::time::{Instant, timeout_at};

use crate::{Problem, Request};

/// Why a body was not received.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It has more bytes than allowed.
    #[error("the body has more than {max_bytes} bytes; send less at once")]
    TooLarge {
        /// The most that is taken.
        max_bytes: usize,
    },
    /// It did not arrive in time.
    #[error("the body did not arrive within {} s", .0.as_secs())]
    Slow(Duration),
    /// The client broke off, or its framing is broken.
    #[error("the body broke off: {0}")]
    Broken(String),
}

impl BodyError {
    /// The status to answer with.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        Self::new(error.status(), error.to_string())
    }
}

/// The whole body, at most `max_bytes`, within `patience`.
///
/// A `Content-Length` beyond the limit is refused before the body is asked for; no memory is taken
/// for bytes that were only announced.
pub async fn read_body(
    request: &mut Request,
    max_bytes: usize,
    patience: Duration,
) -> Result<Bytes, BodyError> {
    let deadline = Instant::now() + patience;
    let body = request.body_mut();
    if body.size_hint().lower() > max_bytes as u64 {
        return Err(BodyError::TooLarge { max_bytes });
    }
    let mut received = Received::default();
    while let Some(frame) = timeout_at(deadline, body.frame())
        .await
        .map_err(|_| BodyError::Slow(patience))?
    {
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        if received.len() + piece.len() > max_bytes {
            return Err(BodyError::TooLarge { max_bytes });
        }
        received.push(piece);
    }
    Ok(received.into_bytes())
}

/// Pieces put together; a body that comes in one piece, as most do, is not copied.
#[derive(Default)]
struct Received {
    first: Bytes,
    joined: BytesMut,
}

impl Received {
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
