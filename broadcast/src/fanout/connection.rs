//! One subscriber's connection, as its shard drives it.
//!
//! ```text
//!  Open ── violation, close, farewell, token ends ──▶ Parting: the last is said, then the end ──▶ gone
//! ```
//!
//! Every function does what can be done now and never waits. An error means that the connection is gone.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_http::Line;
use tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

use crate::{
    fanout::{
        deliveries::Deliveries,
        inbound::Heard,
        new_connection::{Arrival, Speech},
        write_batch::Batch,
    },
    frame::{
        encoded::Encoded,
        heartbeat::Heartbeat,
        websocket::{self, close_frame},
    },
    hub::{entry::RoomEntry, subscriber::Subscriber},
};

/// How often a WebSocket client is asked whether it lives, by a ping.
const ASK_EVERY: Tick = Tick::secs(15);
/// A client that has given no sign of life for so long is gone.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(30);
const DEAD: Tick = Tick::secs(30);
/// How long a client may take to answer a close, and then to close its end.
const PATIENCE: Tick = Tick::secs(1);
/// How much a client may still say to a server that is going. Closing with bytes unread resets the
/// connection, and the client might never learn why.
const LAST_WORDS_BYTES: usize = 4 << 20;
/// What a client may say from one look to the next, which is a second: answers to our pings are some bytes, and
/// who says more and more takes the shard's time from all others.
const SAID_BYTES: usize = 64 << 10;
/// Writes and reads of one turn: others have theirs.
const ROUNDS: usize = 16;

/// "Reconnect": INTERFACE has 3000–3499 for it.
const CLOSE_RECONNECT: u16 = 3001;
/// "Do not reconnect", at least not with this token: INTERFACE has 3500–3999 for it.
const CLOSE_EXPIRED: u16 = 3500;

/// A moment or a span, in tenths of a second since the shard began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u32);

impl Tick {
    const fn secs(seconds: u32) -> Self {
        Self(seconds * 10)
    }

    pub(super) fn since(start: Instant, now: Instant) -> Self {
        Self::span(now.saturating_duration_since(start))
    }

    pub(super) fn span(span: Duration) -> Self {
        Self(u32::try_from(span.as_millis() / 100).unwrap_or(u32::MAX))
    }

    fn has_passed(self, from: Self, now: Self) -> bool {
        now.0.saturating_sub(from.0) >= self.0
    }

    fn after(self, now: Self) -> Self {
        Self(now.0.saturating_add(self.0))
    }
}

/// What a shard has at hand for whichever connection has its turn.
pub(super) struct Turn {
    pub(super) now: Tick,
    pub(super) instant: Instant,
    pub(super) deliveries: Deliveries,
    /// A connection to which nothing was sent for so long gets a heartbeat.
    pub(super) silence: Tick,
    pub(super) heartbeat: Heartbeat,
    /// The heartbeat of this slice of the connections, once one of them needs it.
    pub(super) beat: Option<Encoded>,
    pub(super) batch: Batch,
    pub(super) scratch: Box<[u8]>,
}

/// See the module.
pub(super) struct Connection {
    line: Line,
    /// What was begun and has not gone.
    rest: Bytes,
    subscriber: Subscriber,
    speech: Speech,
    /// Where it stands in its room's seats.
    pub(super) seat: usize,
    /// The socket takes no more for now.
    stalled: bool,
    parting: Option<Parting>,
    /// The last sign of life.
    heard: Tick,
    /// When it was asked for one.
    asked: Tick,
    /// When the last frame was sent to it.
    sent: Tick,
    until: Option<Instant>,
    /// Bytes that it has said since the last look.
    said_bytes: usize,
}

/// A connection that ends.
#[derive(Debug)]
struct Parting {
    by: Tick,
    /// The client has said its goodbye, or there is none to wait for.
    heard: bool,
    /// It was told that nothing more comes.
    finished: bool,
    left_bytes: usize,
}

/// Whether it has more to do at once, when others have had their turn.
pub(super) type More = io::Result<bool>;

impl Connection {
    pub(super) fn new(arrival: Arrival, seat: usize, turn: &mut Turn) -> (Self, Bytes) {
        let Arrival {
            taken,
            speech,
            subscriber,
            hello,
            until,
        } = arrival;
        let first = match &speech {
            Speech::WebSocket(_) => [&taken.head[..], hello.websocket()].concat(),
            Speech::Events(framing) => {
                let hello = hello.sse(*framing);
                [&taken.head[..], framing.retry().as_bytes(), hello].concat()
            }
        };
        let connection = Self {
            line: taken.line,
            rest: first.into(),
            subscriber,
            speech,
            seat,
            stalled: false,
            parting: None,
            heard: turn.now,
            asked: turn.now,
            sent: turn.now,
            until,
            said_bytes: 0,
        };
        (connection, taken.ahead)
    }

