//! The framing of Server-Sent Events (WHATWG HTML, "Server-sent events").

use hyper::Version;

/// The delay of a browser's reconnect.
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
    /// HTTP/1.1: chunks, of which the last is empty.
    Chunks,
    /// HTTP/1.0, which nginx uses to its upstreams: the end of the connection ends the stream.
    Bare,
}

impl Framing {
    /// The framing for a client of `version`; `None` for HTTP/2, which has its own.
    pub(crate) fn of(version: Version) -> Option<Self> {
        match version {
            Version::HTTP_11 => Some(Self::Chunks),
            Version::HTTP_10 | Version::HTTP_09 => Some(Self::Bare),
            _ => None,
        }
    }

    /// The first bytes of the stream.
    pub(crate) fn retry(self) -> String {
        match self {
            Self::Chunks => chunk(RETRY),
            Self::Bare => RETRY.to_owned(),
        }
    }

    /// The last bytes of the stream.
    pub(crate) fn end(self) -> &'static [u8] {
        match self {
            Self::Chunks => b"0\r\n\r\n",
            Self::Bare => b"",
        }
    }
}
