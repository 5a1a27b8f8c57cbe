//! The results of closed windows, and the encoding of their records.
//!
//! Results are sent to the sink as they are, and encoded as JSON by the commit thread. The JSON of 10,000 rooms with
//! 50 emojis has 45 MB: to encode it would block a worker for as long as to compute the results.

use std::iter;

use bytes::Bytes;
use emostream_log::{Header, NewRecord};
use emostream_model::{
    AllRooms, Count, Emoji, LeadersRecord, REMOVED_HEADER, RESETS_HEADER, Room, RoomCount,
    TOTALS_BEGIN_HEADER, Topics, TotalCounts, TotalsRecord, Trending, TrendingRecord, Window,
    WindowRecord, compress, sort_counts,
};
use emostream_streams::{
    operators::{
        top::TopChange,
        totals::{KeyTotals, TotalsOutput, UnnamedCount},
        tumbling::{ClosedWindow, LiveTally},
    },
    recovery::restore::{StoredCounts, StoredFormat, StoredTop},
    sink::{operator::Outcome, result::SinkResult},
};
use serde::{Deserialize, Serialize};

/// A closed window of a room.
pub type Closed = ClosedWindow<Room, Emoji>;

/// The totals of a room.
pub type RoomTotals = KeyTotals<Room, Emoji>;

/// Approximate bytes of a record without its counts: the room as key and in the JSON, the window, the total.
const RECORD_BYTES: usize = 120;

/// Approximate bytes of a tally in a final: `{"emoji":"🔥","count":1234,"swarms":1,"loose":234},`.
const TALLY_BYTES: usize = 54;

/// Approximate bytes of a count in totals: `{"emoji":"🔥","count":1234},`.
const COUNT_BYTES: usize = 32;

/// Returns the approximate size of the totals record of this number of emojis, bytes.
pub fn totals_bytes(emojis: usize) -> usize {
    RECORD_BYTES + emojis * COUNT_BYTES
}

/// A result of a closed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowResult {
    /// A room's final.
    Final(Closed),
    /// A room's totals.
    Totals(RoomTotals),
    /// A record of trending emojis: its key, and its JSON. It is encoded already, since binary formats cannot represent
    /// its type.
    Trending(String, Vec<u8>),
    /// The removal of a room from a table, and the start of the window at whose close it is removed, Unix milliseconds.
    Removed(Table, Room, u64),
}

/// A compacted topic with a record of each room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// The topic of totals.
    Totals,
    /// The topic of trending emojis.
    Trending,
}

impl WindowResult {
    /// Returns the result of a change of the trending emojis or rooms in a sliding span of `span_ms`.
    pub fn trending(change: TopChange<Room, Emoji>, span_ms: u64) -> WindowResult {
        let record = match change {
            TopChange::Key { key, window, items } => Trending::Room(TrendingRecord {
                room: key,
                window,
                span_ms,
                top: counts(items),
            }),
            TopChange::AllKeys {
                window,
                items,
                keys,
            } => Trending::All(LeadersRecord {
                room: AllRooms,
                window,
                span_ms,
                top: counts(items),
                rooms: (keys.into_iter())
                    .map(|(room, count)| RoomCount { room, count })
                    .collect(),
            }),
        };
        WindowResult::Trending(record.key().to_owned(), record.to_json())
    }
}

/// The encoder of results: the values that are needed to encode their records.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The topics of EmoStream.
    pub topics: Topics,
    /// Number of identical emojis that make a swarm.
    pub swarm_size: u64,
    /// The number of backward resets so far.
    pub resets: u64,
}

impl SinkResult for WindowResult {
    type Encoder = Recording;

    fn is_final(&self) -> bool {
        matches!(self, WindowResult::Final(_))
    }

    /// Returns the approximate size of the JSON, which contains the emoji of every count.
    fn bytes(&self) -> usize {
        match self {
            WindowResult::Final(closed) => RECORD_BYTES + closed.counts.len() * TALLY_BYTES,
            WindowResult::Totals(totals) => {
                totals_bytes(totals.counts.len() + totals.unnamed.len())
            }
            WindowResult::Trending(key, json) => key.len() + json.len(),
            WindowResult::Removed(..) => RECORD_BYTES,
        }
    }

    fn record(&self, recording: &Recording) -> NewRecord {
        match self {
            WindowResult::Final(closed) => {
                let (room, window) = (&closed.key, closed.window);
                let json =
                    window_record(room, window, &closed.counts, recording.swarm_size).to_json();
                let mut record = keyed(recording.topics.windows(), room.as_str(), json);
                if closed.begins {
                    record
                        .headers
                        .push(header(TOTALS_BEGIN_HEADER, String::new()));
                }
                ordered(record, recording.resets)
            }
            WindowResult::Totals(totals) => {
                let json = totals_record(totals).to_json();
                let record = keyed(recording.topics.totals(), totals.key.as_str(), json);
                ordered(record, totals.resets)
            }
            WindowResult::Trending(key, json) => {
                keyed(recording.topics.trending(), key, json.clone())
            }
            WindowResult::Removed(table, room, start_ms) => {
                let topic = match table {
                    Table::Totals => recording.topics.totals(),
                    Table::Trending => recording.topics.trending(),
                };
                let mut record = keyed(topic, room.as_str(), Vec::new());
                record
                    .headers
                    .push(header(REMOVED_HEADER, start_ms.to_string()));
                ordered(record, recording.resets)
            }
        }
    }
}

