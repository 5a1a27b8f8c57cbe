//! All rooms, and who waits for them.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use emostream_model::{LeadersRecord, ResultId, Room, WindowRecord};
use tokio::sync::watch;

use crate::{room::RoomState, shape::Shape, shard::Bells};

/// The most rooms that exist only because somebody looks at them: an address is a name away from
/// making one, and each costs some hundred bytes until it is swept.
const SILENT_ROOMS: usize = 100_000;

/// How far a publisher may lag behind another one that a subscriber comes from. An id that is not
/// reached within this time belongs to another log, one that was since made anew.
const LAG: Duration = Duration::from_secs(2);

/// Every room that has ever counted something, and those that somebody subscribes to.
///
/// It grows with the rooms of the totals topic, as the topic itself does.
#[derive(Debug)]
pub(crate) struct Hub {
    rooms: Mutex<HashMap<Room, Arc<Entry>>>,
    /// By partition of the finals: the offsets that were read.
    read: Mutex<HashMap<u32, Range<u64>>>,
    /// Told when there is more of them.
    advanced: watch::Sender<()>,
    /// What leads across rooms.
    leaders: Mutex<Option<LeadersRecord>>,
    /// How results are cut now.
    shape: Mutex<Shape>,
    bells: Bells,
}

/// A room, and who is to be woken when it changes.
#[derive(Debug)]
pub(crate) struct Entry {
    state: Mutex<RoomState>,
    /// Wakes subscribers that no shard holds.
    changed: watch::Sender<()>,
    /// By shard; see the constants.
    marks: Box<[AtomicU8]>,
    bells: Bells,
    subscribers: AtomicUsize,
}

/// The shard has no subscriber in the room.
const EMPTY: u8 = 0;
/// It has, and has looked at the room since its last change.
const SEEN: u8 = 1;
/// The room changed, and the shard has been told to look.
const CHANGED: u8 = 2;

