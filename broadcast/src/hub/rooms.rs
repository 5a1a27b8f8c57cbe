//! All rooms.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use emostream_model::{
    LeadersRecord, ReadRange, RelayUpdate, ResultId, Room, RoomSnapshot, WindowRecord,
};
use tokio::sync::watch;

use crate::{
    hub::{
        entry::{Entry, RoomListeners},
        offsets::ReadOffsets,
        rejected_update::Unfit,
        upstream_status::UpstreamStatus,
        window_settings::Shape,
    },
    room::{
        result_order::ResultOrder,
        snapshot::{NotStanding, Standing},
        state::RoomState,
    },
};

/// The most rooms that exist only because somebody looks at them: an address is a name away from
/// making one, and each costs some hundred bytes until it is swept.
const SILENT_ROOMS: usize = 100_000;

/// Every room that has ever counted something, and those that somebody subscribes to.
///
/// It grows with the rooms of the totals topic, as the topic itself does.
#[derive(Debug)]
pub(crate) struct Hub {
    rooms: Mutex<HashMap<Room, Arc<Entry>>>,
    /// How many of them are silent, at most: one that has had a result since the last sweep counts until the
    /// next. Changed while the rooms are held.
    silent: AtomicUsize,
    offsets: ReadOffsets,
    /// What leads across rooms.
    leaders: Mutex<Option<(ResultOrder, LeadersRecord)>>,
    /// The greatest number of backward resets of any room.
    resets: AtomicU64,
    /// How results are cut now.
    shape: Mutex<Shape>,
    listeners: RoomListeners,
    /// Whether updates reach this node.
    upstream_status: watch::Sender<UpstreamStatus>,
}

impl Hub {
    /// No rooms yet; results are cut in `shape` until they show otherwise. The `listeners` are notified
    /// of changes.
    pub(crate) fn new(shape: Shape, listeners: RoomListeners) -> Self {
        Self {
            rooms: Mutex::default(),
            silent: AtomicUsize::new(0),
            offsets: ReadOffsets::default(),
            leaders: Mutex::default(),
            resets: AtomicU64::new(0),
            shape: Mutex::new(shape),
            listeners,
            upstream_status: watch::Sender::new(UpstreamStatus::Disconnected),
        }
    }

    /// Whether updates reach this node, and through which nodes.
    pub(crate) fn upstream_status(&self) -> &watch::Sender<UpstreamStatus> {
        &self.upstream_status
    }

    /// Takes news in; `false` if it is known already. Subscribers of what has changed look again.
    pub(crate) fn apply(&self, update: RelayUpdate) -> Result<bool, Unfit> {
        self.apply_after(None, update)
    }

    /// The same of a result that was counted after so many backward resets, where that is known.
    pub(crate) fn apply_after(
        &self,
        resets: Option<u64>,
        update: RelayUpdate,
    ) -> Result<bool, Unfit> {
        match update {
            RelayUpdate::Final {
                id,
                written_ms,
                record,
            } => self.push_final(id, written_ms, record, resets),
            RelayUpdate::Live(record) => {
                self.follow(&record);
                let entry = self.entry(&record.room, RoomState::default);
                Ok(entry.update(|state| state.push_live(record)))
            }
            RelayUpdate::Trending(record) => {
                let entry = self.entry(&record.room, RoomState::default);
                Ok(entry.update(|state| state.push_trending(record)))
            }
            RelayUpdate::Leaders(record) => Ok(self.set_leaders(record)),
            RelayUpdate::Room(snapshot) => self.take_room(&snapshot),
            RelayUpdate::Read(range) => self.set_read(range),
        }
    }

    fn push_final(
        &self,
        id: ResultId,
        written_ms: u64,
        record: WindowRecord,
        resets: Option<u64>,
    ) -> Result<bool, Unfit> {
        self.follow(&record);
        let (room, unread) = (record.room.clone(), self.unread(id.partition));
        let entry = self.entry(&room, RoomState::default);
        let mut contradiction = false;
        let news = entry.update(|state| {
            contradiction = state.contradicts(id, record.window);
            let news = !contradiction && state.push_final(id, written_ms, record, resets, unread);
            self.resets.fetch_max(state.resets(), Ordering::Relaxed);
            news
        });
        match contradiction {
            true => Err(Unfit::OtherLog { room }),
            false => Ok(news),
        }
    }

    fn take_room(&self, snapshot: &RoomSnapshot) -> Result<bool, Unfit> {
        let room = || snapshot.room.clone();
        let standing = Standing::read(snapshot);
        let standing = standing.map_err(|NotStanding| Unfit::NoRoom { room: room() })?;
        let entry = self.entry(&snapshot.room, RoomState::default);
        let newest = standing.newest();
        let mut contradiction = false;
        let news = entry.update(|state| {
            contradiction = newest.is_some_and(|(id, window)| state.contradicts(id, window));
            !contradiction && state.take(standing)
        });
        match contradiction {
            true => Err(Unfit::OtherLog { room: room() }),
            false => Ok(news),
        }
    }

