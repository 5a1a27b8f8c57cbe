//! The mailbox of a shard: its messages, and one wake-up for all messages that the shard has not drained yet.
//!
//! The size of a mailbox is bounded. Each new connection has a permit of the listener. A room is in the mailbox at most
//! once until the shard has read it ([`crate::hub::entry::RoomEntry`]).

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
    /// The time within which subscribers reconnect. It is set at shutdown, and then all subscribers are sent `bye`.
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

    /// Adds a message, and wakes the shard if no earlier message has woken it already.
    pub(super) fn post(&self, post: impl FnOnce(&mut Inbox)) {
        let is_first = {
            let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            post(&mut inbox);
            !mem::replace(&mut inbox.woken, true)
        };
        if is_first && let Err(error) = self.waker.wake() {
            // A warning is enough: a shard with connections wakes up soon anyway, in order to sweep them.
            tracing::warn!(%error, "a shard could not be notified");
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
