//! A shard's thread: who has its turn, and when.

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

use crate::{
    fanout::{
        connection::{Connection, DEAD_AFTER, More, Tick, Turn},
        deliveries::Deliveries,
        goaway,
        mailbox::Bell,
        new_connection::Arrival,
        write_batch::Batch,
    },
    frame::heartbeat::Heartbeat,
    hub::entry::RoomEntry,
    metrics::Metrics,
};

/// How often some connections are looked at, and into how many parts they fall.
const SLICE_EVERY: Duration = Duration::from_millis(100);
const SLICES: usize = 10;
/// What epoll tells at once.
const EVENTS: usize = 1024;
/// What is read at once: what clients say is short.
const READ_BYTES: usize = 4096;
/// What the kernel keeps for a client that does not read, some of it for what is on its way: with its own
/// default it would take 4 MB of frames before anybody noticed. It books a small frame with its header, so
/// this is some hundred of them.
const SEND_BUFFER_BYTES: usize = 16 << 10;
/// What the kernel keeps of what it cannot send yet: some twenty frames. What lies there goes out late, and
/// live tallies would be stale.
const UNSENT_BYTES: u32 = 4 << 10;

/// The bell's token; connections count from 0.
const BELL: Token = Token(usize::MAX);

/// A room's connections in this shard.
struct Seats {
    room: Arc<RoomEntry>,
    taken: Vec<usize>,
}

/// See the module.
pub(super) struct Thread {
    shard: usize,
    poll: Poll,
    bell: Arc<Bell>,
    connections: Slab<Connection>,
    rooms: HashMap<usize, Seats>,
    /// Those who have more to do at once.
    again: Vec<usize>,
    /// Those who are gone.
    gone: Vec<usize>,
    turn: Turn,
    queued: IntGauge,
    stalled: IntGauge,
    farewell: Option<Duration>,
    started: Instant,
    /// When the next slice is due, and where it begins.
    slice_at: Instant,
    looked: usize,
}

/// Which room: where its entry lies, which is held meanwhile.
fn key(room: &Arc<RoomEntry>) -> usize {
    Arc::as_ptr(room).addr()
}

impl Thread {
    pub(super) fn new(shard: usize, heartbeat: Heartbeat, metrics: &Metrics) -> io::Result<Self> {
        let poll = Poll::new()?;
        let bell = Arc::new(Bell::new(poll.registry(), BELL)?);
        let now = Instant::now();
        Ok(Self {
            shard,
            poll,
            bell,
            connections: Slab::new(),
            rooms: HashMap::new(),
            again: Vec::new(),
            gone: Vec::new(),
            turn: Turn {
                now: Tick::since(now, now),
                instant: now,
                deliveries: Deliveries::new(metrics, heartbeat.clock.clone()),
                // The next visit may come a whole round later, which would be too late.
                silence: Tick::span(heartbeat.every.saturating_sub(SLICE_EVERY * SLICES as u32)),
                heartbeat,
                beat: None,
                batch: Batch::default(),
                scratch: vec![0; READ_BYTES].into(),
            },
            queued: metrics.queued.clone(),
            stalled: metrics.stalled.clone(),
            farewell: None,
            started: now,
            slice_at: now,
            looked: 0,
        })
    }

