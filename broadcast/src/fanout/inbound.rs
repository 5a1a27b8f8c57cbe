//! What a client says over a WebSocket, by the byte: nothing here is answered but pings and closes.
//!
//! ```text
//!  bytes ──▶ header ──▶ payload, unmasked ──┬▶ text, binary: checked and forgotten
//!              │                            ├▶ ping: its pong waits to be taken
//!              └▶ against the RFC: violation └▶ close, with its code
//! ```
//!
//! Pure. Invariants: how the bytes are cut into pieces changes nothing; no more of a message is kept than a
//! control frame's payload and an unfinished character; answers to pings never take more than
//! [`PONG_BYTES`].

use std::io::Cursor;

use bytes::Bytes;
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use crate::frame::websocket::framed;

/// What a client may send: control frames, and nothing else that is long.
const MESSAGE_BYTES: u64 = 4096;
/// The most of a control frame's payload (RFC 6455, 5.5).
const CONTROL_BYTES: u64 = 125;
/// The most bytes of answers to pings that wait to go. Who pings on and on but reads nothing would
/// otherwise have them all kept; beyond it the older ones are dropped, as the RFC allows (5.5.3).
const PONG_BYTES: usize = 2048;

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The client says goodbye, with this code.
    Close(Option<u16>),
    /// It does not keep to the RFC, or says too much.
    Violation(CloseCode, &'static str),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// The header so far: 14 bytes at most.
    header: Vec<u8>,
    /// The frame whose payload comes.
    frame: Option<Payload>,
    /// The message that is not final yet: whether it is text, and its bytes.
    message: Option<(Kind, u64)>,
    utf8: Utf8,
    /// The payload of a control frame so far.
    control: Vec<u8>,
    /// Answers to pings that nobody has taken.
    pongs: Vec<u8>,
    /// After a close, or a violation, nothing is looked at any more.
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

const AGAINST_RFC: Heard = Heard::Violation(CloseCode::Protocol, "not by RFC 6455");
const NOT_UTF8: Heard = Heard::Violation(CloseCode::Invalid, "not UTF-8");
const TOO_LONG: Heard = Heard::Violation(CloseCode::Size, "messages here are short");

impl Inbound {
    /// Takes bytes in, which are unmasked in place; the first thing that has to be done about them.
    pub(crate) fn take_in(&mut self, mut bytes: &mut [u8]) -> Option<Heard> {
        while !self.over && !bytes.is_empty() {
            let step = match self.frame {
                None => {
                    self.header.push(bytes[0]);
                    bytes = &mut bytes[1..];
                    self.header_so_far()
                }
                Some(_) => self.payload(&mut bytes),
            };
            if let Err(heard) = step {
                self.over = true;
                return Some(heard);
            }
        }
        None
    }

    /// Answers to pings, oldest first, as frames.
    pub(crate) fn take_pongs(&mut self) -> Bytes {
        std::mem::take(&mut self.pongs).into()
    }

    /// Answers that were taken and not sent.
    pub(crate) fn give_back(&mut self, pongs: Bytes) {
        self.pongs = pongs.into();
    }

    /// Looks whether the header is whole.
    fn header_so_far(&mut self) -> Result<(), Heard> {
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

    fn what(&mut self, header: &FrameHeader, bytes: u64) -> Result<What, Heard> {
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

    /// Takes what is there of the frame's payload.
    fn payload(&mut self, bytes: &mut &mut [u8]) -> Result<(), Heard> {
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
            What::Data(Kind::Text) => self.utf8.take_in(piece).map_err(|()| NOT_UTF8)?,
            What::Ping | What::Pong | What::Close => self.control.extend_from_slice(piece),
        }
        match frame.at == frame.bytes {
            true => self.end_of_frame(),
            false => Ok(()),
        }
    }

    fn end_of_frame(&mut self) -> Result<(), Heard> {
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

/// What a close with this payload means (RFC 6455, 5.5.1 and 7.4).
fn close(payload: &[u8]) -> Heard {
    let (code, reason) = match payload {
        [] => return Heard::Close(None),
        [_] => return AGAINST_RFC,
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !CloseCode::from(code).is_allowed() {
        AGAINST_RFC
    } else if std::str::from_utf8(reason).is_err() {
        NOT_UTF8
    } else {
        Heard::Close(Some(code))
    }
}

/// Whether text that comes in pieces is UTF-8.
#[derive(Debug, Default)]
struct Utf8 {
    /// A character that has begun: three bytes at most.
    begun: [u8; 4],
    bytes: usize,
}

impl Utf8 {
    fn take_in(&mut self, mut piece: &[u8]) -> Result<(), ()> {
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
