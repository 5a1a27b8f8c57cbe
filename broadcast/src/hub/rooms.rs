//! All rooms of this node.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use emostream_model::{
    LeadersRecord, NodeId, ReadRange, RelayUpdate, ResultId, ResultOrder, Room, Window,
    WindowRecord, WindowSettings,
};
use rand::RngExt;
use tokio::sync::watch;

use crate::hub::entry::{Attendance, RoomEntry, RoomListeners};
use crate::hub::{
    offsets::ReadOffsets, rejected_update::RejectedUpdate, upstream_status::UpstreamStatus,
    window_settings::observe,
};
use crate::room::snapshot::{InvalidSnapshot, ParsedSnapshot};
use crate::room::state::RoomState;

/// Maximum number of rooms without results that exist only because a client subscribes to them. A client can create a
/// room with any name, and only the sweep releases its memory, so the number has to be limited.
const MAX_IDLE_ROOMS: usize = 100_000;

/// All rooms that have a result or a subscriber. There are as many rooms with results as in the totals topic.
pub(crate) struct Hub {
    /// The id of this node in the tree of relays.
    pub(crate) node: NodeId,
    rooms: Mutex<HashMap<Room, Arc<RoomEntry>>>,
    /// Upper bound of the number of idle rooms. A room that has received a result since the last sweep is counted until
    /// the next sweep. This value is changed only while `rooms` is locked.
    idle: AtomicUsize,
    pub(crate) offsets: ReadOffsets,
    /// The last record of the leaders across all rooms, and its position among the results.
    leaders: Mutex<Option<(ResultOrder, LeadersRecord)>>,
    /// The greatest number of backward resets of any room.
    resets: AtomicU64,
    window_settings: Mutex<WindowSettings>,
    listeners: RoomListeners,
    pub(crate) upstream_status: watch::Sender<UpstreamStatus>,
    /// Whether new counts reach this node, as subscribers are notified in heartbeats.
    pub(crate) counting: watch::Sender<bool>,
}

impl Hub {
    /// Returns a hub without rooms. `window_settings` apply until results show other settings. `listeners` are notified
    /// of changes.
    pub(crate) fn new(
        window_settings: WindowSettings,
        listeners: RoomListeners,
        counting: watch::Sender<bool>,
    ) -> Self {
        Self {
            node: NodeId(rand::rng().random()),
            rooms: Mutex::default(),
            idle: AtomicUsize::new(0),
            offsets: ReadOffsets::default(),
            leaders: Mutex::default(),
            resets: AtomicU64::new(0),
            window_settings: Mutex::new(window_settings),
            listeners,
            upstream_status: watch::Sender::new(UpstreamStatus::Disconnected),
            counting,
        }
    }

    /// Sets whether new counts reach this node.
    pub(crate) fn set_counting(&self, counting: bool) {
        let replace = |known: &mut bool| std::mem::replace(known, counting) != counting;
        let is_new = self.counting.send_if_modified(replace);
        match counting {
            _ if !is_new => {}
            true => tracing::info!("new counts arrive again; subscribers are notified"),
            false => tracing::warn!("no new counts arrive; subscribers are notified"),
        }
    }

