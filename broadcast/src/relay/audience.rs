//! The audience of each room at this node and at the relays below it. Changes are reported to the upstream.

use std::{collections::HashMap, sync::Arc};

use emostream_model::{RelayUp, Room, RoomCount};

use crate::hub::rooms::Hub;

/// Maximum number of rooms in one message, which bounds the length of the message.
const ROOMS_A_MESSAGE: usize = 1000;

/// Maximum number of rooms in which the audience of one relay is counted. It equals the hub's limit of idle rooms.
const COUNTED_ROOMS: usize = 100_000;

/// The audience that was last reported to the upstream.
#[derive(Default)]
pub(super) struct ReportedAudience(HashMap<Room, u64>);

impl ReportedAudience {
    /// Returns messages with the changes since the last report.
    pub(super) fn changes(&mut self, hub: &Hub) -> Vec<RelayUp> {
        let mut changes = Vec::new();
        let mut now = HashMap::with_capacity(self.0.len());
        for (room, entry) in hub.all() {
            let count = entry.audience() as u64;
            if self.0.remove(&room).unwrap_or(0) != count {
                let room = room.clone();
                changes.push(RoomCount { room, count });
            }
            if count > 0 {
                now.insert(room, count);
            }
        }
        // Rooms that were swept since the last report have no audience any more.
        let gone = std::mem::replace(&mut self.0, now).into_keys();
        changes.extend(gone.map(|room| RoomCount { room, count: 0 }));
        let messages = changes.chunks(ROOMS_A_MESSAGE);
        messages
            .map(|rooms| RelayUp::Audience(rooms.to_vec()))
            .collect()
    }
}

/// The audience that one relay below this node has reported. It is counted until this value is dropped.
pub(super) struct DownstreamAudience {
    hub: Arc<Hub>,
    rooms: HashMap<Room, usize>,
}

impl DownstreamAudience {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            rooms: HashMap::new(),
        }
    }

    /// Applies a report of the relay.
    pub(super) fn apply(&mut self, counts: Vec<RoomCount>) {
        for RoomCount { room, count } in counts {
            // The count is limited, so that the sum over all relays cannot wrap.
            let now = count.min(u64::from(u32::MAX)) as usize;
            let before = self.rooms.get(&room).copied().unwrap_or(0);
            let full = before == 0 && self.rooms.len() >= COUNTED_ROOMS;
            if before == now || full || !self.hub.audience_below(&room, before, now) {
                continue;
            }
            match now {
                0 => self.rooms.remove(&room),
                _ => self.rooms.insert(room, now),
            };
        }
    }
}

impl Drop for DownstreamAudience {
    fn drop(&mut self) {
        for (room, before) in self.rooms.drain() {
            self.hub.audience_below(&room, before, 0);
        }
    }
}
