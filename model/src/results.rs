//! Result records: the JSON values of the output topics, keyed by room.

use std::borrow::Cow;

use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Count, Room, Tally, TotalCounts, Window, known};

/// A value of the `windows` topic (a final result) or, with `emitted_at`, of the `live` topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode)]
pub struct WindowRecord {
    /// The room.
    pub room: Room,
    /// `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// The time at which the dataflow emitted the tally, Unix milliseconds. Only live tallies have this field, so that
    /// the bytes of a final result do not depend on the time when it was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted_at: Option<u64>,
    /// The sum of the counts.
    pub total: u64,
    /// Every emoji of the room and window, the most frequent first.
    pub counts: Vec<Tally>,
}

/// A value of the `totals` topic: the counts of a room since its totals last began at 0, as of a closed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotalsRecord {
    /// The room.
    pub room: Room,
    /// The last window that changed the totals: its `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// The sum of the counts.
    pub total: u64,
    /// The counts of all emojis of the room, the most frequent first.
    pub counts: TotalCounts,
}

/// A value of the `trending` topic: the top emojis of a room, or the leaders across rooms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Trending {
    /// The top emojis of one room; the record's key is its name.
    Room(TrendingRecord),
    /// The leaders across rooms; the record's key is [`ALL_ROOMS`].
    All(LeadersRecord),
}

impl Trending {
    /// Returns the record's key.
    pub fn key(&self) -> &str {
        match self {
            Trending::Room(record) => record.room.as_str(),
            Trending::All(_) => ALL_ROOMS,
        }
    }
}

/// The top emojis of a room in the sliding span that ends with a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode)]
pub struct TrendingRecord {
    /// The room.
    pub room: Room,
    /// The last window of the span: its `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// Length of the span, in milliseconds.
    pub span_ms: u64,
    /// The most frequent emojis of the span, the most frequent first. Empty if the room has no reactions in the span
    /// any more, so that nothing is trending in it.
    pub top: Vec<Count>,
}

/// The leaders across rooms in the sliding span that ends with a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode)]
pub struct LeadersRecord {
    /// The field `room`, which is always `*` here.
    pub room: AllRooms,
    /// The last window of the span: its `start` and `end`, Unix milliseconds.
    #[serde(flatten)]
    pub window: Window,
    /// Length of the span, in milliseconds.
    pub span_ms: u64,
    /// The most frequent emojis of all rooms together, the most frequent first.
    pub top: Vec<Count>,
    /// The rooms with the most reactions, the greatest count first. Rooms with equal counts are sorted by name.
    pub rooms: Vec<RoomCount>,
}

/// The number of reactions or subscribers of a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Encode, BorrowDecode)]
pub struct RoomCount {
    /// The room.
    pub room: Room,
    /// The number of reactions or subscribers.
    pub count: u64,
}

/// Text that is used instead of a room's name in a record of all rooms together. No room has this name.
pub const ALL_ROOMS: &str = "*";

/// A value that is serialized as the text [`ALL_ROOMS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct AllRooms;

impl Serialize for AllRooms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(ALL_ROOMS)
    }
}

impl<'de> Deserialize<'de> for AllRooms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AllRooms, D::Error> {
        match &*Cow::<'de, str>::deserialize(deserializer)? {
            ALL_ROOMS => Ok(AllRooms),
            _ => Err(D::Error::custom(
                "expected *, the name of all rooms together",
            )),
        }
    }
}

impl WindowRecord {
    /// Returns the part of the total that is not in the counts. It is the count of emojis that only another build of
    /// the program knows.
    pub fn unnamed(&self) -> u64 {
        let named = self.counts.iter().map(|tally| tally.count);
        self.total
            .saturating_sub(named.fold(0, u64::saturating_add))
    }
}

known::decoded!(WindowRecord: room, window, emitted_at, total; counts;);
known::decoded!(TrendingRecord: room, window, span_ms; top;);
known::decoded!(LeadersRecord: room, window, span_ms; top; rooms);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    const WINDOW: &str = r#""start":0,"end":2000,"span_ms":60000,"top":[{"emoji":"🔥","count":3}]"#;

    #[test]
    fn a_trending_record_is_of_a_room_or_of_all_of_them() {
        let room = format!(r#"{{"room":"match-7",{WINDOW}}}"#);
        let read: Trending = serde_json::from_str(&room).unwrap();
        assert!(matches!(&read, Trending::Room(record) if record.room.as_str() == "match-7"));
        assert_eq!(serde_json::to_string(&read).unwrap(), room);

        let all = format!(r#"{{"room":"*",{WINDOW},"rooms":[{{"room":"match-7","count":3}}]}}"#);
        let read: Trending = serde_json::from_str(&all).unwrap();
        assert_eq!((read.key(), Room::new(read.key()).is_err()), ("*", true));
        assert!(matches!(&read, Trending::All(record) if record.rooms.len() == 1));
        assert_eq!(serde_json::to_string(&read).unwrap(), all);
    }

    #[test]
    fn leaders_without_the_star_are_not_read() {
        for room in ["**", "", "a b"] {
            let record = format!(r#"{{"room":"{room}",{WINDOW},"rooms":[]}}"#);
            assert!(serde_json::from_str::<Trending>(&record).is_err(), "{room}");
        }
    }
}