    /// Applies an update, and notifies the subscribers of changed rooms. Returns `false` if the update contains nothing
    /// new.
    pub(super) fn apply(&self, update: RelayUpdate) -> Result<bool, RejectedUpdate> {
        match update {
            RelayUpdate::Final(closed) => {
                self.observe(&closed.record);
                let room = closed.record.room.clone();
                let newest = (closed.id, closed.record.window);
                let unread = self.last_unread(closed.id.partition);
                self.update_room(&room, Some(newest), |state| {
                    let is_new = state.push_final(closed, unread);
                    self.resets.fetch_max(state.resets(), Ordering::Relaxed);
                    is_new
                })
            }
            RelayUpdate::Live(record) => {
                self.observe(&record);
                let entry = self.get_or_insert(&record.room, RoomState::default);
                Ok(entry.update(|state| state.push_live(record)))
            }
            RelayUpdate::Trending(record) => {
                let entry = self.get_or_insert(&record.room, RoomState::default);
                Ok(entry.update(|state| state.push_trending(record)))
            }
            RelayUpdate::Leaders(record) => Ok(self.set_leaders(record)),
            RelayUpdate::Room(snapshot) => {
                let room = &snapshot.room;
                let parsed = ParsedSnapshot::parse(&snapshot)
                    .map_err(|InvalidSnapshot| RejectedUpdate::InvalidSnapshot(room.clone()))?;
                self.update_room(room, parsed.newest(), |state| state.merge(parsed))
            }
            RelayUpdate::Read(range) => self.set_read(range),
            RelayUpdate::Removed { room, before } => {
                // The removal of an unknown room does not add the room. A known room is dropped by the sweep once it is
                // idle.
                let entry = self.find(&room);
                Ok(entry.is_some_and(|entry| entry.update(|state| state.remove(&room, before))))
            }
        }
    }

    /// Changes a room with an update. `newest` is the newest final result of the update; if it shows that the update is
    /// from another log, the room is not changed.
    fn update_room(
        &self,
        room: &Room,
        newest: Option<(ResultId, Window)>,
        change: impl FnOnce(&mut RoomState) -> bool,
    ) -> Result<bool, RejectedUpdate> {
        let mut is_mismatch = false;
        let entry = self.get_or_insert(room, RoomState::default);
        let is_new = entry.update(|state| {
            is_mismatch = newest.is_some_and(|(id, window)| state.contradicts(id, window));
            !is_mismatch && change(state)
        });
        match is_mismatch {
            true => Err(RejectedUpdate::OtherLog(format!("room {room}"))),
            false => Ok(is_new),
        }
    }

    fn lock_settings(&self) -> MutexGuard<'_, WindowSettings> {
        let settings = self.window_settings.lock();
        settings.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the settings of the dataflow's windows, as far as they are known.
    pub(crate) fn window_settings(&self) -> WindowSettings {
        *self.lock_settings()
    }

    /// Sets the settings that the upstream sent.
    pub(crate) fn set_window_settings(&self, settings: WindowSettings) {
        *self.lock_settings() = settings;
    }

