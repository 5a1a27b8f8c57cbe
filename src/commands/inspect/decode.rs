//! Decodes a record to the cells of a table row and to JSON. Bytes that cannot be decoded are shown as text.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Display};

use emostream_log::Header;
use emostream_model::{
    Batch, Count, Emoji, EmojiNames, Payload, ResultHeaders, Room, RoomCount, Tally, TotalsRecord,
    Trending, Window, WindowRecord,
};
use serde_json::{Value, json};

use super::{Topic, merge::Owned};
use crate::commands::subscribe::clock;

/// Maximum number of emojis in a cell.
const CELL_COUNTS: usize = 5;
/// The text that the table shows for an empty batch.
const HEARTBEAT: &str = "heartbeat";

/// A decoded record.
#[derive(Debug)]
pub(super) struct Decoded {
    /// The rooms whose reactions or results the record contains.
    rooms: Vec<String>,
    /// Whether the record is an empty batch, which only reports that time has advanced.
    pub(super) heartbeat: bool,
    pub(super) json: Value,
    pub(super) cells: Vec<String>,
}

impl Decoded {
    /// Returns the record if it belongs to `room`, or if `room` is `None`.
    pub(super) fn only(self, room: Option<&Room>) -> Option<Self> {
        let about = room.is_none_or(|room| self.rooms.iter().any(|of| of == room.as_str()));
        about.then_some(self)
    }
}

/// Returns the names of the columns that follow partition, offset and time.
pub(super) fn columns(topic: Topic) -> &'static [&'static str] {
    match topic {
        Topic::Windows | Topic::Live => &["room", "window", "total", "counts"],
        Topic::Totals => &["room", "as of", "total", "counts"],
        Topic::Trending => &["room", "as of", "span", "top"],
        Topic::Rejected => &["reason", "came from", "what"],
        Topic::Progress => &["value"],
        Topic::Reactions => &["what", "rooms", "counts"],
    }
}

/// Decodes a record of `topic`.
pub(super) fn decode(topic: Topic, record: &Owned) -> Decoded {
    let value = match topic {
        Topic::Totals | Topic::Trending if record.value.is_empty() => removed(record),
        Topic::Windows | Topic::Live => window(record),
        Topic::Totals => totals(record),
        Topic::Trending => trending(record),
        Topic::Rejected => Some(rejected(record)),
        // Only the JSON of this value is used, because `inspect progress` prints progress in a table of its own.
        Topic::Progress => None,
        Topic::Reactions => Some(reactions(&record.value)),
    };
    let value = value.unwrap_or_else(|| opaque(record, columns(topic).len()));
    let key = record
        .key
        .as_ref()
        .map(|key| String::from_utf8_lossy(key).into_owned());
    let mut json = json!({
        "partition": record.partition,
        "offset": record.offset,
        "time": record.time_ms,
        "key": key,
        "value": value.value,
    });
    if !record.headers.is_empty() {
        json["headers"] = headers(&record.headers);
    }
    if let Some(before) = removed_before(record).filter(|_| record.value.is_empty()) {
        json["removed"] = json!({"room": key, "before": before});
    }
    let heartbeat = topic == Topic::Reactions && value.cells[0] == HEARTBEAT;
    let mut cells = vec![
        record.partition.to_string(),
        record.offset.to_string(),
        clock(record.time_ms),
    ];
    cells.extend(value.cells);
    Decoded {
        heartbeat,
        rooms: value.rooms,
        json,
        cells,
    }
}

/// The decoded value of a record.
struct DecodedValue {
    rooms: Vec<String>,
    value: Value,
    cells: Vec<String>,
}

fn window(record: &Owned) -> Option<DecodedValue> {
    let window: WindowRecord = serde_json::from_slice(&record.value).ok()?;
    let counts = window
        .counts
        .iter()
        .map(|Tally { emoji, count, .. }| (*emoji, *count));
    Some(DecodedValue {
        rooms: vec![window.room.to_string()],
        cells: vec![
            window.room.to_string(),
            span(window.window),
            window.total.to_string(),
            listed(counts),
        ],
        value: value_of(record),
    })
}

fn totals(record: &Owned) -> Option<DecodedValue> {
    let totals: TotalsRecord = serde_json::from_slice(&record.value).ok()?;
    Some(DecodedValue {
        rooms: vec![totals.room.to_string()],
        cells: vec![
            totals.room.to_string(),
            clock(totals.window.end),
            totals.total.to_string(),
            listed(totals.counts.entries().collect::<Vec<_>>().into_iter()),
        ],
        value: value_of(record),
    })
}

