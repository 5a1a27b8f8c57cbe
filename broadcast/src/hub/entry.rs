//! A room, shared: its state behind a lock, and who is notified when it changes.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use crate::room::state::RoomState;

/// Is notified when a room changes: the mailbox of a shard.
pub(crate) trait RoomListener: std::fmt::Debug + Send + Sync {
    /// The room changed; called once until the shard has looked at it ([`Entry::looks`]).
    fn room_changed(&self, room: &Arc<Entry>);
}

/// One listener a shard.
pub(crate) type RoomListeners = Arc<[Arc<dyn RoomListener>]>;

/// A room, and who is to be woken when it changes.
#[derive(Debug)]
pub(crate) struct Entry {
    state: Mutex<RoomState>,
    /// Wakes subscribers that no shard holds.
    changed: watch::Sender<()>,
    /// By shard; see the constants.
    marks: Box<[AtomicU8]>,
    listeners: RoomListeners,
    pub(super) subscribers: AtomicUsize,
    /// Subscribers of relays below this node.
    below: AtomicUsize,
}

/// The shard has no subscriber in the room.
const EMPTY: u8 = 0;
/// It has, and has looked at the room since its last change.
const SEEN: u8 = 1;
/// The room changed, and the shard has been told to look.
const CHANGED: u8 = 2;

impl Entry {
    pub(super) fn new(state: RoomState, listeners: RoomListeners) -> Self {
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            marks: listeners.iter().map(|_| AtomicU8::new(EMPTY)).collect(),
            listeners,
            subscribers: AtomicUsize::new(0),
            below: AtomicUsize::new(0),
        }
    }

    /// `shard` is to be told of changes from now on, or no longer.
    pub(crate) fn tell(&self, shard: usize, told: bool) {
        self.marks[shard].store(if told { SEEN } else { EMPTY }, Ordering::Release);
    }

    /// `shard` is about to look; what changes from now on it is told again.
    pub(crate) fn looks(&self, shard: usize) {
        let mark = &self.marks[shard];
        let _ = mark.compare_exchange(CHANGED, SEEN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Tells all who wait for the room, each shard once until it has looked.
    fn ring(self: &Arc<Self>) {
        self.changed.send_replace(());
        for (mark, listener) in self.marks.iter().zip(self.listeners.iter()) {
            let turned = mark.compare_exchange(SEEN, CHANGED, Ordering::AcqRel, Ordering::Acquire);
            if turned.is_ok() {
                listener.room_changed(self);
            }
        }
    }

    /// The room as it is now; hold it briefly.
    pub(crate) fn state(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the room; its subscribers look again if there is news.
    pub(crate) fn update(self: &Arc<Self>, change: impl FnOnce(&mut RoomState) -> bool) -> bool {
        let news = change(&mut self.state());
        if news {
            self.ring();
        }
        news
    }

    /// Tells of changes from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Subscribers here and at all relays below.
    pub(crate) fn audience(&self) -> usize {
        let below = self.below.load(Ordering::Relaxed);
        self.subscribers.load(Ordering::Relaxed) + below
    }

    pub(crate) fn subscribed(&self) {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unsubscribed(&self) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
    }

    /// A relay below had `before` subscribers in the room, and has `now`.
    pub(super) fn count_below(&self, before: usize, now: usize) {
        // Other relays change the sum at the same time; it wraps, and comes out right.
        let difference = now.wrapping_sub(before);
        self.below.fetch_add(difference, Ordering::Relaxed);
    }
}
