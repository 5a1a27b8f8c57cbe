//! Finds the rooms that are missing in an upstream's snapshot: they were removed while the relay was disconnected.
//!
//! ```text
//!  Snapshot ─▶ rooms with results, ranges that were read ─▶ SnapshotEnd ─▶ removals
//! ```
//!
//! A snapshot contains every room that has results. If a room of this relay is not in it, and the upstream has read the
//! room's newest final result, then the upstream has removed the room. If the upstream has not read that final result
//! yet, it lags behind, and the relay keeps the room.

use std::collections::HashSet;

use emostream_model::{ReadRange, RelayUpdate, ResultOrder, Room};

use crate::hub::rooms::Hub;
use crate::room::state::RoomState;

/// The part of an upstream's snapshot that was received so far.
#[derive(Debug, Default)]
pub(super) struct ReceivedSnapshot {
    rooms: HashSet<Room>,
    reads: Vec<ReadRange>,
}

impl ReceivedSnapshot {
    /// Records the room or the partition of an update of the snapshot.
    pub(super) fn observe(&mut self, update: &RelayUpdate) {
        match update {
            RelayUpdate::Room(snapshot) => drop(self.rooms.insert(snapshot.room.clone())),
            RelayUpdate::Read(range) => self.reads.push(*range),
            _ => {}
        }
    }

    /// Returns a removal for each room that the upstream has removed. Call this function once the snapshot is complete.
    pub(super) fn removals(&self, hub: &Hub) -> Vec<RelayUpdate> {
        let rooms = hub.all().into_iter();
        let missing = rooms.filter(|(room, _)| !self.rooms.contains(room));
        let removed = missing.filter_map(|(room, entry)| {
            let before = self.removed_before(&entry.state())?;
            Some(RelayUpdate::Removed { room, before })
        });
        removed.collect()
    }

    /// Returns the position just after the newest final result of a room that is missing in the snapshot. Returns
    /// `None` if the room has no totals, or if the upstream has not read that final result.
    fn removed_before(&self, room: &RoomState) -> Option<ResultOrder> {
        let totals = room.totals();
        let as_of = totals.as_of().filter(|_| totals.total() > 0)?;
        // A room without the id of a final result has only totals. Its newest final result is older than the
        // publisher's ring, and is counted in the totals that the publisher has read.
        let is_read = room
            .newest_id()
            .is_none_or(|id| self.reads.iter().any(|range| range.is_behind(id)));
        is_read.then_some(ResultOrder {
            start_ms: as_of.start_ms.saturating_add(1),
            ..as_of
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::testing::{closed, record};
    use emostream_model::ResultId;

    #[test]
    fn a_missing_room_was_removed_if_the_upstream_has_read_its_newest_final() {
        let id = ResultId {
            partition: 2,
            offset: 7,
        };
        let mut room = RoomState::default();
        let mut snapshot = ReceivedSnapshot::default();
        snapshot.observe(&RelayUpdate::Read(ReadRange {
            partition: 2,
            start: 3,
            end: 8,
        }));
        assert_eq!(snapshot.removed_before(&room), None, "it has no totals");
        room.push_final(closed(id, 1, record(4, None)), None);
        for expired in [0, u64::MAX] {
            room.expire(expired);
            let before = snapshot.removed_before(&room).unwrap();
            assert!(room.totals().as_of() < Some(before));
        }
        let next = ResultId { offset: 8, ..id };
        room.push_final(closed(next, 1, record(5, None)), None);
        assert_eq!(snapshot.removed_before(&room), None, "the upstream lags");
        room.remove(
            &Room::default(),
            ResultOrder {
                resets: 0,
                start_ms: 900,
            },
        );
        assert_eq!(
            snapshot.removed_before(&room),
            None,
            "it is removed already"
        );
    }
}