fn trending(record: &Owned) -> Option<DecodedValue> {
    let trending: Trending = serde_json::from_slice(&record.value).ok()?;
    let room = trending.key().to_owned();
    let (window, span_ms, shown) = match trending {
        Trending::Room(of) if of.top.is_empty() => {
            (of.window, of.span_ms, "nothing now".to_owned())
        }
        Trending::Room(of) => (of.window, of.span_ms, listed(counts(&of.top))),
        Trending::All(of) => {
            let rooms = of
                .rooms
                .iter()
                .map(|RoomCount { room, count }| (room, *count));
            let shown = format!("{}  in rooms  {}", listed(counts(&of.top)), listed(rooms));
            (of.window, of.span_ms, shown)
        }
    };
    Some(DecodedValue {
        rooms: vec![room.clone()],
        cells: vec![
            room,
            clock(window.end),
            format!("{} s", span_ms / 1000),
            shown,
        ],
        value: value_of(record),
    })
}

/// Decodes a record without a value (a tombstone), which removes the room in its key from the topic. If the tombstone
/// is of another program, its header `removed-before` is missing, and the cell of the time is empty.
fn removed(record: &Owned) -> Option<DecodedValue> {
    let room = String::from_utf8(record.key.clone()?).ok()?;
    let before = removed_before(record);
    let shown = if before.is_some() {
        "removed"
    } else {
        "deleted"
    };
    Some(DecodedValue {
        cells: vec![
            room.clone(),
            before.map_or_else(String::new, clock),
            String::new(),
            shown.to_owned(),
        ],
        rooms: vec![room],
        value: Value::Null,
    })
}

/// Returns the header `removed-before` of a tombstone: the start of the window before which the final results of the
/// room were removed, Unix milliseconds; `None` without the header.
fn removed_before(record: &Owned) -> Option<u64> {
    let headers = ResultHeaders::parse(record.headers.iter().map(Header::pair));
    headers.removed_before().map(|before| before.start_ms)
}

/// Decodes a record of the rejected topic. Its value has the format of a record of reactions, and its headers contain
/// the reason and the origin (topic, partition and offset).
fn rejected(record: &Owned) -> DecodedValue {
    let header = |name: &str| {
        let found = record.headers.iter().find(|header| header.name == name);
        found.map_or(String::new(), |h| {
            String::from_utf8_lossy(&h.value).into_owned()
        })
    };
    let value = reactions(&record.value);
    let place = format!(
        "{}/{}@{}",
        header("topic"),
        header("partition"),
        header("offset")
    );
    let shown = value.cells.join("  ");
    DecodedValue {
        cells: vec![header("reason"), place, shown],
        ..value
    }
}

fn reactions(value: &[u8]) -> DecodedValue {
    match Payload::decode(value, &EmojiNames::default()) {
        Ok(Payload::Batch(batch)) => of_batch(&batch),
        Ok(Payload::Plain(plain)) => DecodedValue {
            rooms: vec![plain.room.to_string()],
            value: json!({
                "plain": {"user_id": plain.user, "emoji": plain.emoji, "room": plain.room}
            }),
            cells: vec![
                "plain".into(),
                plain.room.to_string(),
                format!("{} 1", plain.emoji),
            ],
        },
        Err(error) => DecodedValue {
            rooms: Vec::new(),
            value: json!({"undecodable": error.to_string(), "text": String::from_utf8_lossy(value)}),
            cells: vec!["undecodable".into(), String::new(), error.to_string()],
        },
    }
}

