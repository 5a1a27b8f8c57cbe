//! The connection of one subscriber, which its shard drives.
//!
//! ```text
//!  open ── violation, close, shutdown, token expires ──▶ closing: last bytes, then end of stream ──▶ closed
//! ```
//!
//! No function blocks: each reads or writes only as much as the socket allows now. If a function returns an error, the
//! shard closes the connection.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_http::NonBlockingStream;
use tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

use crate::fanout::new_connection::{NewConnection, Transport};
use crate::fanout::{deliveries::Deliveries, inbound::InboundEvent, write_batch::WriteBatch};
use crate::frame::websocket::{self, close_frame};
use crate::frame::{encoded::EncodedFrame, heartbeat::Heartbeat};
use crate::hub::{entry::RoomEntry, subscriber::Subscriber};

/// Interval of pings to a WebSocket client.
const PING_EVERY: Tick = Tick::secs(15);
/// Maximum time without bytes from a client. After this time the client counts as lost.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(30);
const DEAD: Tick = Tick::secs(30);
/// Maximum time for a client to answer a close. The client has the same time again to close its end of the stream.
const CLOSE_TIMEOUT: Tick = Tick::secs(1);
/// Maximum bytes that are read from a client whose connection is closing. These bytes have to be read, since closing a
/// socket with unread bytes resets the connection, and the client might not receive the reason.
const DRAIN_READ_BYTES: usize = 4 << 20;
/// Maximum bytes that a client may send between two sweeps, which are a second apart. Clients only need to send pongs,
/// which are short. Reading more would take CPU time from all other connections of the shard.
const MAX_RECEIVED_BYTES: usize = 64 << 10;
/// Maximum number of writes or reads of one connection before the shard continues with its other connections.
const MAX_WRITES_PER_WAKE: usize = 16;

/// Close code that requests the client to reconnect, as all codes from 3000 to 3499 do.
const CLOSE_RECONNECT: u16 = 3001;
/// Close code that requests the client not to reconnect with this token, as all codes from 3500 to 3999 do.
const CLOSE_EXPIRED: u16 = 3500;

/// A time since the start of the shard, or a duration, in tenths of a second.
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

/// The state that all connections of a shard share.
pub(super) struct ShardContext {
    pub(super) now: Tick,
    pub(super) instant: Instant,
    pub(super) deliveries: Deliveries,
    /// Time without a sent frame after which a connection is sent a heartbeat.
    pub(super) silence: Tick,
    pub(super) heartbeat: Heartbeat,
    /// The heartbeat of this sweep, encoded when the first connection needs it.
    pub(super) heartbeat_frame: Option<EncodedFrame>,
    pub(super) batch: WriteBatch,
    pub(super) scratch: Box<[u8]>,
}

/// The connection of one subscriber.
pub(super) struct Connection {
    stream: NonBlockingStream,
    /// The bytes to send first: usually the rest of a partly written frame.
    rest: Bytes,
    subscriber: Subscriber,
    transport: Transport,
    /// Index of this connection in the list of its room's connections.
    pub(super) index: usize,
    /// Whether the socket's send buffer is full.
    stalled: bool,
    closing: Option<Closing>,
    last_received: Tick,
    last_ping: Tick,
    last_sent: Tick,
    expires_at: Option<Instant>,
    /// Bytes received since the last sweep.
    received_bytes: usize,
}

/// The state of a connection that is closing.
struct Closing {
    deadline: Tick,
    /// Whether the client has sent its close, or does not have to send one.
    is_answered: bool,
    /// Whether the server's end of the stream is closed.
    is_finished: bool,
    unread_bytes: usize,
}

/// Whether the connection has more to do without another event. If so, the shard continues with it after the others.
pub(super) type More = io::Result<bool>;

impl Connection {
    /// Returns a connection, and the bytes that its client has already sent. `index` is the place of the connection in
    /// the list of its room.
    pub(super) fn new(new: NewConnection, index: usize, context: &ShardContext) -> (Self, Bytes) {
        let (head, hello) = (&new.detached.head[..], &new.hello);
        let first = match &new.transport {
            Transport::WebSocket(_) => [head, hello.websocket()].concat(),
            Transport::Sse(framing) => {
                [head, framing.retry().as_bytes(), hello.sse(*framing)].concat()
            }
        };
        let connection = Self {
            stream: new.detached.stream,
            rest: first.into(),
            subscriber: new.subscriber,
            transport: new.transport,
            index,
            stalled: false,
            closing: None,
            last_received: context.now,
            last_ping: context.now,
            last_sent: context.now,
            expires_at: new.expires_at,
            received_bytes: 0,
        };
        (connection, new.detached.read_ahead)
    }

