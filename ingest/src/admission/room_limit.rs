//! Which rooms are taken: those that match a pattern, and no more than so many at once.

use std::{
    collections::HashSet,
    str::FromStr,
    time::{Duration, Instant},
};

use emostream_model::{InvalidRoom, Room};
use regex::{Regex, RegexBuilder};

/// A room counts as in use for at least this long after its last reaction, and for twice as long at
/// most: receivers keep a room's finals for ten minutes.
const IN_USE: Duration = Duration::from_secs(600);

/// The most memory of a compiled pattern: far more than one that a person writes.
const PATTERN_BYTES: usize = 1 << 20;

/// A regular expression that a room's whole name must match.
#[derive(Debug, Clone)]
pub struct RoomPattern {
    text: String,
    whole: Regex,
}

/// `--rooms` is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a regular expression; write, for example, match-[0-9]+|lobby")]
pub struct InvalidPattern(String);

impl FromStr for RoomPattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = || InvalidPattern(text.to_owned());
        // By itself first: `a)|(b` must not become an expression by being put into parentheses.
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

/// Why a room is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("room \"{room}\" does not match {pattern}")]
    Unmatched { room: Room, pattern: String },
    #[error(transparent)]
    Invalid(#[from] InvalidRoom),
    #[error("room \"{room}\" would be one more than the {max_rooms} that may be in use at once")]
    TooMany { room: Room, max_rooms: usize },
}

/// The rooms in use, in two generations: those since the last turn, and those of the turn before.
#[derive(Debug)]
pub(crate) struct Rooms {
    pattern: Option<RoomPattern>,
    max_rooms: usize,
    turned: Instant,
    young: HashSet<Room>,
    /// Rooms of the last generation that have not come again.
    old: HashSet<Room>,
}

impl Rooms {
    pub(crate) fn new(pattern: Option<RoomPattern>, max_rooms: usize, now: Instant) -> Self {
        Self {
            pattern,
            max_rooms,
            turned: now,
            young: HashSet::new(),
            old: HashSet::new(),
        }
    }

    /// Takes a reaction for the room of this valid name, which is then in use; answers the one copy of it.
    pub(crate) fn enter(&mut self, name: &str, now: Instant) -> Result<Room, Refused> {
        self.turn(now);
        if let Some(known) = self.young.get(name) {
            return Ok(known.clone());
        }
        if let Some(known) = self.old.take(name) {
            self.young.insert(known.clone());
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
        self.young.insert(room.clone());
        Ok(room)
    }

    /// How many are in use.
    pub(crate) fn in_use(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Begins a new generation when it is time.
    pub(crate) fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age < IN_USE {
            return;
        }
        self.old = std::mem::take(&mut self.young);
        if age >= 2 * IN_USE {
            self.old.clear();
        }
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
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
            assert_eq!(rooms.enter(name, now).is_ok(), taken, "{name}");
        }
        let refused = rooms.enter("x", now).unwrap_err().to_string();
        assert_eq!(refused, "room \"x\" does not match match-[0-9]+|lobby");
    }

    #[test]
    fn what_is_no_regular_expression_is_refused() {
        for text in ["[", "a)|(b", "(", "x{999999999}"] {
            assert!(text.parse::<RoomPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn rooms_in_use_are_bounded_and_a_quiet_one_makes_place() {
        let start = Instant::now();
        let after = |turns: u32| start + turns * IN_USE;
        let mut rooms = Rooms::new(None, 2, start);
        rooms.enter("a", start).unwrap();
        rooms.enter("b", start).unwrap();
        let refused = rooms.enter("c", start).unwrap_err();
        assert!(matches!(refused, Refused::TooMany { max_rooms: 2, .. }));
        rooms.enter("a", after(1)).unwrap();
        assert!(
            rooms.enter("c", after(1)).is_err(),
            "b was in use one turn ago"
        );
        rooms.enter("c", after(2)).unwrap();
        assert!(rooms.enter("b", after(2)).is_err());
        rooms.enter("a", after(2)).unwrap();
        assert_eq!(rooms.in_use(), 2);
        rooms.turn(after(9));
        assert_eq!(rooms.in_use(), 0);
    }
}