    /// How results are cut now.
    pub(crate) fn shape(&self) -> Shape {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Results are cut so, as the upstream says.
    pub(crate) fn set_shape(&self, shape: Shape) {
        *self.shape.lock().unwrap_or_else(PoisonError::into_inner) = shape;
    }

    /// Has the shape follow a result that has come.
    fn follow(&self, result: &WindowRecord) {
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
        self.counted(room, Entry::subscribed)
    }

    /// A relay below had `before` subscribers in the room, and has `now`. `false` when too many rooms are
    /// held open without a result, and it is not counted.
    pub(crate) fn audience_below(&self, room: &Room, before: usize, now: usize) -> bool {
        let counted = self.counted(room, |entry| entry.count_below(before, now));
        counted.is_some()
    }

    /// The room, counted while it cannot be swept.
    fn counted(&self, room: &Room, count: impl FnOnce(&Entry)) -> Option<Arc<Entry>> {
        let mut rooms = self.rooms();
        let entry = match rooms.get(room) {
            Some(entry) => entry.clone(),
            None if self.silent.load(Ordering::Relaxed) >= SILENT_ROOMS => return None,
            None => {
                self.silent.fetch_add(1, Ordering::Relaxed);
                let entry = Arc::new(Entry::new(RoomState::default(), self.listeners.clone()));
                rooms.insert(room.clone(), entry.clone());
                entry
            }
        };
        count(&entry);
        Some(entry)
    }

    /// Every room that is not silent, and every audience: what a relay may need to know.
    pub(crate) fn all(&self) -> Vec<(Room, Arc<Entry>)> {
        let rooms = self.rooms();
        rooms
            .iter()
            .map(|(room, entry)| (room.clone(), entry.clone()))
            .collect()
    }

    /// The room, for a result; made by `state` if need be.
    pub(crate) fn entry(&self, room: &Room, state: impl FnOnce() -> RoomState) -> Arc<Entry> {
        let mut rooms = self.rooms();
        let entry = rooms.entry(room.clone());
        entry
            .or_insert_with(|| Arc::new(Entry::new(state(), self.listeners.clone())))
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
        let (mut rooms, mut silent) = (self.rooms(), 0);
        rooms.retain(|_, entry| {
            let mut state = entry.state();
            state.expire(before_ms);
            state.end_live(overdue_ms);
            let (is_silent, is_watched) = (state.is_silent(), entry.audience() > 0);
            silent += usize::from(is_silent && is_watched);
            is_watched || !is_silent
        });
        self.silent.store(silent, Ordering::Relaxed);
    }

    /// The last offset of a partition of the finals that was never read.
    pub(crate) fn unread(&self, partition: u32) -> Option<u64> {
        self.offsets.get(partition)?.start.checked_sub(1)
    }

    /// The offsets of the finals that were read.
    pub(crate) fn offsets(&self) -> &ReadOffsets {
        &self.offsets
    }

    /// Finals of a partition were read up to its end; where it begins behind what was read before, those in
    /// between never will be.
    fn set_read(&self, range: ReadRange) -> Result<bool, Unfit> {
        self.offsets.advance(range, |last| {
            for entry in self.rooms().values() {
                entry.update(|state| state.lose(range.partition, last));
            }
        })
    }

    /// Waits for `id` to be read ([`ReadOffsets::catch_up`]).
    pub(crate) async fn catch_up(&self, id: ResultId) -> bool {
        self.offsets.catch_up(id, &self.upstream_status).await
    }

    /// What leads across rooms, if anything does.
    pub(crate) fn leaders(&self) -> Option<LeadersRecord> {
        self.leading().filter(|leaders| !leaders.top.is_empty())
    }

    /// Takes in what leads across rooms, unless it is older than what is known.
    fn set_leaders(&self, record: LeadersRecord) -> bool {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        let order = ResultOrder::new(self.resets.load(Ordering::Relaxed), record.window);
        let newer = |(known, leaders): &(ResultOrder, _)| *known <= order && *leaders != record;
        let news = leaders.as_ref().is_none_or(newer);
        if news {
            *leaders = Some((order, record));
        }
        news
    }

    /// What leads across rooms, or that nothing does any more.
    pub(crate) fn leading(&self) -> Option<LeadersRecord> {
        let leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        leaders.as_ref().map(|(_, leaders)| leaders.clone())
    }

    /// How many rooms are known.
    pub(crate) fn len(&self) -> usize {
        self.rooms().len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Emoji, WindowSize, compress};

    fn hub() -> Hub {
        let shape = Shape {
            window_ms: 10,
            live_ms: 10,
            swarm_size: 1000,
        };
        Hub::new(shape, Arc::new([]))
    }

    fn room(nth: usize) -> Room {
        Room::new(&format!("r{nth}")).unwrap()
    }

    #[test]
    fn rooms_that_are_only_looked_at_are_bounded_until_they_are_swept_or_count_something() {
        let hub = hub();
        for nth in 0..SILENT_ROOMS {
            assert!(hub.join(&room(nth)).is_some());
        }
        let more = room(SILENT_ROOMS);
        assert!(hub.join(&more).is_none(), "one too many");
        assert!(!hub.audience_below(&more, 0, 7), "from a relay neither");
        assert!(hub.join(&room(7)).is_some(), "one that is there");
        // Somebody is in all of them, and one has results now.
        let live = WindowRecord {
            room: room(3),
            window: WindowSize::from_ms(10).unwrap().window_of(1000),
            emitted_at: Some(1000),
            total: 1,
            counts: vec![compress(Emoji::from_text("🔥").unwrap(), 1, 1000)],
        };
        assert_eq!(hub.apply(RelayUpdate::Live(live)), Ok(true));
        hub.sweep(0, 0);
        assert!(hub.join(&more).is_some());
        assert!(hub.join(&room(SILENT_ROOMS + 1)).is_none());
        // All leave.
        for (_, entry) in hub.all() {
            entry.subscribers.store(0, Ordering::Relaxed);
        }
        hub.sweep(0, 0);
        assert_eq!(hub.len(), 1);
        assert!(hub.join(&room(SILENT_ROOMS + 1)).is_some());
    }
}