    pub(super) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            if let Err(error) = self.poll.poll(&mut events, self.patience())
                && error.kind() != io::ErrorKind::Interrupted
            {
                // epoll fails of a wrong call alone.
                unreachable!("a shard cannot wait: {error}");
            }
            self.turn.instant = Instant::now();
            self.turn.now = Tick::since(self.started, self.turn.instant);
            let desk = self.bell.take();
            if desk.stop {
                return;
            }
            for room in desk.changed {
                self.walk(&room);
            }
            for key in mem::take(&mut self.again) {
                self.act(key, Connection::receive);
            }
            for event in &events {
                if event.token() != BELL {
                    let key = event.token().0;
                    if event.is_writable() {
                        self.act(key, Connection::resume);
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.act(key, Connection::receive);
                    }
                }
            }
            self.bury();
            for arrival in desk.arrivals {
                self.adopt(arrival);
            }
            if let Some(spread) = desk.farewell {
                self.farewell = Some(spread);
                self.bye(spread);
            }
            self.look();
            self.bury();
        }
    }

    /// How long it may wait for news.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        // With nobody here there is nothing to look at.
        (!self.connections.is_empty())
            .then(|| self.slice_at.saturating_duration_since(Instant::now()))
    }

    /// Gives a connection its turn.
    fn act(&mut self, key: usize, act: impl FnOnce(&mut Connection, &mut Turn) -> More) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let before = (connection.queued(), connection.is_stalled());
        let acted = act(connection, &mut self.turn);
        let after = (connection.queued(), connection.is_stalled());
        if before != after {
            self.queued.add(after.0 as i64 - before.0 as i64);
            self.stalled.add(i64::from(after.1) - i64::from(before.1));
        }
        match acted {
            Ok(false) => {}
            Ok(true) => self.again.push(key),
            Err(error) => {
                tracing::trace!(%error, "a subscriber has gone");
                self.gone.push(key);
            }
        }
    }

    /// Has everybody in a room look at it.
    fn walk(&mut self, room: &Arc<RoomEntry>) {
        room.clear_dirty(self.shard);
        let Some(seats) = self.rooms.get_mut(&key(room)) else {
            return;
        };
        // Nobody sits down or leaves meanwhile: those who are gone are buried later.
        let taken = mem::take(&mut seats.taken);
        for key in &taken {
            self.act(*key, Connection::send);
        }
        if let Some(seats) = self.rooms.get_mut(&key(room)) {
            seats.taken = taken;
        }
    }

    fn adopt(&mut self, arrival: Arrival) {
        let room = arrival.subscriber.entry.clone();
        let line = &arrival.taken.line;
        let socket = SockRef::from(line);
        let set = socket
            .set_send_buffer_size(SEND_BUFFER_BYTES)
            .and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_BYTES))
            // Finds out about hosts that are gone, whatever is spoken.
            .and_then(|()| socket.set_tcp_user_timeout(Some(DEAD_AFTER)));
        let slot = self.connections.vacant_entry();
        let key = slot.key();
        let registered = self.poll.registry().register(
            &mut SourceFd(&line.as_raw_fd()),
            Token(key),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = set.and(registered) {
            // The client has gone, or the kernel has no memory for it.
            tracing::debug!(%error, "a subscriber is not taken in");
            return;
        }
        let seats = self.rooms.entry(self::key(&room)).or_insert_with(|| Seats {
            room: room.clone(),
            taken: Vec::new(),
        });
        if seats.taken.is_empty() {
            room.set_interest(self.shard, true);
        }
        let (connection, ahead) = Connection::new(arrival, seats.taken.len(), &mut self.turn);
        seats.taken.push(key);
        self.queued.add(connection.queued() as i64);
        slot.insert(connection);
        if let Some(spread) = self.farewell {
            let bye = goaway::bye(spread);
            return self.act(key, |connection, turn| connection.bye(&bye, turn));
        }
        self.act(key, |connection, turn| {
            connection.hear(&mut ahead.to_vec(), turn)?;
            // What came since then was told to nobody.
            connection.receive(turn)
        });
    }

    fn bye(&mut self, spread: Duration) {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let bye = goaway::bye(spread);
            self.act(key, |connection, turn| connection.bye(&bye, turn));
        }
    }

    /// Looks at the next slice of the connections, if it is due.
    fn look(&mut self) {
        if self.turn.instant < self.slice_at {
            return;
        }
        self.slice_at = self.turn.instant + SLICE_EVERY;
        // One for all that are due now; its time is this moment's.
        self.turn.beat = None;
        let places = self.connections.capacity();
        for _ in 0..places.div_ceil(SLICES) {
            self.looked = (self.looked + 1) % places;
            self.act(self.looked, Connection::look);
        }
    }

    /// Lets go of those who are gone.
    fn bury(&mut self) {
        for gone in mem::take(&mut self.gone) {
            let Some(connection) = self.connections.try_remove(gone) else {
                continue;
            };
            self.queued.sub(connection.queued() as i64);
            self.stalled.sub(connection.is_stalled().into());
            let room = key(connection.room());
            let Some(seats) = self.rooms.get_mut(&room) else {
                continue;
            };
            seats.taken.swap_remove(connection.seat);
            match seats.taken.get(connection.seat) {
                Some(moved) => self.connections[*moved].seat = connection.seat,
                None if seats.taken.is_empty() => {
                    seats.room.set_interest(self.shard, false);
                    self.rooms.remove(&room);
                }
                None => {}
            }
        }
    }
}