    fn observe(&self, result: &WindowRecord) {
        observe(&mut self.lock_settings(), result);
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Room, Arc<RoomEntry>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the room, if it is known.
    pub(crate) fn find(&self, room: &Room) -> Option<Arc<RoomEntry>> {
        self.rooms().get(room).cloned()
    }

    /// Counts a subscriber of the room. An unknown room is inserted; if there are too many idle rooms, it is not
    /// inserted and the result is `None`.
    pub(crate) fn subscribe(&self, room: &Room, attendance: Attendance) -> Option<Arc<RoomEntry>> {
        self.get_or_insert_counted(room, |entry| entry.subscribed(attendance))
    }

    /// Changes the number of subscribers of a relay below this node from `before` to `now`. Returns `false`, and
    /// changes nothing, if the room is unknown and there are too many idle rooms.
    pub(crate) fn audience_below(&self, room: &Room, before: usize, now: usize) -> bool {
        let counted = self.get_or_insert_counted(room, |entry| entry.count_below(before, now));
        counted.is_some()
    }

    /// Finds or inserts the room, calls `count` to count an audience in it, and returns it. All of this happens under
    /// the lock, so the sweep cannot drop the room before it has an audience.
    fn get_or_insert_counted(
        &self,
        room: &Room,
        count: impl FnOnce(&RoomEntry),
    ) -> Option<Arc<RoomEntry>> {
        let mut rooms = self.rooms();
        let entry = match rooms.get(room) {
            Some(entry) => entry.clone(),
            None if self.idle.load(Ordering::Relaxed) >= MAX_IDLE_ROOMS => return None,
            None => {
                self.idle.fetch_add(1, Ordering::Relaxed);
                let entry = Arc::new(RoomEntry::new(RoomState::default(), self.listeners.clone()));
                rooms.insert(room.clone(), entry.clone());
                entry
            }
        };
        count(&entry);
        Some(entry)
    }

    /// Returns all rooms.
    pub(crate) fn all(&self) -> Vec<(Room, Arc<RoomEntry>)> {
        let rooms = self.rooms();
        rooms
            .iter()
            .map(|(room, entry)| (room.clone(), entry.clone()))
            .collect()
    }

    /// Returns the room. An unknown room is inserted with `state`.
    pub(super) fn get_or_insert(
        &self,
        room: &Room,
        state: impl FnOnce() -> RoomState,
    ) -> Arc<RoomEntry> {
        let mut rooms = self.rooms();
        let entry = rooms.entry(room.clone());
        entry
            .or_insert_with(|| Arc::new(RoomEntry::new(state(), self.listeners.clone())))
            .clone()
    }

    /// Returns all rooms with a final result or a live tally.
    pub(crate) fn active(&self) -> Vec<(Room, Arc<RoomEntry>)> {
        let rooms = self.rooms();
        let active = rooms.iter().filter(|(_, entry)| entry.state().is_active());
        active
            .map(|(room, entry)| (room.clone(), entry.clone()))
            .collect()
    }

    /// Drops final results that were written before `before_ms`, live tallies of windows that ended before
    /// `overdue_ms`, and rooms without results and subscribers. All times are Unix milliseconds.
    pub(super) fn sweep(&self, before_ms: u64, overdue_ms: u64) {
        let (mut rooms, mut idle) = (self.rooms(), 0);
        rooms.retain(|_, entry| {
            let mut state = entry.state();
            state.expire(before_ms);
            state.end_live(overdue_ms);
            let (is_idle, is_held) = (state.is_idle(), entry.is_held());
            idle += usize::from(is_idle && is_held);
            is_held || !is_idle
        });
        self.idle.store(idle, Ordering::Relaxed);
    }

    /// Returns the last offset of a partition before the final results that this node has read.
    pub(super) fn last_unread(&self, partition: u32) -> Option<u64> {
        self.offsets.get(partition)?.start.checked_sub(1)
    }

    /// Notes that the final results of `range` were read. If the range begins after the end of the known range, the
    /// final results in between were deleted, and the rooms of the partition record that these final results are
    /// missing.
    fn set_read(&self, range: ReadRange) -> Result<bool, RejectedUpdate> {
        self.offsets.advance(range, |last| {
            for entry in self.rooms().values() {
                entry.update(|state| state.evict_through(range.partition, last));
            }
        })
    }

    /// Waits until the final result `id` is read, as [`ReadOffsets::catch_up`] does.
    pub(crate) async fn catch_up(&self, id: ResultId) -> bool {
        self.offsets.catch_up(id, &self.upstream_status).await
    }

    /// Returns the leaders across all rooms, if there are any.
    pub(crate) fn leaders(&self) -> Option<LeadersRecord> {
        self.last_leaders()
            .filter(|leaders| !leaders.top.is_empty())
    }

    /// Sets the leaders across all rooms. Returns `false` if the known record is newer or equal.
    fn set_leaders(&self, record: LeadersRecord) -> bool {
        let mut leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        let order = ResultOrder::new(self.resets.load(Ordering::Relaxed), record.window);
        let newer = |(known, leaders): &(ResultOrder, _)| *known <= order && *leaders != record;
        let is_new = leaders.as_ref().is_none_or(newer);
        if is_new {
            *leaders = Some((order, record));
        }
        is_new
    }

    /// Returns the last record of the leaders across all rooms. Its lists may be empty.
    pub(crate) fn last_leaders(&self) -> Option<LeadersRecord> {
        let leaders = self.leaders.lock().unwrap_or_else(PoisonError::into_inner);
        leaders.as_ref().map(|(_, leaders)| leaders.clone())
    }

    /// Returns the number of rooms.
    pub(crate) fn len(&self) -> usize {
        self.rooms().len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::{Attendance::*, *};
    use crate::room::testing::{closed, record};

    fn hub() -> Hub {
        Hub::new(
            WindowSettings::default(),
            Arc::new([]),
            watch::Sender::new(true),
        )
    }

    fn room(nth: usize) -> Room {
        Room::new(&format!("r{nth}")).unwrap()
    }

    #[test]
    fn rooms_without_results_are_limited_until_a_sweep_or_a_result() {
        let hub = hub();
        for nth in 0..MAX_IDLE_ROOMS {
            assert!(hub.subscribe(&room(nth), Audience).is_some());
        }
        let more = room(MAX_IDLE_ROOMS);
        assert!(hub.subscribe(&more, Audience).is_none(), "one too many");
        assert!(!hub.audience_below(&more, 0, 7), "from a relay neither");
        assert!(
            hub.subscribe(&room(7), Audience).is_some(),
            "one that is there"
        );
        // Now all rooms have a subscriber, and one has results.
        let live = WindowRecord {
            room: room(3),
            ..record(100, Some(1000))
        };
        assert_eq!(hub.apply(RelayUpdate::Live(live)), Ok(true));
        hub.sweep(0, 0);
        assert!(hub.subscribe(&more, Audience).is_some());
        assert!(hub.subscribe(&room(MAX_IDLE_ROOMS + 1), Audience).is_none());
        // All subscribers disconnect.
        for (_, entry) in hub.all() {
            while entry.audience() > 0 {
                entry.unsubscribed(Audience);
            }
        }
        hub.sweep(0, 0);
        assert_eq!(hub.len(), 1);
        assert!(hub.subscribe(&room(MAX_IDLE_ROOMS + 1), Audience).is_some());
    }

    #[test]
    fn an_observer_keeps_its_room_and_is_not_counted() {
        let hub = hub();
        let entry = hub.subscribe(&room(0), Observer).unwrap();
        hub.sweep(0, 0);
        let live = WindowRecord {
            room: room(0),
            ..record(100, Some(1000))
        };
        assert_eq!(hub.apply(RelayUpdate::Live(live)), Ok(true));
        assert!(entry.state().live().is_some(), "it is the same room");
        assert_eq!(entry.audience(), 0);
        assert!(hub.subscribe(&room(0), Audience).is_some());
        assert_eq!(entry.audience(), 1);
        entry.unsubscribed(Observer);
        assert_eq!(entry.audience(), 1);
    }

    #[test]
    fn removed_rooms_use_no_memory_once_their_finals_have_expired() {
        let hub = hub();
        for nth in 0..9 {
            let id = ResultId {
                partition: 0,
                offset: nth,
            };
            let record = WindowRecord {
                room: room(nth as usize % 3),
                ..record(nth, None)
            };
            let update = RelayUpdate::Final(closed(id, nth, record));
            assert_eq!(hub.apply(update), Ok(true));
        }
        let remove = |nth, window| {
            let before = ResultOrder::new(0, record(window, None).window);
            hub.apply(RelayUpdate::Removed {
                room: room(nth),
                before,
            })
        };
        assert!(hub.subscribe(&room(0), Audience).is_some());
        assert_eq!(remove(0, 100), Ok(true));
        assert_eq!(remove(1, 100), Ok(true));
        assert_eq!(remove(2, 8), Ok(false), "its newest final is of window 8");
        assert_eq!(remove(3, 100), Ok(false), "not known");
        hub.sweep(0, 0);
        assert_eq!(hub.len(), 3, "their finals can still be sent");
        hub.sweep(u64::MAX, 0);
        let mut kept: Vec<Room> = hub.all().into_iter().map(|(room, _)| room).collect();
        kept.sort();
        assert_eq!(
            kept,
            [room(0), room(2)],
            "one has a subscriber, one has totals"
        );
    }
}
