//! Crowds: generated users and reactions. The same seed gives the same reactions, so the expected tallies are known.

use emostream_model::{Emoji, Reaction, Room, UserId};
use foldhash::HashMap;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::Result;

/// Length of the windows of the dataflow, Kafka Streams and Flink.
pub(crate) const WINDOW_MS: u64 = 2_000;

/// Maximum time by which a reaction is older than the newest reaction that was written before it. It is as long as with
/// an ingest that flushes twice a second.
const JITTER_MS: u64 = 500;

/// Key of a tally: start of the window, number of the room, number of the emoji.
pub(crate) type Key = (u64, u32, u32);

/// Expected or collected tallies.
pub(crate) type Tallies = HashMap<Key, u64>;

/// The parameters of a crowd, whose reactions are spread evenly over a span of event time.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    pub(crate) rooms: u32,
    pub(crate) emojis: u32,
    pub(crate) reactions: u64,
    pub(crate) begin_ms: u64,
    pub(crate) span_ms: u64,
    pub(crate) seed: u64,
}

/// A reaction of a crowd, with its room, emoji and user as numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event {
    pub(crate) room: u32,
    pub(crate) emoji: u32,
    pub(crate) user: u32,
    pub(crate) at_ms: u64,
}

impl Crowd {
    /// Generates all reactions, in the order in which they are written.
    pub(crate) fn events(&self) -> impl Iterator<Item = Event> + '_ {
        let mut random = SmallRng::seed_from_u64(self.seed);
        (0..self.reactions).map(move |index| {
            let due_ms = index * self.span_ms / self.reactions;
            Event {
                room: random.random_range(0..self.rooms),
                emoji: random.random_range(0..self.emojis),
                user: random.random_range(0..1_000_000),
                at_ms: self.begin_ms + due_ms + JITTER_MS - random.random_range(0..=JITTER_MS),
            }
        })
    }

    /// Returns the end of the last window that has a reaction.
    pub(crate) fn end_ms(&self) -> u64 {
        window_of(self.begin_ms + self.span_ms + JITTER_MS) + WINDOW_MS
    }
}

/// Returns the start of the window that contains a time.
pub(crate) fn window_of(at_ms: u64) -> u64 {
    at_ms / WINDOW_MS * WINDOW_MS
}

impl Event {
    pub(crate) fn key(&self) -> Key {
        (window_of(self.at_ms), self.room, self.emoji)
    }

    /// Encodes the reaction as the value of a plain JSON record.
    pub(crate) fn json(&self, names: &Names) -> String {
        format!(
            r#"{{"user_id":"u-{}","emoji_type":"{}","timestamp":{},"room":"{}"}}"#,
            self.user,
            names.emojis[self.emoji as usize],
            self.at_ms,
            names.rooms[self.room as usize],
        )
    }

    pub(crate) fn reaction(&self, names: &Names) -> Result<Reaction> {
        Ok(Reaction {
            user: UserId::new(&format!("u-{}", self.user)).ok_or("a user's id is too long")?,
            emoji: names.emojis[self.emoji as usize],
            room: names.rooms[self.room as usize].clone(),
            at_ms: self.at_ms,
        })
    }
}

/// The names of a crowd's rooms and emojis by their numbers, and the numbers by name.
pub(crate) struct Names {
    rooms: Vec<Room>,
    emojis: Vec<Emoji>,
    room_numbers: HashMap<String, u32>,
    emoji_numbers: HashMap<&'static str, u32>,
}

impl Names {
    pub(crate) fn of(crowd: &Crowd) -> Result<Names> {
        let rooms: Result<Vec<Room>, _> = (0..crowd.rooms)
            .map(|number| Room::new(&format!("match-{number}")))
            .collect();
        let rooms = rooms?;
        let emojis: Vec<Emoji> = Emoji::all().take(crowd.emojis as usize).collect();
        Ok(Names {
            room_numbers: (0..).zip(&rooms).map(|(n, r)| (r.to_string(), n)).collect(),
            emoji_numbers: (0..).zip(&emojis).map(|(n, e)| (e.as_str(), n)).collect(),
            rooms,
            emojis,
        })
    }

    /// Returns the key of a tally, or `None` if the crowd does not have the room or the emoji.
    pub(crate) fn key(&self, start_ms: u64, room: &str, emoji: &str) -> Option<Key> {
        Some((
            start_ms,
            *self.room_numbers.get(room)?,
            *self.emoji_numbers.get(emoji)?,
        ))
    }
}