fn of_batch(batch: &Batch<'_>) -> DecodedValue {
    if batch.is_empty() {
        return DecodedValue {
            rooms: Vec::new(),
            value: json!({"batch": {"base_ms": batch.base_ms(), "reactions": []}}),
            cells: vec![HEARTBEAT.into(), String::new(), String::new()],
        };
    }
    // The counts are grouped by the text of an emoji, because an ingest of another version may send emojis that this
    // version does not know.
    let mut sums = BTreeMap::new();
    for (_, emoji, _) in batch.entries() {
        *sums.entry(batch.emoji_texts()[emoji]).or_insert(0_u64) += 1;
    }
    let mut sums: Vec<(&str, u64)> = sums.into_iter().collect();
    sums.sort_by_key(|(_, count)| Reverse(*count));
    let rooms: Vec<String> = batch.rooms().iter().map(ToString::to_string).collect();
    let reactions = match batch.reactions() {
        Ok(reactions) => reactions
            .iter()
            .map(|r| json!({"user_id": r.user, "emoji": r.emoji, "room": r.room, "at": r.at_ms}))
            .collect(),
        Err(error) => json!({"undecodable": error.to_string()}),
    };
    DecodedValue {
        value: json!({"batch": {"base_ms": batch.base_ms(), "reactions": reactions}}),
        cells: vec![
            format!("batch of {}", batch.len()),
            rooms.join(" "),
            listed(sums.into_iter()),
        ],
        rooms,
    }
}

/// Returns a row for a value that this version cannot read, or for a record without a value that does not remove a
/// room.
fn opaque(record: &Owned, cells: usize) -> DecodedValue {
    let text = String::from_utf8_lossy(&record.value).into_owned();
    let shown = match text.is_empty() {
        true => "deleted".to_owned(),
        false => format!("undecodable: {text}"),
    };
    let mut row = vec![String::new(); cells];
    if let Some(last) = row.last_mut() {
        *last = shown;
    }
    DecodedValue {
        rooms: Vec::new(),
        value: value_of(record),
        cells: row,
    }
}

fn value_of(record: &Owned) -> Value {
    match record.value.is_empty() {
        true => Value::Null,
        false => serde_json::from_slice(&record.value)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&record.value).into_owned())),
    }
}

fn headers(headers: &[Header]) -> Value {
    let text = |header: &Header| Value::String(String::from_utf8_lossy(&header.value).into_owned());
    headers
        .iter()
        .map(|header| (header.name.clone(), text(header)))
        .collect()
}

fn counts(counts: &[Count]) -> impl ExactSizeIterator<Item = (Emoji, u64)> + '_ {
    counts.iter().map(|Count { emoji, count }| (*emoji, *count))
}

fn listed<W: Display>(counts: impl ExactSizeIterator<Item = (W, u64)>) -> String {
    let more = counts.len().saturating_sub(CELL_COUNTS);
    let shown = counts
        .take(CELL_COUNTS)
        .map(|(name, count)| format!("{name} {count}"));
    let mut shown: Vec<String> = shown.collect();
    if more > 0 {
        shown.push(format!("+{more}"));
    }
    shown.join("  ")
}

