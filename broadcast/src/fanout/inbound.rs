//! Parses the frames that a client sends over a WebSocket. Pings and closes are answered; messages are ignored.
//!
//! ```text
//!  bytes ──▶ header ──▶ payload, unmasked ──┬▶ text, binary: checked and dropped
//!              │                            ├▶ ping: its pong is stored until it is sent
//!              └▶ against the RFC: violation └▶ close, with its code
//! ```
//!
//! This module does no IO. Invariants:
//! - The result does not depend on how the bytes are split.
//! - The payload of a control frame and an incomplete character of a text are stored; no other payload is.
//! - Stored pongs have at most [`PONG_BYTES`].

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use crate::frame::websocket::framed;

/// Maximum bytes of a message. It is small, since clients only need to send control frames.
const MESSAGE_BYTES: u64 = 4096;
/// Maximum payload of a control frame (RFC 6455, 5.5).
const CONTROL_BYTES: u64 = 125;
/// Maximum bytes of stored pongs. There must be a limit, since a client may send pings and not read the pongs. Beyond
/// the limit the older pongs are dropped, as RFC 6455 allows (5.5.3).
const PONG_BYTES: usize = 2048;

/// An event that the connection has to handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InboundEvent {
    /// The client sent a close with this code.
    Close(Option<u16>),
    /// The client has violated the RFC, or exceeded a limit.
    Violation(CloseCode, &'static str),
}

/// The parser of the frames of one client.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// The received bytes of an incomplete header, at most 14.
    header: Vec<u8>,
    /// The frame whose payload is being received.
    frame: Option<Payload>,
    /// The kind of the incomplete message, and the number of its bytes so far.
    message: Option<(Kind, u64)>,
    utf8: Utf8,
    /// The received payload of an incomplete control frame.
    control: Vec<u8>,
    /// Encoded pongs that were not sent yet.
    pongs: Vec<u8>,
    /// Whether the client has sent a close or a violation. If so, all further bytes are ignored.
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

#[derive(Debug)]
struct Payload {
    what: What,
    is_final: bool,
    mask: [u8; 4],
    at: u64,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Data(Kind),
    Ping,
    Pong,
    Close,
}

const AGAINST_RFC: InboundEvent =
    InboundEvent::Violation(CloseCode::Protocol, "RFC 6455 was violated");
const NOT_UTF8: InboundEvent = InboundEvent::Violation(CloseCode::Invalid, "not UTF-8");
const TOO_LONG: InboundEvent = InboundEvent::Violation(CloseCode::Size, "message too long");

impl Inbound {
    /// Processes bytes up to the first event, which is returned. The bytes are unmasked in place.
    pub(super) fn process(&mut self, mut bytes: &mut [u8]) -> Option<InboundEvent> {
        while !self.over && !bytes.is_empty() {
            let step = match self.frame {
                None => {
                    self.header.push(bytes[0]);
                    bytes = &mut bytes[1..];
                    self.parse_header()
                }
                Some(_) => self.payload(&mut bytes),
            };
            if let Err(event) = step {
                self.over = true;
                return Some(event);
            }
        }
        None
    }

    /// Removes and returns the stored pongs, oldest first, as encoded frames.
    pub(super) fn drain_pongs(&mut self) -> Bytes {
        std::mem::take(&mut self.pongs).into()
    }

    /// Stores pongs that were drained but not sent.
    pub(super) fn return_pongs(&mut self, pongs: Bytes) {
        self.pongs = pongs.into();
    }

    /// Parses the header, if it is complete.
    fn parse_header(&mut self) -> Result<(), InboundEvent> {
        let parsed = FrameHeader::parse(&mut Cursor::new(&self.header));
        let Some((header, bytes)) = parsed.map_err(|_| AGAINST_RFC)? else {
            return Ok(());
        };
        let shortest = header.len(bytes) == self.header.len();
        self.header = Vec::new();
        let reserved = header.rsv1 || header.rsv2 || header.rsv3;
        let mask = header
            .mask
            .filter(|_| !reserved && shortest)
            .ok_or(AGAINST_RFC)?;
        let what = self.what(&header, bytes)?;
        self.frame = Some(Payload {
            what,
            is_final: header.is_final,
            mask,
            at: 0,
            bytes,
        });
        if bytes == 0 {
            return self.end_of_frame();
        }
        Ok(())
    }

