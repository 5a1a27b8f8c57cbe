//! The one body that answers have: bytes known at once, a stream of them, or somebody who takes the socket
//! over.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::Taken;

/// Who goes on with a socket.
pub(crate) type Takeover = Box<dyn FnOnce(Taken) + Send>;

/// The body of an answer. It cannot fail: a stream that has to break off ends.
#[derive(Default)]
pub struct Body(Content);

#[derive(Default)]
enum Content {
    #[default]
    Nothing,
    Bytes(Bytes),
    Channel(mpsc::Receiver<Bytes>),
    Stream(Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>),
    Takeover(Takeover),
}

/// Feeds a [`Body::channel`]; dropped, it ends the body.
#[derive(Debug, Clone)]
pub struct BodySender(mpsc::Sender<Bytes>);

/// The client has gone, or the channel is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Nobody reads this body any more.
    #[error("the client has gone")]
    Gone,
    /// The client is slower than what is sent.
    #[error("the client reads too slowly")]
    Full,
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A body fed piece by piece, at most `pieces` of them waiting.
    pub fn channel(pieces: usize) -> (BodySender, Self) {
        let (sender, receiver) = mpsc::channel(pieces);
        (BodySender(sender), Self(Content::Channel(receiver)))
    }

    /// No body: `take` gets the socket, with the answer's head still to be written, and HTTP is over there.
    /// How the answer is framed is `take`'s business, so its headers say that.
    ///
    /// For HTTP/1 alone; over HTTP/2, which has many requests on a socket, the answer ends with its head.
    /// Nobody takes over if the client has gone meanwhile. `take` must not wait.
    pub fn takeover(take: impl FnOnce(Taken) + Send + 'static) -> Self {
        Self(Content::Takeover(Box::new(take)))
    }

    pub(crate) fn take_over(&mut self) -> Option<Takeover> {
        match std::mem::take(&mut self.0) {
            Content::Takeover(takeover) => Some(takeover),
            content => {
                self.0 = content;
                None
            }
        }
    }

    /// A body that makes its pieces itself.
    pub fn stream(body: impl HttpBody<Data = Bytes, Error = Infallible> + Send + 'static) -> Self {
        Self(Content::Stream(Box::pin(body)))
    }
}

impl BodySender {
    /// Sends a piece, waiting while the channel is full.
    pub async fn send(&self, piece: Bytes) -> Result<(), Closed> {
        self.0.send(piece).await.map_err(|_| Closed::Gone)
    }

    /// Sends a piece if there is room for it now.
    pub fn try_send(&self, piece: Bytes) -> Result<(), Closed> {
        self.0.try_send(piece).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Closed::Full,
            mpsc::error::TrySendError::Closed(_) => Closed::Gone,
        })
    }

    /// Returns once nobody reads this body any more.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() {
            Self::empty()
        } else {
            Self(Content::Bytes(bytes))
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Content::Nothing => "no bytes",
            Content::Bytes(_) => "bytes",
            Content::Channel(_) | Content::Stream(_) => "a stream",
            Content::Takeover(_) => "the socket",
        })
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let content = &mut self.get_mut().0;
        match content {
            Content::Nothing | Content::Takeover(_) => Poll::Ready(None),
            Content::Bytes(_) => match std::mem::take(content) {
                Content::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Content::Channel(pieces) => {
                let piece = pieces.poll_recv(cx);
                piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
            }
            Content::Stream(stream) => stream.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Nothing | Content::Takeover(_) => true,
            Content::Bytes(_) | Content::Channel(_) => false,
            Content::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Nothing | Content::Takeover(_) => SizeHint::with_exact(0),
            Content::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Channel(_) => SizeHint::default(),
            Content::Stream(stream) => stream.size_hint(),
        }
    }
}