fn span(window: Window) -> String {
    let start = clock(window.start);
    let start = start.strip_suffix(".000").unwrap_or(&start);
    match window.end.saturating_sub(window.start) {
        ms if ms % 1000 == 0 => format!("{start} +{} s", ms / 1000),
        ms => format!("{start} +{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emostream_model::{REMOVED_HEADER, ReactionRef};
    use proptest::prelude::*;

    const TOPICS: [Topic; 7] = [
        Topic::Windows,
        Topic::Live,
        Topic::Totals,
        Topic::Trending,
        Topic::Rejected,
        Topic::Progress,
        Topic::Reactions,
    ];

    fn record(value: Vec<u8>, headers: Vec<Header>) -> Owned {
        Owned {
            partition: 0,
            offset: 1,
            time_ms: 2,
            key: None,
            value,
            headers,
        }
    }

    proptest! {
        #[test]
        fn any_bytes_of_any_topic_decode_to_a_row_of_the_table(
            value in proptest::collection::vec(any::<u8>(), 0..60), start in 0_u64..9, window in any::<u64>(),
        ) {
            let odd = format!(r#"{{"room":"a","start":{window},"end":{start},"total":0,"counts":[]}}"#);
            for topic in TOPICS {
                for value in [value.clone(), odd.clone().into_bytes()] {
                    let record = Owned { time_ms: window, ..record(value, Vec::new()) };
                    let decoded = decode(topic, &record);
                    prop_assert_eq!(decoded.cells.len(), 3 + columns(topic).len());
                }
            }
        }
    }

    #[test]
    fn the_leaders_across_rooms_are_a_row_of_their_own() {
        let row = |room, rooms, top| {
            let value = format!(
                r#"{{"room":"{room}","start":0,"end":2000,"span_ms":60000,"top":[{top}]{rooms}}}"#
            );
            let decoded = decode(Topic::Trending, &record(value.into_bytes(), Vec::new()));
            (decoded.cells[3].clone(), decoded.cells[6].clone())
        };
        let fire = r#"{"emoji":"🔥","count":3}"#;
        let rooms = r#","rooms":[{"room":"a","count":2},{"room":"b","count":1}]"#;
        let expected = ("*".to_owned(), "🔥 3  in rooms  a 2  b 1".to_owned());
        assert_eq!(row("*", rooms, fire), expected);
        assert_eq!(row("a", "", fire).1, "🔥 3");
        assert_eq!(row("a", "", "").1, "nothing now");
    }

    #[test]
    fn emojis_that_this_build_does_not_know_are_shown_by_their_texts() {
        let rejected = |value| {
            let reason = Header {
                name: "reason".to_owned(),
                value: "unknown_emoji".into(),
            };
            decode(Topic::Rejected, &record(value, vec![reason]))
        };
        let reactions = ["🔥", "\u{1b}", "新", "新"].map(|emoji| ReactionRef {
            user: "u",
            emoji,
            room: "a",
            at_ms: 7,
        });
        let decoded = rejected(Batch::encode(7, reactions));
        assert_eq!(decoded.cells[3], "unknown_emoji");
        assert_eq!(decoded.cells[5], "batch of 4  a  新 2  \u{1b} 1  🔥 1");
        // The cell contains the control character, but cells are escaped before they are printed.
        assert!(!emostream_app::process::output::escaped(&decoded.cells[5]).contains('\u{1b}'));
        let shown = &decoded.json["value"]["batch"]["reactions"][3];
        let expected = json!({"user_id": "u", "emoji": "新", "room": "a", "at": 7});
        assert_eq!(*shown, expected);

        let plain = r#"{"user_id":"u","emoji_type":"新"}"#;
        let cell = &rejected(plain.into()).cells[5];
        assert!(cell.contains("\"新\" is not an emoji"), "{cell}");
    }

    #[test]
    fn totals_show_emojis_that_this_build_does_not_know() {
        let counts = r#"{"emoji":"新","count":3},{"emoji":"🔥","count":2}"#;
        let value = format!(r#"{{"room":"a","start":0,"end":2000,"total":5,"counts":[{counts}]}}"#);
        let decoded = decode(Topic::Totals, &record(value.into_bytes(), Vec::new()));
        assert_eq!(decoded.cells[6], "新 3  🔥 2");
    }

    #[test]
    fn a_record_without_a_value_is_a_removed_room() {
        let header = |name: &str, value: &'static str| Header {
            name: name.to_owned(),
            value: value.into(),
        };
        let removal = |key: Option<&str>, headers: Vec<Header>| Owned {
            key: key.map(|key| key.as_bytes().to_vec()),
            ..record(Vec::new(), headers)
        };
        let before = || vec![header(REMOVED_HEADER, "4000"), header("resets", "2")];
        for topic in [Topic::Totals, Topic::Trending] {
            let decode = |record: &Owned| decode(topic, record);
            let shown = decode(&removal(Some("a"), before()));
            assert_eq!(shown.cells[3..], ["a", &clock(4000), "", "removed"]);
            let json = json!({
                "partition": 0, "offset": 1, "time": 2, "key": "a", "value": null,
                "headers": {"removed-before": "4000", "resets": "2"},
                "removed": {"room": "a", "before": 4000},
            });
            assert_eq!(shown.json, json);
            let only = |room: &str| {
                let room = Room::new(room).ok();
                decode(&removal(Some("a"), before())).only(room.as_ref())
            };
            assert!(only("a").is_some() && only("b").is_none());
            // A tombstone of another program has no header `removed-before`, and may have no key.
            let deleted = decode(&removal(Some("a"), Vec::new()));
            assert_eq!(deleted.cells[3..], ["a", "", "", "deleted"]);
            assert_eq!(decode(&removal(None, before())).cells[6], "deleted");
        }
    }

    #[test]
    fn a_record_is_shown_for_its_rooms_only() {
        let value = br#"{"user_id":1,"emoji_type":"fire","room":"a"}"#.to_vec();
        let record = record(value, Vec::new());
        let of = |room| decode(Topic::Reactions, &record).only(Room::new(room).ok().as_ref());
        assert!(of("a").is_some());
        assert!(of("b").is_none());
    }
}
