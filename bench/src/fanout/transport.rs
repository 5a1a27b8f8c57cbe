//! The transports of the audience: the request for a room, and the parser of the response.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// A WebSocket
    Websocket,
    /// Server-Sent Events over HTTP/1.1
    Sse,
    /// Server-Sent Events over HTTP/2, with a connection for each subscriber
    SseHttp2,
}

/// The first complete unit in the received bytes: a WebSocket frame, an HTTP/2 frame, or a chunk (HTTP/1.1).
pub(crate) struct Unit<'b> {
    /// Lines of Server-Sent Events, or one WebSocket message.
    pub(crate) payload: &'b [u8],
    /// Bytes to send to the server in response, for example a pong.
    pub(crate) reply: Vec<u8>,
    pub(crate) rest: &'b [u8],
}

/// First byte of a WebSocket ping. `PONG` is a whole pong whose mask is zero.
const PING: u8 = 0x89;
const PONG: [u8; 6] = [0x8a, 0x80, 0, 0, 0, 0];

/// Types and flags of HTTP/2 frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING_FRAME: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 5;

/// Maximum flow-control window of HTTP/2. `INITIAL_WINDOW` is the window of a new connection.
const MAX_WINDOW: u32 = (1 << 31) - 1;
const INITIAL_WINDOW: u32 = (1 << 16) - 1;

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Websocket => "websocket",
            Self::Sse => "sse",
            Self::SseHttp2 => "sse-http2",
        }
    }

    /// Encodes the request for a room.
    pub(crate) fn request(self, room: &str) -> Vec<u8> {
        match self {
            Self::Websocket => format!(
                "GET /v1/rooms/{room}/ws HTTP/1.1\r\nhost: bench\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            .into(),
            Self::Sse => format!("GET /v1/rooms/{room}/events HTTP/1.1\r\nhost: bench\r\n\r\n").into(),
            Self::SseHttp2 => http2_request(&format!("/v1/rooms/{room}/events")),
        }
    }

    /// Returns the bytes after the head of the response, or `None` if the head is incomplete. A response over HTTP/2
    /// has no such head: it consists of frames, so all bytes are returned.
    pub(crate) fn after_head(self, bytes: &[u8]) -> Option<Result<&[u8], String>> {
        let expected: &[u8] = match self {
            Self::Websocket => b"HTTP/1.1 101",
            Self::Sse => b"HTTP/1.1 200",
            Self::SseHttp2 => return Some(Ok(bytes)),
        };
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        Some(match bytes.starts_with(expected) {
            true => Ok(&bytes[head + 4..]),
            false => Err(String::from_utf8_lossy(bytes).into()),
        })
    }

    /// Parses the first unit, or returns `None` if it is incomplete.
    pub(crate) fn unit(self, bytes: &[u8]) -> Option<Unit<'_>> {
        match self {
            Self::Websocket => {
                let (at, len) = match bytes {
                    [_, len @ 0..126, ..] => (2, usize::from(*len)),
                    [_, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([*high, *low]))),
                    // The servers here send no message whose length needs 64 bits.
                    _ => return None,
                };
                let reply = match bytes[0] == PING {
                    true => PONG.to_vec(),
                    false => Vec::new(),
                };
                unit(bytes, at, len, 0, reply)
            }
            Self::Sse => {
                let end = bytes.windows(2).position(|two| two == b"\r\n")?;
                let size = std::str::from_utf8(&bytes[..end]).ok()?;
                let size = usize::from_str_radix(size, 16).ok()?;
                unit(bytes, end + 2, size, 2, Vec::new())
            }
            Self::SseHttp2 => {
                let [high, middle, low, kind, flags, _, _, _, _, payload @ ..] = bytes else {
                    return None;
                };
                let len = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
                let reply = match (*kind, flags & ACK) {
                    (SETTINGS, 0) => frame(SETTINGS, ACK, 0, &[]),
                    (PING_FRAME, 0) => frame(PING_FRAME, ACK, 0, payload.get(..len)?),
                    _ => Vec::new(),
                };
                let found = unit(bytes, 9, len, 0, reply)?;
                Some(Unit {
                    payload: if *kind == DATA { found.payload } else { b"" },
                    ..found
                })
            }
        }
    }

    /// Returns the messages in the payload of a unit.
    pub(crate) fn messages(self, payload: &[u8]) -> impl Iterator<Item = &[u8]> {
        let line = move |line| match self {
            Self::Websocket => Some(line),
            _ => <[u8]>::strip_prefix(line, b"data: "),
        };
        payload.split(|byte| *byte == b'\n').filter_map(line)
    }
}

/// Returns the unit whose payload of `len` bytes begins at `at`. After the payload come `end` bytes that belong to the
/// unit but not to the payload. Returns `None` if the unit is incomplete.
fn unit(bytes: &[u8], at: usize, len: usize, end: usize, reply: Vec<u8>) -> Option<Unit<'_>> {
    Some(Unit {
        payload: bytes.get(at..at + len)?,
        rest: bytes.get(at + len + end..)?,
        reply,
    })
}

/// Encodes the preface of an HTTP/2 connection and one GET request. The flow-control windows have their maximum size,
/// so they need no updates.
fn http2_request(path: &str) -> Vec<u8> {
    let initial_window = [&[0, 4][..], &MAX_WINDOW.to_be_bytes()].concat();
    let increment = (MAX_WINDOW - INITIAL_WINDOW).to_be_bytes();
    // The header fields in HPACK: the method GET, the scheme http, the path and the authority. Path and authority are
    // literals that are not added to the dynamic table (RFC 7541, 6.2.2).
    let mut head = vec![
        0x82,
        0x86,
        0x04,
        u8::try_from(path.len()).unwrap_or(u8::MAX),
    ];
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(b"\x01\x05bench");
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(SETTINGS, 0, 0, &initial_window),
        frame(WINDOW_UPDATE, 0, 0, &increment),
        frame(HEADERS, END_STREAM_AND_HEADERS, 1, &head),
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let head = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}