    pub(super) fn room(&self) -> &Arc<RoomEntry> {
        &self.subscriber.entry
    }

    /// Whether the socket takes no more for now.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Bytes that wait here for the socket.
    pub(super) fn queued(&self) -> usize {
        self.rest.len()
    }

    /// Sends what there is, as far as the socket takes it.
    pub(super) fn send(&mut self, turn: &mut Turn) -> More {
        for _ in 0..ROUNDS {
            if self.stalled {
                return Ok(false);
            }
            self.gather(&mut turn.batch);
            if turn.batch.is_empty() {
                return self.finish(turn).map(|()| false);
            }
            let (all, full) = (turn.batch.bytes(), turn.batch.is_full());
            let written = match turn.batch.write(|pieces| self.line.write(pieces)) {
                Ok(written) => Ok(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
                Err(error) => Err(error),
            };
            let (deliveries, found, sent) =
                (&turn.deliveries, self.subscriber.found, &mut self.sent);
            let outcome = turn.batch.settle(
                *written.as_ref().unwrap_or(&0),
                &mut self.subscriber.cursor,
                |next| {
                    deliveries.count(next, found);
                    *sent = turn.now;
                },
            );
            let written = written?;
            self.rest = outcome.rest;
            if let Speech::WebSocket(inbound) = &mut self.speech {
                inbound.give_back(outcome.pongs);
            }
            self.stalled = written < all || !self.line.is_flushed();
            if self.stalled {
                // From now on it has so long to read some.
                self.heard = turn.now;
            } else if !full && self.parting.is_none() {
                // All that there was has gone, and what comes is told.
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn gather(&mut self, batch: &mut Batch) {
        batch.rest(std::mem::take(&mut self.rest));
        if self.parting.is_some() {
            return;
        }
        if let Speech::WebSocket(inbound) = &mut self.speech {
            batch.pongs(inbound.take_pongs());
        }
        let room = self.subscriber.entry.state();
        let mut cursor = self.subscriber.cursor;
        while !batch.is_full()
            && let Some(next) = cursor.next(&room)
        {
            let bytes = next.frame(|frame| self.speech.frame(frame));
            batch.frame(bytes, cursor, next);
        }
    }

    /// The socket takes bytes again.
    pub(super) fn resume(&mut self, turn: &mut Turn) -> More {
        if !self.stalled {
            return Ok(false);
        }
        match self.line.flush() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        self.stalled = false;
        self.heard = turn.now;
        self.send(turn)
    }

    /// Reads what the client says.
    pub(super) fn receive(&mut self, turn: &mut Turn) -> More {
        for _ in 0..ROUNDS {
            let read = self.line.read(&mut turn.scratch);
            match read {
                Ok(0) => return self.end_of_stream(turn),
                Ok(bytes) => {
                    let mut scratch = std::mem::take(&mut turn.scratch);
                    let heard = self.hear(&mut scratch[..bytes], turn);
                    turn.scratch = scratch;
                    heard?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.send(turn),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.send(turn)?;
        Ok(true)
    }

    /// Takes in bytes of the client, which are unmasked in place.
    pub(super) fn hear(&mut self, bytes: &mut [u8], turn: &mut Turn) -> io::Result<()> {
        self.heard = turn.now;
        if let Some(parting) = &mut self.parting {
            let left = parting.left_bytes.checked_sub(bytes.len());
            parting.left_bytes = left.ok_or(ErrorKind::InvalidData)?;
        } else {
            self.said_bytes += bytes.len();
        }
        let heard = match &mut self.speech {
            // There is nothing to say over a stream of events.
            Speech::Events(framing) => {
                if self.parting.is_none() && self.said_bytes > SAID_BYTES {
                    let last = framing.end();
                    self.cut_off(last, turn);
                }
                return Ok(());
            }
            Speech::WebSocket(inbound) => inbound.take_in(bytes),
        };
        match (heard, &mut self.parting) {
            (None, None) if self.said_bytes > SAID_BYTES => {
                let last = close_frame(CloseCode::Policy.into(), "too much is said");
                self.cut_off(&last, turn);
            }
            (None, _) => {}
            (Some(Heard::Close(_)), Some(parting)) => parting.heard = true,
            // What is told to one that is told to go already?
            (Some(Heard::Violation(..)), Some(parting)) => parting.heard = true,
            (Some(Heard::Close(code)), None) => {
                let answer = websocket::framed(
                    OpCode::Control(Control::Close),
                    code.map(u16::to_be_bytes).as_ref().map_or(&[], |code| code),
                );
                self.part(&answer, true, turn);
            }
            (Some(Heard::Violation(code, reason)), None) => {
                self.part(&close_frame(code.into(), reason), false, turn);
            }
        }
        Ok(())
    }

    /// The client sends no more. While all is well that means that it has gone.
    fn end_of_stream(&mut self, turn: &mut Turn) -> More {
        match &mut self.parting {
            Some(parting) if !self.rest.is_empty() => {
                parting.heard = true;
                self.send(turn)
            }
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Has `last` be the last that is said. `heard` is whether the client has said goodbye.
    fn part(&mut self, last: &[u8], heard: bool, turn: &Turn) {
        let pongs = match &mut self.speech {
            Speech::WebSocket(inbound) => inbound.take_pongs(),
            Speech::Events(_) => Bytes::new(),
        };
        self.rest = [&self.rest[..], &pongs, last].concat().into();
        self.parting = Some(Parting {
            by: PATIENCE.after(turn.now),
            heard: heard || matches!(self.speech, Speech::Events(_)),
            finished: false,
            left_bytes: LAST_WORDS_BYTES,
        });
    }

    /// The same for one who says too much, and is hardly listened to any more.
    fn cut_off(&mut self, last: &[u8], turn: &Turn) {
        self.part(last, false, turn);
        if let Some(parting) = &mut self.parting {
            parting.left_bytes = SAID_BYTES;
        }
    }

    /// All is said. If that was the last, the client is told so, and has a moment to close its end.
    fn finish(&mut self, turn: &Turn) -> io::Result<()> {
        if let Some(parting) = &mut self.parting
            && parting.heard
            && !parting.finished
        {
            parting.finished = true;
            parting.by = PATIENCE.after(turn.now);
            self.line.finish()?;
        }
        Ok(())
    }

    /// Sends it away.
    pub(super) fn bye(&mut self, bye: &Encoded, turn: &mut Turn) -> More {
        if self.parting.is_some() {
            return Ok(false);
        }
        let last = match &self.speech {
            Speech::WebSocket(_) => {
                let close = close_frame(CLOSE_RECONNECT, "restarting");
                [&bye.websocket()[..], &close].concat()
            }
            Speech::Events(framing) => [&bye.sse(*framing)[..], framing.end()].concat(),
        };
        self.part(&last, false, turn);
        self.send(turn)
    }

    /// Looks what time has brought; once a second.
    pub(super) fn look(&mut self, turn: &mut Turn) -> More {
        self.said_bytes = 0;
        if let Some(parting) = &mut self.parting {
            if parting.by > turn.now {
                return Ok(false);
            }
            if parting.finished || !self.rest.is_empty() {
                return Err(ErrorKind::TimedOut.into());
            }
            // It does not answer our close; the end is told all the same.
            parting.heard = true;
            return self.finish(turn).map(|()| false);
        }
        if self.until.is_some_and(|until| until <= turn.instant) {
            let last = match &self.speech {
                Speech::WebSocket(_) => close_frame(CLOSE_EXPIRED, "the token has expired"),
                Speech::Events(framing) => framing.end().to_vec(),
            };
            self.part(&last, false, turn);
            return self.send(turn);
        }
        // A stream of events has no answer to give; TCP's own timeout finds out that it is dead.
        let answers = matches!(self.speech, Speech::WebSocket(_));
        if DEAD.has_passed(self.heard, turn.now) && (answers || self.stalled) {
            return Err(ErrorKind::TimedOut.into());
        }
        if !self.rest.is_empty() || self.stalled {
            return Ok(false);
        }
        let is_silent = turn.silence.has_passed(self.sent, turn.now);
        if is_silent {
            self.sent = turn.now;
            let beat = turn.beat.get_or_insert_with(|| turn.heartbeat.frame());
            self.rest = self.speech.frame(beat);
        }
        // In a silent room both go out in one packet.
        if answers && (is_silent || ASK_EVERY.has_passed(self.asked, turn.now)) {
            self.asked = turn.now;
            let ping = websocket::framed(OpCode::Control(Control::Ping), &[]);
            self.rest = [&self.rest[..], &ping].concat().into();
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.send(turn)
    }
}
