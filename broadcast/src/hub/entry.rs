//! A room as it is shared: its state behind a lock, and what is notified when it changes.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::room::state::RoomState;

/// Is notified when a room changes: the mailbox of a shard.
pub(crate) trait RoomListener: Send + Sync {
    /// Called at the first change after the shard has called [`RoomEntry::clear_dirty`].
    fn room_changed(&self, room: &Arc<RoomEntry>);
}

/// The listener of each shard, by its number.
pub(crate) type RoomListeners = Arc<[Arc<dyn RoomListener>]>;

/// Whether a subscriber counts as a part of the audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attendance {
    /// It does.
    Audience,
    /// It is a dashboard or a tool, and does not.
    Observer,
}

/// A room, its audience, and what to notify when it changes.
pub(crate) struct RoomEntry {
    state: Mutex<RoomState>,
    /// Notifies subscribers that no shard serves.
    changed: watch::Sender<()>,
    /// By shard: [`NO_INTEREST`], [`CLEAN`] or [`DIRTY`].
    interest: Box<[AtomicU8]>,
    listeners: RoomListeners,
    subscribers: AtomicUsize,
    observers: AtomicUsize,
    /// Subscribers of relays below this node.
    below: AtomicUsize,
}

/// The shard has no subscriber in the room.
const NO_INTEREST: u8 = 0;
/// It has, and the room has not changed since the shard last read it.
const CLEAN: u8 = 1;
/// The room changed, and the shard was notified.
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

    /// Whether `shard` is to be notified of changes.
    pub(crate) fn set_interest(&self, shard: usize, is_interested: bool) {
        let state = if is_interested { CLEAN } else { NO_INTEREST };
        self.interest[shard].store(state, Ordering::Release);
    }

    /// `shard` calls this before it reads the room: a change that follows notifies it again.
    pub(crate) fn clear_dirty(&self, shard: usize) {
        let interest = &self.interest[shard];
        let _ = interest.compare_exchange(DIRTY, CLEAN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Notifies all subscribers of the room; a shard that has not read the last change yet is not notified again.
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

    /// The room as it is now. The guard is held briefly: updates and all shards wait for it.
    pub(crate) fn state(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the room, and notifies its subscribers if `change` returns that there is something new.
    pub(crate) fn update(self: &Arc<Self>, change: impl FnOnce(&mut RoomState) -> bool) -> bool {
        let is_new = change(&mut self.state());
        if is_new {
            self.notify();
        }
        is_new
    }

    /// Notifies of changes from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Subscribers at this node and at all relays below it, without observers.
    pub(crate) fn audience(&self) -> usize {
        let below = self.below.load(Ordering::Relaxed);
        self.subscribers.load(Ordering::Relaxed) + below
    }

    /// Whether a client subscribes to the room, observers included.
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

    /// A relay below had `before` subscribers in the room, and has `now`.
    pub(super) fn count_below(&self, before: usize, now: usize) {
        // Other relays change the sum at the same time; it wraps, and comes out right.
        let difference = now.wrapping_sub(before);
        self.below.fetch_add(difference, Ordering::Relaxed);
    }
}