    fn what(&mut self, header: &FrameHeader, bytes: u64) -> Result<What, InboundEvent> {
        let control = |what| match header.is_final && bytes <= CONTROL_BYTES {
            true => Ok(what),
            false => Err(AGAINST_RFC),
        };
        let (kind, before) = match (header.opcode, self.message) {
            (OpCode::Control(Control::Ping), _) => return control(What::Ping),
            (OpCode::Control(Control::Pong), _) => return control(What::Pong),
            (OpCode::Control(Control::Close), _) => return control(What::Close),
            (OpCode::Data(Data::Text), None) => (Kind::Text, 0),
            (OpCode::Data(Data::Binary), None) => (Kind::Binary, 0),
            (OpCode::Data(Data::Continue), Some((kind, before))) => (kind, before),
            _ => return Err(AGAINST_RFC),
        };
        let all = before.saturating_add(bytes);
        if all > MESSAGE_BYTES {
            return Err(TOO_LONG);
        }
        self.message = Some((kind, all));
        Ok(What::Data(kind))
    }

    /// Processes the available bytes of the frame's payload.
    fn payload(&mut self, bytes: &mut &mut [u8]) -> Result<(), InboundEvent> {
        let Some(frame) = &mut self.frame else {
            return Ok(());
        };
        let left = frame.bytes - frame.at;
        let there = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (piece, rest) = std::mem::take(bytes).split_at_mut(there);
        *bytes = rest;
        for byte in &mut *piece {
            *byte ^= frame.mask[(frame.at % 4) as usize];
            frame.at += 1;
        }
        match frame.what {
            What::Data(Kind::Binary) => {}
            What::Data(Kind::Text) => self.utf8.push(piece).map_err(|()| NOT_UTF8)?,
            What::Ping | What::Pong | What::Close => self.control.extend_from_slice(piece),
        }
        match frame.at == frame.bytes {
            true => self.end_of_frame(),
            false => Ok(()),
        }
    }

    fn end_of_frame(&mut self) -> Result<(), InboundEvent> {
        let Some(frame) = self.frame.take() else {
            return Ok(());
        };
        let control = std::mem::take(&mut self.control);
        match frame.what {
            What::Data(kind) => {
                if frame.is_final {
                    self.message = None;
                    let whole = std::mem::take(&mut self.utf8).is_whole();
                    if kind == Kind::Text && !whole {
                        return Err(NOT_UTF8);
                    }
                }
            }
            What::Pong => {}
            What::Ping => {
                let pong = framed(OpCode::Control(Control::Pong), &control);
                if self.pongs.len() + pong.len() > PONG_BYTES {
                    self.pongs.clear();
                }
                self.pongs.extend_from_slice(&pong);
            }
            What::Close => return Err(close(&control)),
        }
        Ok(())
    }
}

/// Returns the event of a close frame with this payload (RFC 6455, 5.5.1 and 7.4).
fn close(payload: &[u8]) -> InboundEvent {
    let (code, reason) = match payload {
        [] => return InboundEvent::Close(None),
        [_] => return AGAINST_RFC,
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !CloseCode::from(code).is_allowed() {
        AGAINST_RFC
    } else if std::str::from_utf8(reason).is_err() {
        NOT_UTF8
    } else {
        InboundEvent::Close(Some(code))
    }
}

/// Checks whether text that arrives in pieces is UTF-8.
#[derive(Debug, Default)]
struct Utf8 {
    /// The bytes of an incomplete character, at most three.
    begun: [u8; 4],
    bytes: usize,
}

impl Utf8 {
    fn push(&mut self, mut piece: &[u8]) -> Result<(), ()> {
        while self.bytes > 0
            && let [first, rest @ ..] = piece
        {
            self.begun[self.bytes] = *first;
            self.bytes += 1;
            piece = rest;
            match std::str::from_utf8(&self.begun[..self.bytes]) {
                Ok(_) => self.bytes = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(()),
            }
        }
        if let Err(error) = std::str::from_utf8(piece) {
            if error.error_len().is_some() {
                return Err(());
            }
            let begun = &piece[error.valid_up_to()..];
            self.begun[..begun.len()].copy_from_slice(begun);
            self.bytes = begun.len();
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.bytes == 0
    }
}

#[cfg(test)]
mod tests;
