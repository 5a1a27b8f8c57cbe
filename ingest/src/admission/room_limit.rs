//! Limits for rooms: a pattern that their names must match, and a maximum number of rooms in use.

use std::{
    collections::HashSet,
    str::FromStr,
    time::{Duration, Instant},
};

use emostream_model::{InvalidRoom, Room};
use regex::{Regex, RegexBuilder};

/// Length of a generation. A room counts as in use for at least this time after its last reaction, and for at most
/// twice this time. Publishers also keep a room's final results for ten minutes.
const GENERATION: Duration = Duration::from_secs(600);

/// Maximum bytes of a compiled pattern: far more than a pattern written by hand needs.
const PATTERN_BYTES: usize = 1 << 20;

/// Regular expression that the whole name of a room must match.
#[derive(Debug, Clone)]
pub struct RoomPattern {
    text: String,
    whole: Regex,
}

/// The error for a value of `--rooms` that is not a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a regular expression; write, for example, match-[0-9]+|lobby")]
pub struct InvalidPattern(String);

impl FromStr for RoomPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = || InvalidPattern(text.to_owned());
        // The text is first compiled without the parentheses that are added below. Otherwise the invalid text `a)|(b`
        // would become a valid expression.
        Regex::new(text).map_err(|_| invalid())?;
        let whole = RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(PATTERN_BYTES)
            .build();
        Ok(Self {
            text: text.to_owned(),
            whole: whole.map_err(|_| invalid())?,
        })
    }
}

/// The reason why a room is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("room \"{room}\" does not match {pattern}")]
    Unmatched { room: Room, pattern: String },
    #[error(transparent)]
    Invalid(#[from] InvalidRoom),
    #[error("room \"{room}\" would be one more than the {max_rooms} that may be in use at once")]
    TooMany { room: Room, max_rooms: usize },
}

/// The rooms in use, in two generations: rooms with reactions since the last rotation, and rooms of the previous
/// generation.
#[derive(Debug)]
pub(crate) struct Rooms {
    pattern: Option<RoomPattern>,
    max_rooms: usize,
    rotated_at: Instant,
    current: HashSet<Room>,
    /// Rooms of the previous generation without a reaction since the rotation.
    previous: HashSet<Room>,
}

impl Rooms {
    pub(crate) fn new(pattern: Option<RoomPattern>, max_rooms: usize, now: Instant) -> Self {
        Self {
            pattern,
            max_rooms,
            rotated_at: now,
            current: HashSet::new(),
            previous: HashSet::new(),
        }
    }

    /// Marks the room with this name as in use, and returns it. Fails if the name does not match the pattern, or if the
    /// maximum number of rooms is in use.
    pub(crate) fn admit(&mut self, name: &str, now: Instant) -> Result<Room, Refused> {
        self.rotate_if_due(now);
        if let Some(known) = self.current.get(name) {
            return Ok(known.clone());
        }
        if let Some(known) = self.previous.take(name) {
            self.current.insert(known.clone());
            return Ok(known);
        }
        let room = Room::new(name)?;
        if let Some(pattern) = &self.pattern
            && !pattern.whole.is_match(room.as_str())
        {
            let pattern = pattern.text.clone();
            return Err(Refused::Unmatched { room, pattern });
        }
        if self.in_use() >= self.max_rooms {
            let max_rooms = self.max_rooms;
            return Err(Refused::TooMany { room, max_rooms });
        }
        self.current.insert(room.clone());
        Ok(room)
    }

    /// Returns the number of rooms in use.
    pub(crate) fn in_use(&self) -> usize {
        self.current.len() + self.previous.len()
    }

    /// Starts a new generation if the current one is old enough.
    pub(crate) fn rotate_if_due(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.rotated_at);
        if age < GENERATION {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age >= 2 * GENERATION {
            self.previous.clear();
        }
        self.rotated_at = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_name() {
        let now = Instant::now();
        let mut rooms = Rooms::new(Some("match-[0-9]+|lobby".parse().unwrap()), 10, now);
        for (name, taken) in [
            ("match-7", true),
            ("lobby", true),
            ("match-", false),
            ("match-7x", false),
            ("xlobby", false),
        ] {
            assert_eq!(rooms.admit(name, now).is_ok(), taken, "{name}");
        }
        let refused = rooms.admit("x", now).unwrap_err().to_string();
        assert_eq!(refused, "room \"x\" does not match match-[0-9]+|lobby");
    }

    #[test]
    fn an_invalid_regular_expression_is_refused() {
        for text in ["[", "a)|(b", "(", "x{999999999}"] {
            assert!(text.parse::<RoomPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn rooms_in_use_are_bounded_and_an_idle_room_frees_its_place() {
        let start = Instant::now();
        let after = |generations: u32| start + generations * GENERATION;
        let mut rooms = Rooms::new(None, 2, start);
        rooms.admit("a", start).unwrap();
        rooms.admit("b", start).unwrap();
        let refused = rooms.admit("c", start).unwrap_err();
        assert!(matches!(refused, Refused::TooMany { max_rooms: 2, .. }));
        rooms.admit("a", after(1)).unwrap();
        assert!(
            rooms.admit("c", after(1)).is_err(),
            "b was in use in the previous generation"
        );
        rooms.admit("c", after(2)).unwrap();
        assert!(rooms.admit("b", after(2)).is_err());
        rooms.admit("a", after(2)).unwrap();
        assert_eq!(rooms.in_use(), 2);
        rooms.rotate_if_due(after(9));
        assert_eq!(rooms.in_use(), 0);
    }
}