/// The formats of the results that a start reads again.
pub struct StoredResults;

impl StoredFormat for StoredResults {
    type Key = Room;
    type Item = Emoji;

    fn key(text: &str) -> Option<Room> {
        Room::from_record(text).ok()
    }

    /// A final has all fields of a totals record. Decoded as one, it keeps the emojis that this build does not know.
    fn counts(value: &[u8]) -> Option<StoredCounts<Room, Emoji>> {
        let record: TotalsRecord = serde_json::from_slice(value).ok()?;
        let TotalCounts { named, unnamed } = record.counts;
        let unnamed = unnamed.into_iter().map(|it| UnnamedCount {
            name: it.emoji,
            count: it.count,
        });
        Some(StoredCounts {
            key: record.room,
            window: record.window,
            counts: named.into_iter().map(|it| (it.emoji, it.count)).collect(),
            unnamed: unnamed.collect(),
        })
    }

    fn top(value: &[u8]) -> Option<StoredTop<Room, Emoji>> {
        let Ok(Trending::Room(record)) = serde_json::from_slice(value) else {
            return None;
        };
        let top = record.top.into_iter();
        Some(StoredTop {
            key: record.room,
            span_ms: record.span_ms,
            items: top.map(|it| (it.emoji, it.count)).collect(),
        })
    }
}

/// Returns the inputs of the sink for an output of the totals.
pub fn totals_outcomes(
    output: TotalsOutput<Room, Emoji>,
) -> impl Iterator<Item = Outcome<WindowResult>> {
    let (first, second) = match output {
        TotalsOutput::Record(totals) => (Outcome::Result(WindowResult::Totals(totals)), None),
        TotalsOutput::Unwritten(since) => (Outcome::Unwritten(since), None),
        TotalsOutput::Removed(room, start_ms) => {
            let of = |table| Outcome::Result(WindowResult::Removed(table, room.clone(), start_ms));
            (of(Table::Totals), Some(of(Table::Trending)))
        }
    };
    iter::once(first).chain(second)
}

/// Returns the record of a live tally.
pub fn live_record(tally: &LiveTally<'_, Room, Emoji>, topic: &str, swarm_size: u64) -> NewRecord {
    let record = WindowRecord {
        emitted_at: Some(tally.emitted_at_ms),
        ..window_record(tally.key, tally.window, tally.counts, swarm_size)
    };
    NewRecord {
        time_ms: record.emitted_at,
        ..keyed(topic.to_owned(), tally.key.as_str(), record.to_json())
    }
}

/// Returns the record of a window: the counts as swarms and loose emojis, the most frequent emoji first.
fn window_record(
    room: &Room,
    window: Window,
    counts: &[(Emoji, u64)],
    swarm_size: u64,
) -> WindowRecord {
    let tally = |(emoji, count): &(Emoji, u64)| compress(*emoji, *count, swarm_size);
    let mut counts: Vec<_> = counts.iter().map(tally).collect();
    sort_counts(&mut counts, |tally| (tally.count, tally.emoji));
    WindowRecord {
        room: room.clone(),
        window,
        emitted_at: None,
        total: counts.iter().map(|tally| tally.count).sum(),
        counts,
    }
}

fn totals_record(totals: &RoomTotals) -> TotalsRecord {
    let mut named = counts(totals.counts.iter().copied());
    sort_counts(&mut named, |count| (count.count, count.emoji));
    let of_unnamed = totals.unnamed.iter().map(|count| count.count);
    let all = named.iter().map(|count| count.count).chain(of_unnamed);
    TotalsRecord {
        room: totals.key.clone(),
        window: totals.window,
        // Saturating, since counts that this build cannot name come from a record that any program may have written.
        total: all.fold(0, u64::saturating_add),
        counts: TotalCounts {
            named,
            unnamed: totals.unnamed.iter().map(unnamed_record).collect(),
        },
    }
}

fn unnamed_record(unnamed: &UnnamedCount) -> emostream_model::UnnamedCount {
    emostream_model::UnnamedCount {
        emoji: unnamed.name.clone(),
        count: unnamed.count,
    }
}

fn counts(counts: impl IntoIterator<Item = (Emoji, u64)>) -> Vec<Count> {
    let counts = counts.into_iter();
    counts
        .map(|(emoji, count)| Count { emoji, count })
        .collect()
}

fn header(name: &str, value: String) -> Header {
    Header {
        name: name.to_owned(),
        value: value.into(),
    }
}

/// Adds the header with the number of backward resets, if there were any: after a reset, windows alone do not order
/// results any more.
fn ordered(mut record: NewRecord, resets: u64) -> NewRecord {
    if resets > 0 {
        record
            .headers
            .push(header(RESETS_HEADER, resets.to_string()));
    }
    record
}

fn keyed(topic: String, key: &str, json: Vec<u8>) -> NewRecord {
    NewRecord {
        topic,
        partition: None,
        time_ms: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: json.into(),
        headers: Vec::new(),
    }
}
