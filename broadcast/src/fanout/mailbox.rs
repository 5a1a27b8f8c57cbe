//! A shard's mailbox: messages for it, and a wake-up that is sent once for all of them.
//!
//! Its size is bounded: a new connection has a permit of the listener, and a room is in the mailbox once at most until
//! the shard has read it ([`crate::hub::entry::RoomEntry`]).

use std::{
    io, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mio::{Registry, Token, Waker};

use crate::fanout::new_connection::NewConnection;
use crate::hub::entry::{RoomEntry, RoomListener};

/// The mailbox of one shard.
pub(super) struct Mailbox {
    waker: Waker,
    inbox: Mutex<Inbox>,
}

/// The messages of a shard.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) new_connections: Vec<NewConnection>,
    pub(super) changed_rooms: Vec<Arc<RoomEntry>>,
    /// Set at shutdown: all subscribers are sent `bye`, and reconnect within this time.
    pub(super) reconnect_window: Option<Duration>,
    pub(super) stop: bool,
    woken: bool,
}

impl Mailbox {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new(registry, token)?,
            inbox: Mutex::default(),
        })
    }

    /// Posts a message, and wakes the shard if it is not woken yet.
    pub(super) fn post(&self, post: impl FnOnce(&mut Inbox)) {
        let is_first = {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            post(&mut inbox);
            !mem::replace(&mut inbox.woken, true)
        };
        if is_first && let Err(error) = self.waker.wake() {
            // A shard with connections wakes up by itself to sweep them.
            tracing::warn!(%error, "a shard could not be woken");
        }
    }

    /// Removes and returns all messages.
    pub(super) fn drain(&self) -> Inbox {
        mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RoomListener for Mailbox {
    fn room_changed(&self, room: &Arc<RoomEntry>) {
        self.post(|inbox| inbox.changed_rooms.push(room.clone()));
    }
}
