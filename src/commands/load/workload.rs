//! Generates the reactions of a load. Emojis, rooms and users are chosen by Zipf's law, so that a few of them occur in
//! most reactions, as in real events.

use std::{fmt::Write, sync::Arc};

use bytes::Bytes;
use emostream_model::{Emoji, Room};
use rand::{SeedableRng, rngs::SmallRng};
use serde_json::json;

use super::zipf::ZipfSampler;
use crate::client::Token;

/// The emojis of the reactions, the most frequent first. With the marks of [`mod@super::finals`] and the probe's emoji,
/// there are fewer than the 20 that a frame lists, so a frame lists all of them.
const EMOJIS: [&str; 16] = [
    "🔥", "👏", "😂", "❤️", "😢", "🎉", "⚽", "😮", "😍", "👍", "🙌", "😡", "💪", "🤔", "😱", "💔",
];

/// Returns the emojis of the reactions, the most frequent first.
pub(super) fn emojis() -> Vec<Emoji> {
    let known = |text: &&str| Emoji::from_text(text).ok();
    EMOJIS.iter().filter_map(known).collect()
}

/// A room and an emoji as one index: the index of the room times the length of [`EMOJIS`], plus the index of the emoji.
pub(super) type Kind = u32;

/// The users of the reactions.
#[derive(Debug, Clone)]
pub(super) enum Users {
    /// This many users, whose ids are numbers.
    Numbered(u64),
    /// The users of these tokens. A request has only one token, so all its reactions have the same user.
    Bearers(Arc<[Token]>),
}

/// A generator of requests with random reactions.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    rooms: Vec<Room>,
    tokens: Arc<[Token]>,
    batch: usize,
    emoji_sampler: ZipfSampler,
    room_sampler: ZipfSampler,
    user_sampler: ZipfSampler,
    rng: SmallRng,
}

impl Workload {
    /// Creates a generator. `zipf` is the exponent of Zipf's law. With the same seed, a generator creates the same
    /// requests.
    pub(super) fn new(rooms: Vec<Room>, users: Users, batch: usize, zipf: f64, seed: u64) -> Self {
        let (users, tokens) = match users {
            Users::Numbered(users) => (users, Vec::new().into()),
            Users::Bearers(tokens) => (tokens.len() as u64, tokens),
        };
        Self {
            tokens,
            emoji_sampler: ZipfSampler::new(EMOJIS.len() as u64, zipf),
            room_sampler: ZipfSampler::new(rooms.len() as u64, zipf),
            user_sampler: ZipfSampler::new(users, zipf),
            rooms,
            batch,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Returns the reactions, the body and the token of the next request.
    pub(super) fn next(&mut self) -> (Vec<Kind>, Bytes, Option<Token>) {
        let bearer = self.bearer();
        // The id of the token's user, as a JSON string.
        let bearer_name = bearer.as_ref().map(|token| json!(token.user).to_string());
        let mut kinds = Vec::with_capacity(self.batch);
        let mut body = String::with_capacity(self.batch * 96 + 2);
        for entry in 0..self.batch {
            let room = self.room_sampler.choose(&mut self.rng) as usize;
            let emoji = self.emoji_sampler.choose(&mut self.rng) as usize;
            if self.batch > 1 {
                body.push(if entry == 0 { '[' } else { ',' });
            }
            // The JSON is written without serde_json, because this is most of the generator's CPU time. Neither emojis
            // nor names of rooms contain characters that JSON must escape. Writing to a `String` cannot fail.
            let _ = match &bearer_name {
                Some(name) => write!(body, r#"{{"user_id":{name}"#),
                None => {
                    let number = self.user_sampler.choose(&mut self.rng);
                    write!(body, r#"{{"user_id":{number}"#)
                }
            };
            let (emoji_type, room_name) = (EMOJIS[emoji], &self.rooms[room]);
            let _ = write!(
                body,
                r#","emoji_type":"{emoji_type}","room":"{room_name}"}}"#
            );
            kinds.push((room * EMOJIS.len() + emoji) as Kind);
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
        let number = self.user_sampler.choose(&mut self.rng) as usize;
        self.tokens.get(number).cloned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn ingest_knows_every_emoji() {
        assert_eq!(emojis().len(), EMOJIS.len());
    }

    proptest! {
        #[test]
        fn a_body_contains_the_reactions_of_its_kinds(
            rooms in 1..20usize, users in 1..u64::MAX, batch in 1..50usize, seed: u64
        ) {
            let rooms: Vec<Room> =
                (0..rooms).map(|n| Room::new(&format!("r.~_-{n}")).unwrap()).collect();
            let mut workload = Workload::new(rooms.clone(), Users::Numbered(users), batch, 1.0, seed);
            let (kinds, body, _) = workload.next();
            let parsed: Value = serde_json::from_slice(&body).unwrap();
            let entries = match batch {
                1 => vec![parsed],
                _ => parsed.as_array().unwrap().clone(),
            };
            prop_assert_eq!(entries.len(), batch);
            for (entry, kind) in entries.iter().zip(kinds) {
                let (room, emoji) = (kind as usize / EMOJIS.len(), kind as usize % EMOJIS.len());
                prop_assert_eq!(&entry["room"], rooms[room].as_str());
                prop_assert_eq!(&entry["emoji_type"], EMOJIS[emoji]);
                prop_assert!(entry["user_id"].as_u64().unwrap() < users);
            }
        }
    }
}