    pub(super) fn room(&self) -> &Arc<RoomEntry> {
        &self.subscriber.entry
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Returns the number of bytes that wait for the socket.
    pub(super) fn queued(&self) -> usize {
        self.rest.len()
    }

    /// Sends pending frames until there are none, or until the socket accepts no more bytes.
    pub(super) fn send(&mut self, context: &mut ShardContext) -> More {
        for _ in 0..MAX_WRITES_PER_WAKE {
            if self.stalled {
                return Ok(false);
            }
            self.gather(&mut context.batch);
            if context.batch.is_empty() {
                return self.finish(context).map(|()| false);
            }
            let (all, full) = (context.batch.bytes(), context.batch.is_full());
            let written = match context.batch.write(|pieces| self.stream.write(pieces)) {
                Ok(written) => Ok(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
                Err(error) => Err(error),
            };
            let (deliveries, found) = (&context.deliveries, self.subscriber.found);
            let last_sent = &mut self.last_sent;
            let unsent = context.batch.complete(
                *written.as_ref().unwrap_or(&0),
                &mut self.subscriber.cursor,
                |next| {
                    deliveries.count(next, found);
                    *last_sent = context.now;
                },
            );
            let written = written?;
            self.rest = unsent.rest;
            if let Transport::WebSocket(inbound) = &mut self.transport {
                inbound.return_pongs(unsent.pongs);
            }
            self.stalled = written < all || !self.stream.is_flushed();
            if self.stalled {
                // From now on, the client must read some bytes within `DEAD_AFTER`.
                self.last_received = context.now;
            } else if !full && self.closing.is_none() {
                // All frames are sent. The next change of the room notifies this connection.
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn gather(&mut self, batch: &mut WriteBatch) {
        batch.rest(std::mem::take(&mut self.rest));
        if self.closing.is_some() {
            return;
        }
        if let Transport::WebSocket(inbound) = &mut self.transport {
            batch.pongs(inbound.drain_pongs());
        }
        let room = self.subscriber.entry.state();
        let mut cursor = self.subscriber.cursor;
        while !batch.is_full()
            && let Some(next) = cursor.next(&room)
        {
            let bytes = next.frame(|frame| self.transport.encode(frame));
            batch.frame(bytes, cursor, next);
        }
    }

    /// Continues to send after the socket has become writable.
    pub(super) fn resume(&mut self, context: &mut ShardContext) -> More {
        if !self.stalled {
            return Ok(false);
        }
        match self.stream.flush() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        self.stalled = false;
        self.last_received = context.now;
        self.send(context)
    }

    /// Reads the bytes that the client has sent.
    pub(super) fn receive(&mut self, context: &mut ShardContext) -> More {
        for _ in 0..MAX_WRITES_PER_WAKE {
            let read = self.stream.read(&mut context.scratch);
            match read {
                Ok(0) => return self.end_of_stream(context),
                Ok(bytes) => {
                    let mut scratch = std::mem::take(&mut context.scratch);
                    let processed = self.process(&mut scratch[..bytes], context);
                    context.scratch = scratch;
                    processed?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.send(context),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.send(context)?;
        Ok(true)
    }

    /// Processes bytes from the client. They are unmasked in place.
    pub(super) fn process(&mut self, bytes: &mut [u8], context: &ShardContext) -> io::Result<()> {
        self.last_received = context.now;
        if let Some(closing) = &mut self.closing {
            let unread = closing.unread_bytes.checked_sub(bytes.len());
            closing.unread_bytes = unread.ok_or(ErrorKind::InvalidData)?;
        } else {
            self.received_bytes += bytes.len();
        }
        let is_too_much = self.received_bytes > MAX_RECEIVED_BYTES;
        let event = match &mut self.transport {
            // A client of an event stream has nothing to send, so its bytes are only counted.
            Transport::Sse(framing) => {
                if self.closing.is_none() && is_too_much {
                    let last = framing.end();
                    self.cut_off(last, context);
                }
                return Ok(());
            }
            Transport::WebSocket(inbound) => inbound.process(bytes),
        };
        match (event, &mut self.closing) {
            (None, None) if is_too_much => {
                let last = close_frame(CloseCode::Policy.into(), "too many bytes received");
                self.cut_off(&last, context);
            }
            (None, _) => {}
            // The server has already sent its close, so a close or a violation needs no further response.
            (Some(_), Some(closing)) => closing.is_answered = true,
            (Some(InboundEvent::Close(code)), None) => {
                let answer = websocket::framed(
                    OpCode::Control(Control::Close),
                    code.map(u16::to_be_bytes).as_ref().map_or(&[], |code| code),
                );
                self.close(&answer, true, context);
            }
            (Some(InboundEvent::Violation(code, reason)), None) => {
                self.close(&close_frame(code.into(), reason), false, context);
            }
        }
        Ok(())
    }

    /// Handles the end of the client's stream. Unless the connection is closing, the client has disconnected.
    fn end_of_stream(&mut self, context: &mut ShardContext) -> More {
        match &mut self.closing {
            Some(closing) if !self.rest.is_empty() => {
                closing.is_answered = true;
                self.send(context)
            }
            _ => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Closes the connection after `last` is sent. `is_answered`: the client has already sent a close.
    fn close(&mut self, last: &[u8], is_answered: bool, context: &ShardContext) {
        let pongs = match &mut self.transport {
            Transport::WebSocket(inbound) => inbound.drain_pongs(),
            Transport::Sse(_) => Bytes::new(),
        };
        self.rest = [&self.rest[..], &pongs, last].concat().into();
        self.closing = Some(Closing {
            deadline: CLOSE_TIMEOUT.after(context.now),
            is_answered: is_answered || matches!(self.transport, Transport::Sse(_)),
            is_finished: false,
            unread_bytes: DRAIN_READ_BYTES,
        });
    }

    /// Closes the connection of a client that sends too many bytes, and limits the bytes that are still read from it.
    fn cut_off(&mut self, last: &[u8], context: &ShardContext) {
        self.close(last, false, context);
        if let Some(closing) = &mut self.closing {
            closing.unread_bytes = MAX_RECEIVED_BYTES;
        }
    }

    /// Called after all bytes are sent. If the connection is closing and the client has answered, the server's end of
    /// the stream is closed. The client then has to close its end in time.
    fn finish(&mut self, context: &ShardContext) -> io::Result<()> {
        if let Some(closing) = &mut self.closing
            && closing.is_answered
            && !closing.is_finished
        {
            closing.is_finished = true;
            closing.deadline = CLOSE_TIMEOUT.after(context.now);
            self.stream.finish()?;
        }
        Ok(())
    }

    /// Sends `bye`, and closes the connection.
    pub(super) fn bye(&mut self, bye: &EncodedFrame, context: &mut ShardContext) -> More {
        if self.closing.is_some() {
            return Ok(false);
        }
        let end = match &self.transport {
            Transport::WebSocket(_) => close_frame(CLOSE_RECONNECT, "restarting"),
            Transport::Sse(framing) => framing.end().to_vec(),
        };
        let last = [&self.transport.encode(bye)[..], &end].concat();
        self.close(&last, false, context);
        self.send(context)
    }

    /// Checks deadlines, and sends pings and heartbeats that are due. Called once a second.
    pub(super) fn sweep(&mut self, context: &mut ShardContext) -> More {
        self.received_bytes = 0;
        if let Some(closing) = &mut self.closing {
            if closing.deadline > context.now {
                return Ok(false);
            }
            if closing.is_finished || !self.rest.is_empty() {
                return Err(ErrorKind::TimedOut.into());
            }
            // The client has not answered the close in time, so the server's end of the stream is closed without an
            // answer.
            closing.is_answered = true;
            return self.finish(context).map(|()| false);
        }
        if self.expires_at.is_some_and(|at| at <= context.instant) {
            let last = match &self.transport {
                Transport::WebSocket(_) => close_frame(CLOSE_EXPIRED, "the token has expired"),
                Transport::Sse(framing) => framing.end().to_vec(),
            };
            self.close(&last, false, context);
            return self.send(context);
        }
        // A client of an event stream never sends anything, so only TCP's own timeout detects that its host is lost.
        let answers = matches!(self.transport, Transport::WebSocket(_));
        if DEAD.has_passed(self.last_received, context.now) && (answers || self.stalled) {
            return Err(ErrorKind::TimedOut.into());
        }
        if !self.rest.is_empty() || self.stalled {
            return Ok(false);
        }
        let is_silent = context.silence.has_passed(self.last_sent, context.now);
        if is_silent {
            self.last_sent = context.now;
            let frame = context
                .heartbeat_frame
                .get_or_insert_with(|| context.heartbeat.frame());
            self.rest = self.transport.encode(frame);
        }
        // In a silent room a ping is sent with each heartbeat, so that both are in one packet.
        if answers && (is_silent || PING_EVERY.has_passed(self.last_ping, context.now)) {
            self.last_ping = context.now;
            let ping = websocket::framed(OpCode::Control(Control::Ping), &[]);
            self.rest = [&self.rest[..], &ping].concat().into();
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        self.send(context)
    }
}
