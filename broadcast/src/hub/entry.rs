//! An entry of the hub: the state of a room behind a lock, and the listeners that are notified when it changes.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::room::state::RoomState;

/// A listener that is notified when a room changes: the mailbox of a shard.
pub(crate) trait RoomListener: Send + Sync {
    /// Called at the first change after the shard has called [`RoomEntry::clear_dirty`]. Further changes cause no call.
    fn room_changed(&self, room: &Arc<RoomEntry>);
}

/// The listeners, indexed by the numbers of their shards.
pub(crate) type RoomListeners = Arc<[Arc<dyn RoomListener>]>;

/// Whether a subscriber is counted in the audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attendance {
    /// The subscriber is counted.
    Audience,
    /// The subscriber is a dashboard or a tool, which is not counted.
    Observer,
}

/// A room, its audience, and its listeners.
pub(crate) struct RoomEntry {
    state: Mutex<RoomState>,
    /// Notifies the async tasks of subscribers over HTTP/2, which shards do not serve.
    changed: watch::Sender<()>,
    /// The state of each shard, indexed by the shard's number: [`NO_INTEREST`], [`CLEAN`] or [`DIRTY`].
    interest: Box<[AtomicU8]>,
    listeners: RoomListeners,
    subscribers: AtomicUsize,
    observers: AtomicUsize,
    /// Number of subscribers at the relays below this node.
    below: AtomicUsize,
}

/// The shard has no subscriber in the room.
const NO_INTEREST: u8 = 0;
/// The shard has a subscriber in the room, and the room has not changed since the shard last read it.
const CLEAN: u8 = 1;
/// The room has changed, and the shard was notified but has not read the room yet.
const DIRTY: u8 = 2;

impl RoomEntry {
    pub(super) fn new(state: RoomState, listeners: RoomListeners) -> Self {
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            interest: listeners
                .iter()
                .map(|_| AtomicU8::new(NO_INTEREST))
                .collect(),
            listeners,
            subscribers: AtomicUsize::new(0),
            observers: AtomicUsize::new(0),
            below: AtomicUsize::new(0),
        }
    }

    /// Sets whether `shard` is notified of changes.
    pub(crate) fn set_interest(&self, shard: usize, is_interested: bool) {
        let state = if is_interested { CLEAN } else { NO_INTEREST };
        self.interest[shard].store(state, Ordering::Release);
    }

    /// Clears the dirty state of a shard. The shard calls this before it reads the room, so that later changes notify
    /// it again.
    pub(crate) fn clear_dirty(&self, shard: usize) {
        let interest = &self.interest[shard];
        let _ = interest.compare_exchange(DIRTY, CLEAN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Notifies all subscribers of the room. A shard that has not read the last change yet is not notified again.
    fn notify(self: &Arc<Self>) {
        self.changed.send_replace(());
        for (interest, listener) in self.interest.iter().zip(self.listeners.iter()) {
            let marked =
                interest.compare_exchange(CLEAN, DIRTY, Ordering::AcqRel, Ordering::Acquire);
            if marked.is_ok() {
                listener.room_changed(self);
            }
        }
    }

    /// Locks the state of the room. Hold the guard only briefly, since updates and all shards wait for it.
    pub(crate) fn state(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the room, and notifies its subscribers if `change` returns true.
    pub(crate) fn update(self: &Arc<Self>, change: impl FnOnce(&mut RoomState) -> bool) -> bool {
        let is_new = change(&mut self.state());
        if is_new {
            self.notify();
        }
        is_new
    }

    /// Returns a receiver that is notified of changes after this call.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns the number of subscribers at this node and at all relays below it. Observers are not counted.
    pub(crate) fn audience(&self) -> usize {
        let below = self.below.load(Ordering::Relaxed);
        self.subscribers.load(Ordering::Relaxed) + below
    }

    /// Returns whether a client subscribes to the room, as audience or as observer.
    pub(super) fn is_held(&self) -> bool {
        self.audience() > 0 || self.observers.load(Ordering::Relaxed) > 0
    }

    fn counter(&self, attendance: Attendance) -> &AtomicUsize {
        match attendance {
            Attendance::Audience => &self.subscribers,
            Attendance::Observer => &self.observers,
        }
    }

    pub(super) fn subscribed(&self, attendance: Attendance) {
        self.counter(attendance).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unsubscribed(&self, attendance: Attendance) {
        self.counter(attendance).fetch_sub(1, Ordering::Relaxed);
    }

    /// Changes the number of subscribers of a relay below this node from `before` to `now`.
    pub(super) fn count_below(&self, before: usize, now: usize) {
        // Several relays change the sum concurrently, so the difference is added. A negative difference wraps around,
        // and the addition wraps back.
        let difference = now.wrapping_sub(before);
        self.below.fetch_add(difference, Ordering::Relaxed);
    }
}
