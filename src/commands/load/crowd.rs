//! The crowd: who reacts with what, where. A few emojis make most of it, as in a stadium.

use bytes::Bytes;
use emostream_model::{Emoji, Room};
use rand::RngExt;
use serde_json::json;

/// Emojis and how often of 100 they come.
const MOOD: [(&str, u32); 8] = [
    ("🔥", 45),
    ("👏", 20),
    ("😂", 12),
    ("❤️", 9),
    ("😢", 6),
    ("🎉", 4),
    ("⚽", 3),
    ("😮", 1),
];

/// One room's part of a request.
pub(super) type Reacted = (Room, Emoji);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    rooms: Vec<Room>,
    users: u64,
    batch: usize,
    mood: Vec<(Emoji, u32)>,
}

impl Crowd {
    pub(super) fn new(rooms: Vec<Room>, users: u64, batch: usize) -> Self {
        let known = |(text, weight)| Some((Emoji::from_text(text).ok()?, weight));
        Self {
            rooms,
            users,
            batch,
            mood: MOOD.into_iter().filter_map(known).collect(),
        }
    }

    /// The next request: its reactions, and its body.
    pub(super) fn next(&self) -> (Vec<Reacted>, Bytes) {
        let mut random = rand::rng();
        let mut reacted = Vec::with_capacity(self.batch);
        let mut entries = Vec::with_capacity(self.batch);
        for _ in 0..self.batch {
            let room = self.rooms[random.random_range(0..self.rooms.len())].clone();
            let emoji = self.pick(random.random_range(0..100));
            let user = random.random_range(0..self.users);
            entries.push(json!({"user_id": user, "emoji_type": emoji, "room": room}));
            reacted.push((room, emoji));
        }
        let body = match &entries[..] {
            [single] => single.to_string(),
            _ => serde_json::Value::Array(entries).to_string(),
        };
        (reacted, body.into())
    }

    fn pick(&self, mut of_100: u32) -> Emoji {
        for (emoji, weight) in &self.mood {
            match of_100.checked_sub(*weight) {
                Some(left) => of_100 = left,
                None => return *emoji,
            }
        }
        self.mood[0].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_emoji_of_the_mood_comes_and_the_first_comes_most() {
        let crowd = Crowd::new(vec![Room::default()], 5, 1000);
        assert_eq!(
            crowd.mood.iter().map(|(_, weight)| weight).sum::<u32>(),
            100
        );
        let of = |emoji| (0..100).filter(|n| crowd.pick(*n) == emoji).count();
        for (emoji, weight) in &crowd.mood {
            assert_eq!(of(*emoji), *weight as usize);
        }
        assert_eq!(crowd.next().0.len(), 1000);
    }
}
