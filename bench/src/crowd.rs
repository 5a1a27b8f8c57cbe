//! Who reacts with what, when and where: the same for the same seed, so that the truth is known.

use emostream_model::{Emoji, Reaction, Room, UserId};
use foldhash::HashMap;
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::Outcome;

/// The windows that everybody counts in.
pub(crate) const WINDOW_MS: u64 = 2_000;

/// How far a reaction may stand behind the newest before it: what ingests that flush twice a second do.
const JITTER_MS: u64 = 500;

/// A tally's key: the window's start, the room's number, the emoji's number.
pub(crate) type Key = (u64, u32, u32);

/// What must come out.
pub(crate) type Tallies = HashMap<Key, u64>;

/// A crowd: rooms, emojis, and a span of event time over which its reactions are spread evenly.
#[derive(Debug, Clone)]
pub(crate) struct Crowd {
    pub(crate) rooms: u32,
    pub(crate) emojis: u32,
    pub(crate) reactions: u64,
    pub(crate) begin_ms: u64,
    pub(crate) span_ms: u64,
    pub(crate) seed: u64,
}

/// One reaction of a crowd, by numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap {
    pub(crate) room: u32,
    pub(crate) emoji: u32,
    pub(crate) user: u32,
    pub(crate) at_ms: u64,
}

impl Crowd {
    /// Every reaction, in the order they are written.
    pub(crate) fn taps(&self) -> impl Iterator<Item = Tap> + '_ {
        let mut random = SmallRng::seed_from_u64(self.seed);
        (0..self.reactions).map(move |index| {
            let due_ms = index * self.span_ms / self.reactions;
            Tap {
                room: random.random_range(0..self.rooms),
                emoji: random.random_range(0..self.emojis),
                user: random.random_range(0..1_000_000),
                at_ms: self.begin_ms + due_ms + JITTER_MS - random.random_range(0..=JITTER_MS),
            }
        })
    }

    /// The end of the last window that holds a reaction.
    pub(crate) fn end_ms(&self) -> u64 {
        window_of(self.begin_ms + self.span_ms + JITTER_MS) + WINDOW_MS
    }
}

/// The start of the window that a time lies in.
pub(crate) fn window_of(at_ms: u64) -> u64 {
    at_ms / WINDOW_MS * WINDOW_MS
}

impl Tap {
    pub(crate) fn key(&self) -> Key {
        (window_of(self.at_ms), self.room, self.emoji)
    }

    /// One plain JSON record, about 85 bytes.
    pub(crate) fn json(&self, names: &Names) -> String {
        format!(
            r#"{{"user_id":"u-{}","emoji_type":"{}","timestamp":{},"room":"{}"}}"#,
            self.user,
            names.emojis[self.emoji as usize],
            self.at_ms,
            names.rooms[self.room as usize],
        )
    }

    pub(crate) fn reaction(&self, names: &Names) -> Outcome<Reaction> {
        Ok(Reaction {
            user: UserId::new(&format!("u-{}", self.user)).ok_or("a user's id is too long")?,
            emoji: names.emojis[self.emoji as usize],
            room: names.rooms[self.room as usize].clone(),
            at_ms: self.at_ms,
        })
    }
}

/// The names of a crowd's rooms and emojis, and the numbers of the names.
pub(crate) struct Names {
    rooms: Vec<Room>,
    emojis: Vec<Emoji>,
    room_numbers: HashMap<String, u32>,
    emoji_numbers: HashMap<&'static str, u32>,
}

impl Names {
    pub(crate) fn of(crowd: &Crowd) -> Outcome<Names> {
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

    /// The key of a tally by its names; `None` if the crowd knows them not.
    pub(crate) fn key(&self, start_ms: u64, room: &str, emoji: &str) -> Option<Key> {
        Some((
            start_ms,
            *self.room_numbers.get(room)?,
            *self.emoji_numbers.get(emoji)?,
        ))
    }
}
