//! The framing of Server-Sent Events (WHATWG HTML, "Server-sent events").

use hyper::Version;

/// The field `retry`: the delay in ms after which a browser reconnects.
const RETRY: &str = "retry: 2000\n\n";

/// The end of a chunk (RFC 9112, 7.1).
pub(super) const CHUNK_END: &str = "\r\n";

/// Encodes a piece as a chunk of HTTP/1.1.
pub(super) fn chunk(piece: &str) -> String {
    format!("{:x}\r\n{piece}{CHUNK_END}", piece.len())
}

/// The framing of the stream over HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// HTTP/1.1: the stream is sent in chunks, and an empty chunk ends it.
    Chunks,
    /// HTTP/1.0, which nginx uses for its upstreams: the stream ends when the connection is closed.
    Bare,
}

impl Framing {
    /// Returns the framing for a version of HTTP, or `None` for HTTP/2, which has its own framing.
    pub(crate) fn of(version: Version) -> Option<Self> {
        match version {
            Version::HTTP_11 => Some(Self::Chunks),
            Version::HTTP_10 | Version::HTTP_09 => Some(Self::Bare),
            _ => None,
        }
    }

    /// Returns the first bytes of the stream: the field `retry`.
    pub(crate) fn retry(self) -> String {
        match self {
            Self::Chunks => chunk(RETRY),
            Self::Bare => RETRY.to_owned(),
        }
    }

    /// Returns the last bytes of the stream.
    pub(crate) fn end(self) -> &'static [u8] {
        match self {
            Self::Chunks => b"0\r\n\r\n",
            Self::Bare => b"",
        }
    }
}
