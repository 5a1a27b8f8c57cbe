//! Messages over a stream, each with a maximum size and a timeout.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use emostream_model::{MessageError, RELAY_VERSION, RelayDown, RelayUp};

use crate::hub::rejected_update::RejectedUpdate;

/// Interval at which each side of a connection sends a heartbeat.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// Maximum time without received or accepted bytes. After this time the peer counts as lost. It is as long as three
/// heartbeats, so that a late heartbeat does not end the connection.
const PEER_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time of the handshake, from the first byte to the welcome.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(3);

/// Minimum speed at which a peer must send or read a message, in bytes per millisecond.
const MIN_BYTES_PER_MS: u64 = 128;

/// Maximum capacity of a buffer that is kept for the next message. A larger buffer is dropped.
const KEPT_BUFFER_BYTES: usize = 256 << 10;

/// A TCP connection, with or without TLS.
pub(super) trait AsyncStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> AsyncStream for S {}

/// The reason why a connection between two nodes has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the other side closed the connection")]
    Closed,
    #[error(
        "the other side closed the connection before its hello, as a relay of another version does; the relay's log \
         names both versions, and this process uses version {RELAY_VERSION} of the relay protocol"
    )]
    ClosedBeforeHello,
    #[error("{0}")]
    Io(io::Error),
    #[error("the other side has sent nothing for {0:?}")]
    Silent(Duration),
    #[error("the other side has read nothing for {0:?}")]
    Unread(Duration),
    #[error("the other side announced a message of {bytes} bytes, more than the maximum of {most}")]
    TooLong { bytes: usize, most: usize },
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("the other side sent a message that the protocol does not allow at this point")]
    UnexpectedMessage,
    #[error(transparent)]
    Refused(#[from] emostream_model::Refusal),
    #[error(transparent)]
    RejectedUpdate(#[from] RejectedUpdate),
    #[error("the other side has another token; set the same --relay-token-file at both")]
    NoProof,
    #[error("the upstream is not reachable: {0}")]
    Unreachable(io::Error),
    #[error(
        "the upstream accepts connections but sends nothing; if it requires TLS, add --upstream-tls or \
         --upstream-ca FILE"
    )]
    NoTls,
    #[error("the other side did not respond within {0:?}")]
    NoAnswer(Duration),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// Reads messages from a stream.
pub(super) struct MessageReader<R> {
    from: R,
    most_bytes: usize,
    message: Vec<u8>,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    /// Returns a reader that accepts messages of at most `most_bytes`.
    pub(super) fn new(from: R, most_bytes: usize) -> Self {
        Self {
            from,
            most_bytes,
            message: Vec::new(),
        }
    }

    /// Reads the next message from an upstream.
    pub(super) async fn down(&mut self) -> Result<RelayDown, LinkError> {
        Ok(RelayDown::decode(self.message().await?)?)
    }

    /// Reads the next message from a relay.
    pub(super) async fn up(&mut self) -> Result<RelayUp, LinkError> {
        Ok(RelayUp::decode(self.message().await?)?)
    }

    /// Reads the next message. There is a timeout for its start, for each read, and for the whole message.
    async fn message(&mut self) -> Result<&[u8], LinkError> {
        let silent = |_| LinkError::Silent(PEER_TIMEOUT);
        let length = timeout(PEER_TIMEOUT, self.from.read_u32());
        let bytes = length.await.map_err(silent)?? as usize;
        if bytes > self.most_bytes {
            let most = self.most_bytes;
            return Err(LinkError::TooLong { bytes, most });
        }
        self.message.clear();
        if self.message.capacity() > KEPT_BUFFER_BYTES {
            self.message = Vec::new();
        }
        // The buffer grows with the received bytes, not with the announced length, so a false length takes no memory.
        let mut announced = (&mut self.from).take(bytes as u64);
        let message = &mut self.message;
        let whole = async {
            while message.len() < bytes {
                let read = timeout(PEER_TIMEOUT, announced.read_buf(message));
                if read.await.map_err(silent)?? == 0 {
                    return Err(LinkError::Closed);
                }
            }
            Ok(())
        };
        match timeout(max_duration(bytes), whole).await {
            Ok(whole) => whole.map(|()| self.message.as_slice()),
            Err(_) => Err(LinkError::Silent(max_duration(bytes))),
        }
    }
}

/// Writes a message. Returns an error if the peer does not read it in time.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &[u8],
) -> Result<(), LinkError> {
    let unread = |_| LinkError::Unread(PEER_TIMEOUT);
    let whole = async {
        let mut rest = frame;
        while !rest.is_empty() {
            let written = timeout(PEER_TIMEOUT, to.write(rest))
                .await
                .map_err(unread)??;
            if written == 0 {
                return Err(LinkError::Closed);
            }
            rest = &rest[written..];
        }
        Ok(timeout(PEER_TIMEOUT, to.flush()).await.map_err(unread)??)
    };
    match timeout(max_duration(frame.len()), whole).await {
        Ok(whole) => whole,
        Err(_) => Err(LinkError::Unread(max_duration(frame.len()))),
    }
}

/// Returns the maximum time for a message of `bytes` bytes.
fn max_duration(bytes: usize) -> Duration {
    PEER_TIMEOUT + Duration::from_millis(bytes as u64 / MIN_BYTES_PER_MS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::MAX_UP_BYTES;

    async fn read(bytes: &[u8]) -> Result<RelayUp, LinkError> {
        MessageReader::new(bytes, MAX_UP_BYTES).up().await
    }

    #[tokio::test]
    async fn invalid_bytes_end_a_connection() {
        let whole = RelayUp::Heartbeat.frame();
        assert!(matches!(read(&whole).await, Ok(RelayUp::Heartbeat)));
        let giant = [0xff; 40];
        assert!(matches!(read(&giant).await, Err(LinkError::TooLong { .. })));
        for cut in [0, 2, whole.len() - 1] {
            assert!(matches!(read(&whole[..cut]).await, Err(LinkError::Closed)));
        }
        let empty = [0; 4];
        assert!(matches!(read(&empty).await, Err(LinkError::Message(_))));
    }

    #[tokio::test]
    async fn an_announced_length_takes_no_memory() {
        let announced = (MAX_UP_BYTES as u32).to_be_bytes();
        let bytes = [&announced[..], &[1; 10]].concat();
        let mut incoming = MessageReader::new(&bytes[..], MAX_UP_BYTES);
        assert!(matches!(incoming.up().await, Err(LinkError::Closed)));
        assert!(incoming.message.capacity() < 1024);
    }

    #[tokio::test]
    async fn incomplete_messages_and_peers_that_do_not_read_time_out() {
        let (mut here, there) = tokio::io::duplex(64);
        here.write_all(&[0, 0, 0, 9, 1]).await.unwrap();
        let mut incoming = MessageReader::new(there, MAX_UP_BYTES);
        let received = incoming.up().await;
        assert!(
            matches!(received, Err(LinkError::Silent(_))),
            "{received:?}"
        );
        let unread = write(&mut here, &[0; 1000]).await;
        assert!(matches!(unread, Err(LinkError::Unread(_))), "{unread:?}");
    }
}
