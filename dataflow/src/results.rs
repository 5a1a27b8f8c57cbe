//! The results of closed windows, and the encoding of their records.
//!
//! Operators send results to the sink as values, and the commit thread encodes them as JSON. If a worker encoded the
//! results of many rooms, this would block the worker for as long as computing them.

use std::time::Duration;

use emostream_model::{
    AllRooms, Count, Emoji, LeadersRecord, Room, RoomCount, TotalCounts, TotalsRecord, Trending,
    TrendingRecord, Window, WindowRecord, compress, sort_counts,
};
use emostream_streams::{
    operators::{
        records::ValueFormat,
        top::TopChange,
        totals::{KeyTotals, UnnamedCount},
        tumbling::{ClosedWindow, LiveTally},
    },
    recovery::restore::{StoredCounts, StoredTop},
    topics::FinalSummary,
    topology::{DecodeCounts, FinalFormat, TopFormat, TotalsFormat},
};

/// Approximate bytes of a record without its counts: the key, and the room, the window and the total in the JSON.
const RECORD_BYTES: usize = 120;

/// Approximate bytes of a tally in a final: `{"emoji":"🔥","count":1234,"swarms":1,"loose":234},`.
const TALLY_BYTES: usize = 54;

/// Approximate bytes of a count in totals: `{"emoji":"🔥","count":1234},`.
const COUNT_BYTES: usize = 32;

/// Returns the approximate size in bytes of a totals record with `emojis` emojis.
fn totals_bytes(emojis: usize) -> usize {
    RECORD_BYTES + emojis * COUNT_BYTES
}

/// The format of finals.
#[derive(Debug, Clone)]
pub struct Finals {
    /// Number of identical emojis that make a swarm.
    pub swarm_size: u64,
}

impl ValueFormat<ClosedWindow<Room, Emoji>> for Finals {
    fn bytes(&self, closed: &ClosedWindow<Room, Emoji>) -> usize {
        RECORD_BYTES + closed.counts.len() * TALLY_BYTES
    }

    fn encode(&self, closed: &ClosedWindow<Room, Emoji>) -> Vec<u8> {
        window_record(&closed.key, closed.window, &closed.counts, self.swarm_size).to_json()
    }
}

impl FinalFormat<Room, Emoji> for Finals {
    fn summary(value: &[u8]) -> Option<FinalSummary> {
        let closed: WindowRecord = serde_json::from_slice(value).ok()?;
        Some(FinalSummary {
            end_ms: closed.window.end,
            key: closed.room.to_string(),
            events: closed.total,
        })
    }

    const COUNTS: Option<DecodeCounts<Room, Emoji>> = Some(stored_counts);
}

/// The format of totals records.
#[derive(Debug, Clone)]
pub struct RoomTotals;

impl ValueFormat<KeyTotals<Room, Emoji>> for RoomTotals {
    fn bytes(&self, totals: &KeyTotals<Room, Emoji>) -> usize {
        totals_bytes(totals.counts.len() + totals.unnamed.len())
    }

    fn encode(&self, totals: &KeyTotals<Room, Emoji>) -> Vec<u8> {
        totals_record(totals).to_json()
    }
}

impl TotalsFormat<Room, Emoji> for RoomTotals {
    fn record_bytes(emojis: usize) -> usize {
        totals_bytes(emojis)
    }

    fn key(text: &str) -> Option<Room> {
        Room::from_record(text).ok()
    }

    fn counts(value: &[u8]) -> Option<StoredCounts<Room, Emoji>> {
        stored_counts(value)
    }
}

/// The format of trending records: the top emojis of one room, or the top emojis and the top rooms across all rooms.
#[derive(Debug, Clone)]
pub struct TrendingTops {
    /// The length of the sliding span, milliseconds.
    span_ms: u64,
}

impl TrendingTops {
    /// Returns the format of the tops in a sliding span of this length.
    pub fn over(span: Duration) -> TrendingTops {
        TrendingTops {
            span_ms: span.as_millis() as u64,
        }
    }
}

impl ValueFormat<TopChange<Room, Emoji>> for TrendingTops {
    fn bytes(&self, change: &TopChange<Room, Emoji>) -> usize {
        match change {
            TopChange::Key { items, .. } => totals_bytes(items.len()),
            TopChange::AllKeys { items, keys, .. } => totals_bytes(items.len() + 2 * keys.len()),
        }
    }

    fn encode(&self, change: &TopChange<Room, Emoji>) -> Vec<u8> {
        let (span_ms, counts_of) = (self.span_ms, |items: &[_]| counts(items.iter().copied()));
        match change {
            TopChange::Key { key, window, items } => Trending::Room(TrendingRecord {
                room: key.clone(),
                window: *window,
                span_ms,
                top: counts_of(items),
            }),
            TopChange::AllKeys {
                window,
                items,
                keys,
            } => Trending::All(LeadersRecord {
                room: AllRooms,
                window: *window,
                span_ms,
                top: counts_of(items),
                rooms: (keys.iter().cloned())
                    .map(|(room, count)| RoomCount { room, count })
                    .collect(),
            }),
        }
        .to_json()
    }
}

impl TopFormat<Room, Emoji> for TrendingTops {
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

/// Decodes a final or a totals record. A final has all fields of a totals record, so both are decoded as totals records,
/// which keep the counts of emojis that this build does not know.
fn stored_counts(value: &[u8]) -> Option<StoredCounts<Room, Emoji>> {
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

/// Returns the value of the record of a live tally.
pub fn live_json(tally: &LiveTally<'_, Room, Emoji>, swarm_size: u64) -> Vec<u8> {
    let record = WindowRecord {
        emitted_at: Some(tally.emitted_at_ms),
        ..window_record(tally.key, tally.window, tally.counts, swarm_size)
    };
    record.to_json()
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

fn totals_record(totals: &KeyTotals<Room, Emoji>) -> TotalsRecord {
    let mut named = counts(totals.counts.iter().copied());
    sort_counts(&mut named, |count| (count.count, count.emoji));
    let of_unnamed = totals.unnamed.iter().map(|count| count.count);
    let all = named.iter().map(|count| count.count).chain(of_unnamed);
    TotalsRecord {
        room: totals.key.clone(),
        window: totals.window,
        // The sum saturates instead of overflowing, since any program may have written the record from which the counts
        // of unknown emojis come.
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
