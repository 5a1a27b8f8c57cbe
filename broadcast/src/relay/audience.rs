//! How many subscribers each room has, at a node and below it, told upward as it changes.

use std::{collections::HashMap, sync::Arc};

use emostream_model::{RelayUp, Room, RoomCount};

use crate::hub::rooms::Hub;

/// Rooms told of in one message, some 80 KB at most.
const ROOMS_A_MESSAGE: usize = 1000;

/// The most rooms that one relay's audience is counted in: as many as a publisher holds open for its own
/// subscribers.
const COUNTED_ROOMS: usize = 100_000;

/// What an upstream was told of this node's audience.
#[derive(Default)]
pub(super) struct Told(HashMap<Room, u64>);

impl Told {
    /// What has changed since, as messages.
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
        // Rooms that were swept meanwhile.
        let gone = std::mem::replace(&mut self.0, now).into_keys();
        changes.extend(gone.map(|room| RoomCount { room, count: 0 }));
        let messages = changes.chunks(ROOMS_A_MESSAGE);
        messages
            .map(|rooms| RelayUp::Audience(rooms.to_vec()))
            .collect()
    }
}

/// The audience of one relay below; dropped, it is counted no more.
pub(super) struct Below {
    hub: Arc<Hub>,
    rooms: HashMap<Room, usize>,
}

impl Below {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            rooms: HashMap::new(),
        }
    }

    /// Takes in what the relay tells.
    pub(super) fn take(&mut self, counts: Vec<RoomCount>) {
        for RoomCount { room, count } in counts {
            // A sum of these from all relays stays far below where it would wrap.
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

impl Drop for Below {
    fn drop(&mut self) {
        for (room, before) in self.rooms.drain() {
            self.hub.audience_below(&room, before, 0);
        }
    }
}
