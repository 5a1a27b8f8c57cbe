//! The crowd: who reacts with what, where. A few emojis, rooms and users make most of it, as in a
//! stadium.

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use emostream_model::{Emoji, Room};
use rand::{SeedableRng, rngs::SmallRng};
use serde_json::json;

use super::popularity::Popularity;
use crate::client::Token;

/// From the commonest on. With the marks of [`mod@super::finals`] and the probe's emoji they are fewer than
/// the 20 that a frame lists.
const MOOD: [&str; 16] = [
    "🔥", "👏", "😂", "❤️", "😢", "🎉", "⚽", "😮", "😍", "👍", "🙌", "😡", "💪", "🤔", "😱", "💔",
];

/// The emojis that a crowd sends.
pub(super) fn mood() -> Vec<Emoji> {
    let known = |text: &&str| Emoji::from_text(text).ok();
    MOOD.iter().filter_map(known).collect()
}

/// A room and an emoji: the number of the one times [`MOOD`], and the number of the other.
pub(super) type Kind = u32;

/// Who reacts.
#[derive(Debug, Clone)]
pub(super) enum Users {
    /// So many, by numbers.
    Numbered(u64),
    /// The bearer of each token: one of them makes a whole request, which can carry one token only.
    Bearers(Arc<[Token]>),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Crowd {
    rooms: Vec<Room>,
    tokens: Arc<[Token]>,
    batch: usize,
    of_emojis: Popularity,
    of_rooms: Popularity,
    of_users: Popularity,
    random: SmallRng,
}

impl Crowd {
    /// `zipf`: the law's exponent. The same seed makes the same requests.
    pub(super) fn new(rooms: Vec<Room>, users: Users, batch: usize, zipf: f64, seed: u64) -> Self {
        let (users, tokens) = match users {
            Users::Numbered(users) => (users, Vec::new().into()),
            Users::Bearers(tokens) => (tokens.len() as u64, tokens),
        };
        Self {
            tokens,
            of_emojis: Popularity::new(MOOD.len() as u64, zipf),
            of_rooms: Popularity::new(rooms.len() as u64, zipf),
            of_users: Popularity::new(users, zipf),
            rooms,
            batch,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// The next request: its reactions, its body, and its token.
    pub(super) fn next(&mut self) -> (Vec<Kind>, Bytes, Option<Token>) {
        let bearer = self.bearer();
        // As JSON.
        let bearer_name = bearer.as_ref().map(|token| json!(token.user).to_string());
        let mut kinds = Vec::with_capacity(self.batch);
        let mut body = String::with_capacity(self.batch * 96 + 2);
        for entry in 0..self.batch {
            let room = self.of_rooms.choose(&mut self.random) as usize;
            let emoji = self.of_emojis.choose(&mut self.random) as usize;
            if self.batch > 1 {
                body.push(if entry == 0 { '[' } else { ',' });
            }
            // By hand, since it is most of the generator's own work; neither an emoji nor a room's name
            // holds anything that JSON would escape. Writing into a string cannot fail.
            let _ = match &bearer_name {
                Some(name) => write!(body, r#"{{"user_id":{name}"#),
                None => {
                    let number = self.of_users.choose(&mut self.random);
                    write!(body, r#"{{"user_id":{number}"#)
                }
            };
            let (emoji_type, room_name) = (MOOD[emoji], &self.rooms[room]);
            let _ = write!(
                body,
                r#","emoji_type":"{emoji_type}","room":"{room_name}"}}"#
            );
            kinds.push((room * MOOD.len() + emoji) as Kind);
        }
        if self.batch > 1 {
            body.push(']');
        }
        (kinds, body.into(), bearer)
    }

    fn bearer(&mut self) -> Option<Token> {
        if self.tokens.is_empty() {
            return None;
        }
        let number = self.of_users.choose(&mut self.random) as usize;
        self.tokens.get(number).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn every_emoji_of_the_mood_is_one_that_ingest_knows() {
        assert_eq!(mood().len(), MOOD.len());
    }

    proptest! {
        #[test]
        fn a_body_says_in_json_what_the_kinds_say(
            rooms in 1..20usize, users in 1..u64::MAX, batch in 1..50usize, seed: u64
        ) {
            let rooms: Vec<Room> =
                (0..rooms).map(|n| Room::new(&format!("r.~_-{n}")).unwrap()).collect();
            let mut crowd = Crowd::new(rooms.clone(), Users::Numbered(users), batch, 1.0, seed);
            let (kinds, body, _) = crowd.next();
            let parsed: Value = serde_json::from_slice(&body).unwrap();
            let entries = match batch {
                1 => vec![parsed],
                _ => parsed.as_array().unwrap().clone(),
            };
            prop_assert_eq!(entries.len(), batch);
            for (entry, kind) in entries.iter().zip(kinds) {
                let (room, emoji) = (kind as usize / MOOD.len(), kind as usize % MOOD.len());
                prop_assert_eq!(&entry["room"], rooms[room].as_str());
                prop_assert_eq!(&entry["emoji_type"], MOOD[emoji]);
                prop_assert!(entry["user_id"].as_u64().unwrap() < users);
            }
        }
    }
}
