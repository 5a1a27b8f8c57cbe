//! Encodes result records as JSON without serde_json.
//!
//! When a window closes, the records of all rooms are written at once. With serde_json, encoding took most of that time
//! (`make bench FIGURE=rooms`), so these functions write the JSON themselves. Tests check that their output equals that
//! of the records' `Serialize`.
//!
//! No text needs an escape: names of rooms consist of unreserved characters, and no emoji contains a quote or a control
//! character. If a record has emojis that this build does not know, serde_json encodes it.

use crate::{Count, Emoji, LeadersRecord, TotalsRecord, Trending, TrendingRecord, WindowRecord};

/// Bytes that are reserved for a record without its lists. The buffer grows if a record is longer.
const HEAD_BYTES: usize = 192;
/// Bytes that are reserved for an entry of a list.
const ENTRY_BYTES: usize = 64;

impl WindowRecord {
    /// Encodes the record as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Json::of(self.counts.len());
        json.text("{\"room\":\"").text(self.room.as_str());
        json.text("\",\"start\":").number(self.window.start);
        json.text(",\"end\":").number(self.window.end);
        if let Some(emitted_at) = self.emitted_at {
            json.text(",\"emitted_at\":").number(emitted_at);
        }
        json.text(",\"total\":").number(self.total);
        json.list(",\"counts\":[", &self.counts, |json, tally| {
            json.emoji(tally.emoji).number(tally.count);
            json.text(",\"swarms\":").number(tally.swarms);
            json.text(",\"loose\":").number(tally.loose).text("}");
        });
        json.end()
    }
}

impl TotalsRecord {
    /// Encodes the record as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        if !self.counts.unnamed.is_empty() {
            // The texts of unknown emojis may need escapes, so serde_json encodes the record. Few records have such
            // emojis.
            return serde_json::to_vec(self).expect("a record can always be encoded as JSON");
        }
        let mut json = Json::of(self.counts.named.len());
        json.text("{\"room\":\"").text(self.room.as_str());
        json.text("\",\"start\":").number(self.window.start);
        json.text(",\"end\":").number(self.window.end);
        json.text(",\"total\":").number(self.total);
        json.list(",\"counts\":[", &self.counts.named, Json::count);
        json.end()
    }
}

impl Trending {
    /// Encodes the record as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        match self {
            Trending::Room(record) => record.to_json(),
            Trending::All(record) => record.to_json(),
        }
    }
}

impl TrendingRecord {
    fn to_json(&self) -> Vec<u8> {
        let mut json = Json::of(self.top.len());
        json.text("{\"room\":\"").text(self.room.as_str());
        json.text("\",\"start\":").number(self.window.start);
        json.text(",\"end\":").number(self.window.end);
        json.text(",\"span_ms\":").number(self.span_ms);
        json.list(",\"top\":[", &self.top, Json::count);
        json.end()
    }
}

impl LeadersRecord {
    fn to_json(&self) -> Vec<u8> {
        let mut json = Json::of(self.top.len() + self.rooms.len());
        json.text("{\"room\":\"").text(crate::ALL_ROOMS);
        json.text("\",\"start\":").number(self.window.start);
        json.text(",\"end\":").number(self.window.end);
        json.text(",\"span_ms\":").number(self.span_ms);
        json.list(",\"top\":[", &self.top, Json::count);
        json.list(",\"rooms\":[", &self.rooms, |json, entry| {
            json.text("{\"room\":\"").text(entry.room.as_str());
            json.text("\",\"count\":").number(entry.count).text("}");
        });
        json.end()
    }
}

struct Json(Vec<u8>);

impl Json {
    fn of(entries: usize) -> Json {
        Json(Vec::with_capacity(HEAD_BYTES + entries * ENTRY_BYTES))
    }

    fn text(&mut self, text: &str) -> &mut Json {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: u64) -> &mut Json {
        self.text(itoa::Buffer::new().format(number))
    }

    /// Writes the beginning of an entry: the emoji and the name of the field `count`. The caller writes the number.
    fn emoji(&mut self, emoji: Emoji) -> &mut Json {
        self.text("{\"emoji\":\"").text(emoji.as_str());
        self.text("\",\"count\":")
    }

    fn count(&mut self, count: &Count) {
        self.emoji(count.emoji).number(count.count).text("}");
    }

    fn list<T>(&mut self, name: &str, entries: &[T], each: impl Fn(&mut Json, &T)) {
        self.text(name);
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                self.text(",");
            }
            each(self, entry);
        }
        self.text("]");
    }

    fn end(mut self) -> Vec<u8> {
        self.text("}");
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{AllRooms, Room, RoomCount, Tally, TotalCounts, Window};

    fn emoji() -> impl Strategy<Value = Emoji> {
        (0..Emoji::all().len()).prop_map(|id| Emoji::from_id(id as u16).unwrap())
    }

    fn room() -> impl Strategy<Value = Room> {
        "[A-Za-z0-9._~-]{1,64}".prop_map(|name| Room::from_record(&name).unwrap())
    }

    fn window() -> impl Strategy<Value = Window> {
        any::<(u64, u64)>().prop_map(|(start, end)| Window { start, end })
    }

    fn counts() -> impl Strategy<Value = Vec<Count>> {
        vec(
            (emoji(), any::<u64>()).prop_map(|(emoji, count)| Count { emoji, count }),
            0..60,
        )
    }

    fn tallies() -> impl Strategy<Value = Vec<Tally>> {
        let tally = (emoji(), any::<(u64, u64, u64)>());
        let tally = tally.prop_map(|(emoji, (count, swarms, loose))| Tally {
            emoji,
            count,
            swarms,
            loose,
        });
        vec(tally, 0..60)
    }

    fn leading() -> impl Strategy<Value = Vec<RoomCount>> {
        let count = (room(), any::<u64>()).prop_map(|(room, count)| RoomCount { room, count });
        vec(count, 0..20)
    }

    proptest! {
        #[test]
        fn every_record_is_written_as_serde_json_writes_it(
            (room, window) in (room(), window()),
            (emitted_at, total, span_ms) in any::<(Option<u64>, u64, u64)>(),
            (tallies, counts, rooms) in (tallies(), counts(), leading()),
        ) {
            let record = WindowRecord { room: room.clone(), window, emitted_at, total, counts: tallies };
            prop_assert_eq!(record.to_json(), serde_json::to_vec(&record).unwrap());
            let totals = TotalCounts { named: counts.clone(), ..TotalCounts::default() };
            let record = TotalsRecord { room: room.clone(), window, total, counts: totals };
            prop_assert_eq!(record.to_json(), serde_json::to_vec(&record).unwrap());
            let record = TrendingRecord { room, window, span_ms, top: counts.clone() };
            let record = Trending::Room(record);
            prop_assert_eq!(record.to_json(), serde_json::to_vec(&record).unwrap());
            let record = LeadersRecord { room: AllRooms, window, span_ms, top: counts, rooms };
            let record = Trending::All(record);
            prop_assert_eq!(record.to_json(), serde_json::to_vec(&record).unwrap());
        }
    }

    #[test]
    fn no_emoji_needs_an_escape() {
        for emoji in Emoji::all() {
            let json = serde_json::to_string(emoji.as_str()).unwrap();
            assert_eq!(json, format!("\"{emoji}\""));
        }
    }
}
