//! What wakes a shard: a desk where things are left for it, and a bell that is rung once for all of them.
//!
//! Nothing here grows without bound: an arrival holds its place in the listener's limit of connections, and
//! a room lies on the desk at most once for each time that the shard has looked at it ([`crate::hub::entry::RoomEntry`]).

use std::{
    io, mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mio::{Registry, Token, Waker};

use crate::{
    fanout::new_connection::Arrival,
    hub::entry::{RoomEntry, RoomListener},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Bell {
    waker: Waker,
    desk: Mutex<Desk>,
}

/// What was left.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) arrivals: Vec<Arrival>,
    /// Rooms that changed.
    pub(crate) changed: Vec<Arc<RoomEntry>>,
    /// Everybody is to go, and to come back within so long.
    pub(crate) farewell: Option<Duration>,
    pub(crate) stop: bool,
    rung: bool,
}

impl Bell {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new(registry, token)?,
            desk: Mutex::default(),
        })
    }

    /// Leaves something, and wakes the shard if that has not been done yet.
    pub(crate) fn put(&self, put: impl FnOnce(&mut Desk)) {
        let first = {
            let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
            put(&mut desk);
            !mem::replace(&mut desk.rung, true)
        };
        if first && let Err(error) = self.waker.wake() {
            // The shard looks by itself some time, while it has connections.
            tracing::warn!(%error, "a shard could not be woken");
        }
    }

    /// Takes all that was left.
    pub(super) fn take(&self) -> Desk {
        mem::take(&mut *self.desk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RoomListener for Bell {
    fn room_changed(&self, room: &Arc<RoomEntry>) {
        self.put(|desk| desk.changed.push(room.clone()));
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk")
            .field("arrivals", &self.arrivals.len())
            .field("changed", &self.changed.len())
            .finish_non_exhaustive()
    }
}