impl Entry {
    fn new(state: RoomState, bells: Bells) -> Self {
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            marks: bells.iter().map(|_| AtomicU8::new(EMPTY)).collect(),
            bells,
            subscribers: AtomicUsize::new(0),
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
        for (mark, bell) in self.marks.iter().zip(self.bells.iter()) {
            let turned = mark.compare_exchange(SEEN, CHANGED, Ordering::AcqRel, Ordering::Acquire);
            if turned.is_ok() {
                bell.put(|desk| desk.changed.push(self.clone()));
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

    /// Subscribers here.
    pub(crate) fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    pub(crate) fn subscribed(&self) {
        self.subscribers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unsubscribed(&self) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// No rooms yet; results are cut in `shape` until they show otherwise. The shards behind `bells` are told
    /// of changes.
    pub(crate) fn new(shape: Shape, bells: Bells) -> Self {
        Self {
            rooms: Mutex::default(),
            read: Mutex::default(),
            advanced: watch::Sender::default(),
            leaders: Mutex::default(),
            shape: Mutex::new(shape),
            bells,
        }
    }

    /// How results are cut now.
    pub(crate) fn shape(&self) -> Shape {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the shape follow a result that has come.
    pub(crate) fn follow(&self, result: &WindowRecord) {
        let mut shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        shape.follow(result);
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Room, Arc<Entry>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room, if it is known.
    pub(crate) fn find(&self, room: &Room) -> Option<Arc<Entry>> {
        self.rooms().get(room).cloned()
    }

    /// The room, for a subscriber, who is counted; made if need be. `None` when too many rooms are
    /// held open without a result.
    pub(crate) fn join(&self, room: &Room) -> Option<Arc<Entry>> {
        let mut rooms = self.rooms();
        let entry = match rooms.get(room) {
            Some(entry) => entry.clone(),
            None if rooms.len() >= SILENT_ROOMS && silent(&rooms) >= SILENT_ROOMS => return None,
            None => {
                let entry = Arc::new(Entry::new(RoomState::default(), self.bells.clone()));
                rooms.insert(room.clone(), entry.clone());
                entry
            }
        };
        entry.subscribed();
        Some(entry)
    }

    /// The room, for a result; made by `state` if need be.
    pub(crate) fn entry(&self, room: &Room, state: impl FnOnce() -> RoomState) -> Arc<Entry> {
        let mut rooms = self.rooms();
        let entry = rooms.entry(room.clone());
        entry
            .or_insert_with(|| Arc::new(Entry::new(state(), self.bells.clone())))
            .clone()
    }

    /// Every room with results to show.
    pub(crate) fn active(&self) -> Vec<(Room, Arc<Entry>)> {
        let rooms = self.rooms();
        let active = rooms.iter().filter(|(_, entry)| entry.state().is_active());
        active
            .map(|(room, entry)| (room.clone(), entry.clone()))
            .collect()
    }

    /// Forgets what is older than `before_ms`, live tallies of windows that ended before `overdue_ms`,
    /// and rooms without result and subscriber.
    pub(crate) fn sweep(&self, before_ms: u64, overdue_ms: u64) {
        self.rooms().retain(|_, entry| {
            let mut state = entry.state();
            state.expire(before_ms);
            state.end_live(overdue_ms);
            entry.subscribers() > 0 || !state.is_silent()
        });
    }

    /// The last offset of a partition of the finals that was never read.
    pub(crate) fn unread(&self, partition: u32) -> Option<u64> {
        self.read(partition).start.checked_sub(1)
    }

    /// The offsets of a partition of the finals that were read; none of a partition that is not.
    pub(crate) fn read(&self, partition: u32) -> Range<u64> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.get(&partition).cloned().unwrap_or_default()
    }

    /// Finals of `partition` begin to be read at `start`; what lies before it is not known here.
    pub(crate) fn begins(&self, partition: u32, start: u64) {
        self.set_read(partition, start..start);
        if let Some(last) = start.checked_sub(1) {
            for entry in self.rooms().values() {
                entry.update(|state| state.lose(partition, last));
            }
        }
    }

    /// Finals of `partition` were read up to `end`.
    pub(crate) fn reaches(&self, partition: u32, end: u64) {
        let read = self.read(partition);
        if end > read.end {
            self.set_read(partition, read.start..end);
            self.advanced.send_replace(());
        }
    }

    fn set_read(&self, partition: u32, offsets: Range<u64>) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(partition, offsets);
    }

    fn lags_behind(&self, id: ResultId) -> bool {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = read.get(&id.partition);
        partition.is_some_and(|read| read.end <= id.offset)
    }

    /// Waits for `id` to be read, for [`LAG`] at most: a subscriber may come from a publisher that is
    /// ahead of this one.
    pub(crate) async fn catch_up(&self, id: ResultId) {
        let mut advanced = self.advanced.subscribe();
        let reached = async {
            while self.lags_behind(id) {
                // The sender lives as long as this hub.
                let _ = advanced.changed().await;
            }
        };
        // Not reached: the cursor will tell.
        let _ = tokio::time::timeout(LAG, reached).await;
    }

    /// What leads across rooms, if anything does.
    pub(crate) fn leaders(&self) -> Option<LeadersRecord> {
        let leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        leaders.clone().filter(|leaders| !leaders.top.is_empty())
    }

    /// Takes in what leads across rooms, unless it is older than what is known.
    pub(crate) fn set_leaders(&self, record: LeadersRecord) {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = |known: &LeadersRecord| known.window.start <= record.window.start;
        if leaders.as_ref().is_none_or(newer) {
            *leaders = Some(record);
        }
    }

    /// How many rooms are known.
    pub(crate) fn len(&self) -> usize {
        self.rooms().len()
    }
}

fn silent(rooms: &HashMap<Room, Arc<Entry>>) -> usize {
    let silent = |entry: &&Arc<Entry>| entry.state().is_silent();
    rooms.values().filter(silent).count()
}
