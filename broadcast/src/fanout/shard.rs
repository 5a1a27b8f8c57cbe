//! One shard: an event loop over its connections.

#![allow(
    clippy::disallowed_methods,
    reason = "the thread of a shard reads the clock"
)]

use std::{
    collections::HashMap,
    io, mem,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use prometheus::IntGauge;
use slab::Slab;
use socket2::SockRef;

use crate::fanout::connection::{Connection, DEAD_AFTER, More, ShardContext, Tick};
use crate::fanout::{
    deliveries::Deliveries, goaway, mailbox::Mailbox, new_connection::NewConnection,
    write_batch::WriteBatch,
};
use crate::frame::heartbeat::Heartbeat;
use crate::hub::entry::RoomEntry;
use crate::metrics::Metrics;

/// Interval of sweeps, each of which checks one of `SWEEP_PARTS` parts of the connections.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
const SWEEP_PARTS: usize = 10;
/// Maximum number of events that one poll returns.
const EVENTS: usize = 1024;
/// Size of the read buffer. It is small, since clients send short messages.
const READ_BYTES: usize = 4096;
/// Size of the kernel's send buffer for a client, including bytes in flight. The kernel's default is megabytes, which
/// would be filled with stale frames if a client does not read. The kernel also counts its overhead for each packet, so
/// small frames fill the buffer earlier.
const SEND_BUFFER_BYTES: usize = 16 << 10;
/// Maximum bytes in the send buffer that are not sent yet (`TCP_NOTSENT_LOWAT`). It is small, since live tallies become
/// stale while they wait in the buffer.
const UNSENT_BYTES: u32 = 4 << 10;

/// The poll token of the mailbox. The tokens of connections start at 0.
const MAILBOX: Token = Token(usize::MAX);

/// The connections of a room in this shard.
struct RoomConnections {
    room: Arc<RoomEntry>,
    keys: Vec<usize>,
}

/// A thread that serves its share of the subscribers.
pub(super) struct Shard {
    number: usize,
    poll: Poll,
    mailbox: Arc<Mailbox>,
    connections: Slab<Connection>,
    rooms: HashMap<usize, RoomConnections>,
    /// Keys of connections that have more to do without another event.
    unfinished: Vec<usize>,
    /// Keys of connections that have failed or ended.
    closed: Vec<usize>,
    context: ShardContext,
    queued: IntGauge,
    stalled: IntGauge,
    /// The time within which subscribers reconnect. It is set at shutdown.
    reconnect_window: Option<Duration>,
    started: Instant,
    /// Time of the next sweep. `swept` is the last key of the sweep before.
    sweep_at: Instant,
    swept: usize,
}

/// Returns the address of the room's entry. It identifies the room as long as the shard holds the entry.
fn key(room: &Arc<RoomEntry>) -> usize {
    Arc::as_ptr(room).addr()
}

impl Shard {
    pub(super) fn new(number: usize, heartbeat: Heartbeat, metrics: &Metrics) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mailbox = Arc::new(Mailbox::new(poll.registry(), MAILBOX)?);
        let (now, round) = (Instant::now(), SWEEP_EVERY * SWEEP_PARTS as u32);
        Ok(Self {
            number,
            poll,
            mailbox,
            connections: Slab::new(),
            rooms: HashMap::new(),
            unfinished: Vec::new(),
            closed: Vec::new(),
            context: ShardContext {
                now: Tick::since(now, now),
                instant: now,
                deliveries: Deliveries::new(metrics, heartbeat.clock.clone()),
                // A connection is swept once in a round. A heartbeat is sent up to a round early, since it would be
                // late at the next sweep.
                silence: Tick::span(heartbeat.every.saturating_sub(round)),
                heartbeat,
                heartbeat_frame: None,
                batch: WriteBatch::default(),
                scratch: vec![0; READ_BYTES].into(),
            },
            queued: metrics.queued.clone(),
            stalled: metrics.stalled.clone(),
            reconnect_window: None,
            started: now,
            sweep_at: now,
            swept: 0,
        })
    }

    pub(super) fn mailbox(&self) -> Arc<Mailbox> {
        self.mailbox.clone()
    }

    /// Serves connections until the shard is stopped.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.poll_timeout())
                && error.kind() != io::ErrorKind::Interrupted
            {
                // Apart from interrupts, epoll fails only if its arguments are invalid.
                unreachable!("a shard cannot wait for events: {error}");
            }
            self.context.instant = Instant::now();
            self.context.now = Tick::since(self.started, self.context.instant);
            let inbox = self.mailbox.drain();
            if inbox.stop {
                return;
            }
            for room in inbox.changed_rooms {
                self.notify_room(&room);
            }
            for key in mem::take(&mut self.unfinished) {
                self.with_connection(key, Connection::receive);
            }
            for event in &events {
                if event.token() != MAILBOX {
                    let key = event.token().0;
                    if event.is_writable() {
                        self.with_connection(key, Connection::resume);
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.with_connection(key, Connection::receive);
                    }
                }
            }
            self.reap();
            for connection in inbox.new_connections {
                self.register(connection);
            }
            if let Some(window) = inbox.reconnect_window {
                self.reconnect_window = Some(window);
                self.bye(window);
            }
            self.sweep_idle();
            self.reap();
        }
    }

    /// Returns the maximum time to wait for events, or `None` for no limit.
    fn poll_timeout(&self) -> Option<Duration> {
        if !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        // Without connections there is nothing to sweep, so there is no limit.
        (!self.connections.is_empty())
            .then(|| self.sweep_at.saturating_duration_since(Instant::now()))
    }

    /// Calls `act` on a connection, and records whether it is unfinished or closed.
    fn with_connection(
        &mut self,
        key: usize,
        act: impl FnOnce(&mut Connection, &mut ShardContext) -> More,
    ) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = (connection.queued(), connection.is_stalled());
        let result = act(connection, &mut self.context);
        let after = (connection.queued(), connection.is_stalled());
        if before != after {
            self.queued.add(after.0 as i64 - before.0 as i64);
            self.stalled.add(i64::from(after.1) - i64::from(before.1));
        }
        match result {
            Ok(false) => {}
            Ok(true) => self.unfinished.push(key),
            Err(error) => {
                tracing::trace!(%error, "a subscriber's connection ended");
                self.closed.push(key);
            }
        }
    }

    /// Sends the changes of a room to its connections.
    fn notify_room(&mut self, room: &Arc<RoomEntry>) {
        room.clear_dirty(self.number);
        let Some(connections) = self.rooms.get_mut(&key(room)) else {
            return;
        };
        // The list can be detached while it is iterated. Only `register` adds connections and only `reap` removes them,
        // and both run after this loop.
        let keys = mem::take(&mut connections.keys);
        for key in &keys {
            self.with_connection(*key, Connection::send);
        }
        if let Some(connections) = self.rooms.get_mut(&key(room)) {
            connections.keys = keys;
        }
    }

    fn register(&mut self, new: NewConnection) {
        let room = new.subscriber.entry.clone();
        let socket = SockRef::from(&new.detached.stream);
        let set = socket
            .set_send_buffer_size(SEND_BUFFER_BYTES)
            .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_BYTES))
            // With this timeout, TCP detects a lost host even if the transport has no pongs.
            .and_then(|()| socket.set_tcp_user_timeout(Some(DEAD_AFTER)));
        let slot = self.connections.vacant_entry();
        let key = slot.key();
        let registered = self.poll.registry().register(
            &mut SourceFd(&new.detached.stream.as_raw_fd()),
            Token(key),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = set.and(registered) {
            // The client has disconnected, or the kernel has no memory for the socket. So the connection is dropped.
            tracing::debug!(%error, "a subscriber's socket could not be registered");
            return;
        }
        let empty = || RoomConnections {
            room: room.clone(),
            keys: Vec::new(),
        };
        let keys = &mut self
            .rooms
            .entry(self::key(&room))
            .or_insert_with(empty)
            .keys;
        if keys.is_empty() {
            room.set_interest(self.number, true);
        }
        let (connection, read_ahead) = Connection::new(new, keys.len(), &self.context);
        keys.push(key);
        self.queued.add(connection.queued() as i64);
        slot.insert(connection);
        if let Some(window) = self.reconnect_window {
            let bye = goaway::goaway_frame(window);
            return self.with_connection(key, |connection, context| connection.bye(&bye, context));
        }
        self.with_connection(key, |connection, context| {
            connection.process(&mut read_ahead.to_vec(), context)?;
            // Bytes that arrived before the registration cause no event, so they are read here.
            connection.receive(context)
        });
    }

    fn bye(&mut self, window: Duration) {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let bye = goaway::goaway_frame(window);
            self.with_connection(key, |connection, context| connection.bye(&bye, context));
        }
    }

    /// Sweeps the next part of the connections, if a sweep is due.
    fn sweep_idle(&mut self) {
        if self.context.instant < self.sweep_at {
            return;
        }
        self.sweep_at = self.context.instant + SWEEP_EVERY;
        // A heartbeat contains the time. So each sweep encodes a new one, which all its connections share.
        self.context.heartbeat_frame = None;
        let slots = self.connections.capacity();
        for _ in 0..slots.div_ceil(SWEEP_PARTS) {
            self.swept = (self.swept + 1) % slots;
            self.with_connection(self.swept, Connection::sweep);
        }
    }

    /// Removes closed connections.
    fn reap(&mut self) {
        for closed in mem::take(&mut self.closed) {
            let Some(connection) = self.connections.try_remove(closed) else {
                continue;
            };
            self.queued.sub(connection.queued() as i64);
            self.stalled.sub(connection.is_stalled().into());
            let room = key(connection.room());
            let Some(RoomConnections { room: entry, keys }) = self.rooms.get_mut(&room) else {
                continue;
            };
            keys.swap_remove(connection.index);
            match keys.get(connection.index) {
                Some(moved) => self.connections[*moved].index = connection.index,
                None if keys.is_empty() => {
                    entry.set_interest(self.number, false);
                    self.rooms.remove(&room);
                }
                None => {}
            }
        }
    }
}
