//! Totals and what is trending, as of F, from the topics that hold them.
//!
//! ```text
//!  [totals] to its end ──────────────────────────┐
//!  [windows] from the offsets in progress ───────┼─▶ totals of each room, with what is in no record yet
//!                            │                   ┘
//!                            └─▶ what lies in the span ◀─ [trending] to its end
//! ```
//!
//! A totals record may lie behind its room's finals: see [`emostream_streams::operators::schedule`]. Those that are later than the record, in the
//! order of results, are added to it. So it does no harm to read more finals than are needed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    ops::Range,
    panic::resume_unwind,
    thread,
};

use differential_dataflow::hashable::Hashable;
use emostream_log::{Log, LogError, Record, read_from, read_to_end};
use emostream_model::{
    Emoji, FinalsFrom, LaterFinals, ResultOrder, Room, TotalCounts, TotalsRecord, Trending,
    TrendingRecord, UnnamedCount,
};
use emostream_streams::{
    operators::{lifetimes, schedule::Change, sliding::SlidingContribution},
    runtime::app::Restored,
};
use foldhash::HashMap;

use crate::{
    Config, StreamsError,
    progress::{Progress, Resets},
    results::{RestoredRoom, headers_of},
    topology::WorkerState,
};

/// A final's record is written after its window, by clocks that may differ: how much earlier than the
/// window's end its time may be at most. More than the five seconds that reactions may be ahead.
const WRITTEN_EARLY_MS: u64 = 60_000;

/// What lies in the trending span as of F, from time 0 on.
pub type RecoveredTrending = Vec<Contribution>;

type Contribution = SlidingContribution<Room, Emoji>;

/// Reads what a run goes on from: as of `stored`, once every older run is fenced.
///
/// The run may begin at a greater F than the stored one, `final_until_ms`, or with another span. Counts that should have
/// left the span by then, and counts that the topic shows for a room without finals, leave at `final_until_ms`; that
/// corrects the topic.
pub fn restore(
    config: &Config,
    log: &dyn Log,
    stored: &Progress,
    final_until_ms: u64,
) -> Result<Restored<WorkerState>, StreamsError> {
    read(config, log, stored, final_until_ms).map_err(StreamsError::Start)
}

fn read(
    config: &Config,
    log: &dyn Log,
    stored: &Progress,
    final_until_ms: u64,
) -> Result<Restored<WorkerState>, LogError> {
    let topics = &config.topics;
    let mut totals = KnownTotals::read(&topics.totals(), log, config.workers, stored.resets)?;
    let is_unwritten = stored.unwritten.since.is_some();
    let mut contributions = Vec::new();
    let mut keep = |record: Record<'_>| {
        // A final has all that a totals record has. Read as one, it keeps the emojis that this build does not know.
        if let Ok(closed) = serde_json::from_slice::<TotalsRecord>(record.value) {
            let headers = headers_of(&record);
            let resets = headers.resets;
            contributions.extend(contribution(
                config,
                stored,
                final_until_ms,
                resets,
                &closed,
            ));
            if is_unwritten {
                totals.add(record.partition, resets, headers.totals_begin, closed);
            }
        }
    };
    let windows = topics.windows();
    let kept = log.offsets(&windows)?;
    let from = finals_from(log, &windows, config.span().span_ms, stored, &kept)?;
    read_from(log, &windows, &from, &mut keep)?;
    let backed: HashSet<Room> = contributions.iter().map(|it| it.key.clone()).collect();
    for shown in shown(&topics.trending(), log)? {
        if shown.span_ms != config.span().span_ms || !backed.contains(&shown.room) {
            contributions.push(Contribution {
                key: shown.room,
                from_ms: 0,
                until_ms: config.window.window_of(final_until_ms).last_ms(),
                counts: shown.top.iter().map(|c| (c.emoji, c.count)).collect(),
            });
        }
    }
    let totals = totals.into_restored(config.retention_ms(), stored.final_until_ms);
    let mut workers: Vec<WorkerState> = deal(totals, config.workers)
        .into_iter()
        .map(|totals| WorkerState {
            totals,
            trending: Vec::new(),
        })
        .collect();
    // Exchanged by room later.
    workers[0].trending = contributions;
    Ok(Restored {
        workers,
        final_ends: (0..).zip(kept.iter().map(|kept| kept.end)).collect(),
    })
}

/// From where each partition of the windows is read, of what is `kept`; those of which nothing is needed are left out.
fn finals_from(
    log: &dyn Log,
    topic: &str,
    span_ms: u64,
    stored: &Progress,
    kept: &[Range<u64>],
) -> Result<Vec<(u32, u64)>, LogError> {
    let known = stored.unwritten.finals.as_ref();
    let known_from = |finals: &FinalsFrom| -> Vec<u64> {
        let from = |(partition, kept): (u32, &Range<u64>)| match finals.offset(partition) {
            // That of a topic that was recreated.
            offset if offset > kept.end => kept.start,
            offset => offset,
        };
        (0..).zip(kept).map(from).collect()
    };
    let oldest = stored.resets.oldest_in_span(stored.final_until_ms, span_ms);
    let of_trending = match known.filter(|finals| finals.since <= oldest) {
        Some(finals) => known_from(finals),
        None => {
            let until_ms = stored.final_until_ms;
            log.offsets_at(topic, until_ms.saturating_sub(span_ms + WRITTEN_EARLY_MS))?
        }
    };
    let of_totals: Vec<u64> = match (stored.unwritten.since, known) {
        (Some(_), Some(finals)) => known_from(finals),
        (Some(_), None) => kept.iter().map(|kept| kept.start).collect(),
        (None, _) => kept.iter().map(|kept| kept.end).collect(),
    };
    let needed = of_trending.into_iter().zip(of_totals);
    let from = (0..).zip(kept).zip(needed);
    let start = |((partition, kept), (trending, totals)): ((u32, &Range<u64>), (u64, u64))| {
        let start = trending.min(totals).max(kept.start);
        (start < kept.end).then_some((partition, start))
    };
    Ok(from.filter_map(start).collect())
}

/// How long the counts of a final stay in the trending span, if the stored F has not seen them leave.
///
/// Finals of a time that was given up by a reset are in no span.
fn contribution(
    config: &Config,
    stored: &Progress,
    final_until_ms: u64,
    number: u64,
    closed: &TotalsRecord,
) -> Option<Contribution> {
    let resets = stored.resets;
    let expires_ms = config.span().expires(closed.window).start;
    let given_up = closed.window.end > resets.until_ms && number < resets.number;
    (expires_ms >= stored.final_until_ms && !given_up).then(|| {
        let expires = config.window.window_of(expires_ms.max(final_until_ms));
        Contribution {
            key: closed.room.clone(),
            from_ms: 0,
            until_ms: expires.last_ms(),
            counts: named(&closed.counts).collect(),
        }
    })
}

fn named(counts: &TotalCounts) -> impl Iterator<Item = (Emoji, u64)> {
    counts.named.iter().map(|count| (count.emoji, count.count))
}

/// The rooms that the topic shows as trending.
fn shown(topic: &str, log: &dyn Log) -> Result<Vec<TrendingRecord>, LogError> {
    let mut rooms: BTreeMap<Room, TrendingRecord> = BTreeMap::new();
    // A room that is removed has a record with an empty top before its tombstone, which is skipped here.
    let mut keep = |record: Record<'_>| {
        if let Ok(Trending::Room(record)) = serde_json::from_slice(record.value) {
            match record.top.is_empty() {
                true => rooms.remove(&record.room),
                false => rooms.insert(record.room.clone(), record),
            };
        }
    };
    read_to_end(log, topic, &mut keep)?;
    Ok(rooms.into_values().collect())
}

/// Splits restored totals between the `workers` of a process: each room goes to the worker that owns it, if there is
/// no other process.
pub fn deal(totals: Vec<RestoredRoom>, workers: usize) -> Vec<Vec<RestoredRoom>> {
    let mut dealt: Vec<Vec<RestoredRoom>> = (0..workers.max(1)).map(|_| Vec::new()).collect();
    let to = |totals: &RestoredRoom| totals.key.hashed() % dealt.len() as u64;
    let to: Vec<usize> = totals.iter().map(|totals| to(totals) as usize).collect();
    for (to, totals) in to.into_iter().zip(totals) {
        dealt[to].push(totals);
    }
    dealt
}

/// The totals of all rooms while they are read.
struct KnownTotals {
    resets: Resets,
    rooms: HashMap<Room, KnownRoom>,
}

#[derive(Default)]
struct KnownRoom {
    /// The order of the record; `None` if the room has none yet.
    order: Option<ResultOrder>,
    /// The record removes the room: it has totals only if there are later finals.
    is_removed: bool,
    counts: TotalCounts,
    later: LaterFinals<Later>,
    /// The order of the room's last final.
    last: ResultOrder,
}

/// The counts of finals that are later than the record of their room.
#[derive(Default)]
struct Later {
    counts: BTreeMap<Emoji, u64>,
    /// Those of emojis that this build does not know.
    unnamed: BTreeMap<Box<str>, u64>,
    change: Option<Change>,
}

impl Later {
    fn merge(&mut self, more: Later) {
        for (emoji, more) in more.counts {
            *self.counts.entry(emoji).or_default() += more;
        }
        for (emoji, more) in more.unnamed {
            let count = self.unnamed.entry(emoji).or_default();
            // Saturating: any program may have written it.
            *count = count.saturating_add(more);
        }
        self.change = match (self.change, more.change) {
            (Some(known), Some(more)) => Some(known.merge(more)),
            (known, more) => known.or(more),
        };
    }
}

impl KnownTotals {
    /// Reads the topic with up to `threads` threads, which share its partitions: parsing the JSON of millions of counts
    /// takes most of the time.
    fn read(
        topic: &str,
        log: &dyn Log,
        threads: usize,
        resets: Resets,
    ) -> Result<KnownTotals, LogError> {
        let kept = (0..).zip(log.offsets(topic)?);
        let kept = kept.filter(|(_, kept)| !kept.is_empty());
        let from: Vec<(u32, u64)> = kept
            .map(|(partition, kept)| (partition, kept.start))
            .collect();
        let share = from.len().div_ceil(threads.max(1)).max(1);
        let parts: Vec<&[(u32, u64)]> = from.chunks(share).collect();
        let read = |part: &[(u32, u64)]| KnownTotals::read_part(topic, log, part);
        let parts = match parts[..] {
            [] => Vec::new(),
            // A simulation steps one thread at a time.
            [part] => vec![read(part)?],
            _ => thread::scope(|scope| {
                let threads = parts.iter().map(|part| scope.spawn(|| read(part)));
                let threads: Vec<_> = threads.collect();
                let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
                };
                threads.into_iter().map(join).collect::<Result<_, _>>()
            })?,
        };
        let mut rooms: HashMap<Room, KnownRoom> = HashMap::default();
        for part in parts {
            for (name, room) in part {
                // The topic may have got more partitions, and a room another one.
                if rooms
                    .get(&name)
                    .is_none_or(|known| known.order <= room.order)
                {
                    rooms.insert(name, room);
                }
            }
        }
        Ok(KnownTotals { resets, rooms })
    }

    fn read_part(
        topic: &str,
        log: &dyn Log,
        from: &[(u32, u64)],
    ) -> Result<HashMap<Room, KnownRoom>, LogError> {
        let mut rooms: HashMap<Room, KnownRoom> = HashMap::default();
        let mut unreadable = 0_u64;
        let mut keep = |record: Record<'_>| {
            let headers = headers_of(&record);
            let removal = Room::from_key(record.key).zip(headers.removed_before());
            let (name, room) = match (removal, record.value) {
                (Some((name, before)), []) => {
                    let room = KnownRoom {
                        // The finals of the window itself are not removed.
                        order: Some(before.just_before()),
                        is_removed: true,
                        ..KnownRoom::default()
                    };
                    (name, room)
                }
                (None, []) => return,
                (_, json) => match serde_json::from_slice::<TotalsRecord>(json) {
                    Ok(totals) => {
                        let order = headers.order(totals.window);
                        let room = KnownRoom {
                            order: Some(order),
                            counts: totals.counts,
                            last: order,
                            ..KnownRoom::default()
                        };
                        (totals.room, room)
                    }
                    Err(_) => {
                        unreadable += 1;
                        return;
                    }
                },
            };
            // Not the record that is read last, which may lie in another partition than the later one.
            let known = rooms.get(&name);
            if known.is_none_or(|known| known.order <= room.order) {
                rooms.insert(name, room);
            }
        };
        read_from(log, topic, from, &mut keep)?;
        if unreadable > 0 {
            tracing::warn!(topic, unreadable, "skipped records that are not totals");
        }
        Ok(rooms)
    }

    /// Adds a final, unless the record of its room contains it. If `begins`, the totals begin at 0 with it.
    fn add(&mut self, partition: u32, number: u64, begins: bool, closed: TotalsRecord) {
        let order = ResultOrder::new(number, closed.window);
        let room = self.rooms.entry(closed.room).or_default();
        if room.order >= Some(order) {
            return;
        }
        room.last = room.last.max(order);
        // A reset has set the time back since: the record must not wait until event time gets there again.
        let latest_ms = match number < self.resets.number {
            true => self.resets.until_ms,
            false => u64::MAX,
        };
        let unnamed = closed.counts.unnamed.iter();
        room.later.counts(partition, order, begins).merge(Later {
            counts: named(&closed.counts).collect(),
            unnamed: unnamed.map(|it| (it.emoji.clone(), it.count)).collect(),
            change: Some(Change {
                first: order,
                since_ms: order.start_ms.min(latest_ms),
                last: closed.window,
                last_resets: number,
            }),
        });
    }

    /// Returns the totals as of `final_until_ms`. Of a room whose totals have expired, only the time of its last final
    /// is returned.
    fn into_restored(self, retention_ms: u64, final_until_ms: u64) -> Vec<RestoredRoom> {
        let resets = self.resets;
        let restored = |(room, known): (Room, KnownRoom)| {
            // A final of a time that was given up must not keep the room until event time gets there again.
            let last_ms = match known.last.resets < resets.number {
                true => known.last.start_ms.min(resets.until_ms),
                false => known.last.start_ms,
            };
            let nothing = RestoredRoom {
                key: room,
                counts: Vec::new(),
                unnamed: Vec::new(),
                change: None,
                last_ms,
            };
            if lifetimes::exceeds_retention(last_ms, final_until_ms, retention_ms) {
                return nothing;
            }
            if known.later.is_empty() {
                // Nothing is to be merged: without this case a start would sort millions of counts.
                return RestoredRoom {
                    counts: named(&known.counts).collect(),
                    unnamed: known.counts.unnamed,
                    ..nothing
                };
            }
            let of_record = Later {
                counts: named(&known.counts).collect(),
                unnamed: (known
                    .counts
                    .unnamed
                    .into_iter()
                    .map(|it| (it.emoji, it.count)))
                .collect(),
                change: None,
            };
            let all = known.later.fold(of_record, Later::merge);
            let unnamed = all.unnamed.into_iter();
            let mut unnamed: Vec<UnnamedCount> = unnamed
                .map(|(emoji, count)| UnnamedCount { emoji, count })
                .collect();
            // Stable: equal ones stay in the order of their texts.
            unnamed.sort_by_key(|it| Reverse(it.count));
            RestoredRoom {
                counts: all.counts.into_iter().collect(),
                unnamed,
                change: all.change,
                ..nothing
            }
        };
        let rooms = self.rooms.into_iter();
        let rooms = rooms.filter(|(_, known)| !known.is_removed || !known.later.is_empty());
        let mut rooms: Vec<RestoredRoom> = rooms.map(restored).collect();
        // As windows bring them: what is known first is numbered first.
        rooms.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        rooms
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use emostream_log::{
        Cleanup, Header, NewRecord,
        embedded::EmbeddedLog,
        testing::{KEEP, header, keyed, topic},
    };
    use emostream_model::{REMOVED_HEADER, RESETS_HEADER, Unwritten, Window};

    use super::*;

    fn log() -> EmbeddedLog {
        log_with(Cleanup::Compact)
    }

    fn uncompacted_log() -> EmbeddedLog {
        log_with(KEEP)
    }

    fn log_with(cleanup: Cleanup) -> EmbeddedLog {
        let log = EmbeddedLog::in_memory().unwrap();
        log.create_topic(&topic("totals", 2, cleanup)).unwrap();
        log
    }

    fn totals(partition: u32, start: u64, count: u64, headers: Vec<Header>) -> NewRecord {
        let json = format!(
            r#"{{"room":"a","start":{start},"end":{},"total":{count},"counts":[{{"emoji":"🔥","count":{count}}}]}}"#,
            start + 2000
        );
        NewRecord {
            partition: Some(partition),
            headers,
            ..keyed("totals", "a", json)
        }
    }

    fn reset() -> Vec<Header> {
        vec![header(RESETS_HEADER, "1")]
    }

    fn write(log: &EmbeddedLog, records: Vec<NewRecord>) {
        let timeout = std::time::Duration::from_secs(5);
        log.transactor("t", timeout)
            .unwrap()
            .commit(records)
            .unwrap();
    }

    fn counts(known: KnownTotals) -> Vec<u64> {
        let restored = known.into_restored(u64::MAX, 0).into_iter();
        restored
            .flat_map(|it| it.counts)
            .map(|(_, count)| count)
            .collect()
    }

    fn closed(start: u64, count: u64) -> TotalsRecord {
        let json = format!(
            r#"{{"room":"a","start":{start},"end":{},"total":{count},"counts":[{{"emoji":"🔥","count":{count},"swarms":0,"loose":{count}}}]}}"#,
            start + 2000
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn totals_after_a_backward_reset_win_over_those_of_a_later_window() {
        let log = log();
        // Read in this order: the one that counts lies in the partition that is read first.
        let records = vec![totals(0, 2000, 7, reset()), totals(1, 8000, 5, vec![])];
        write(&log, records);
        // One thread reads both partitions, or each has its own.
        for threads in [1, 2] {
            let known = KnownTotals::read("totals", &log, threads, Resets::default()).unwrap();
            assert_eq!(counts(known), [7]);
        }
    }

    /// Of the finals after the record one begins the totals at 0, in another partition, which is read first.
    #[test]
    fn totals_begin_at_0_with_a_marked_final_and_expired_totals_are_left_out() {
        let log = log();
        write(&log, vec![totals(0, 2000, 7, vec![])]);
        let restored = |final_until_ms| {
            let mut known = KnownTotals::read("totals", &log, 2, Resets::default()).unwrap();
            known.add(1, 0, true, closed(20_000, 3));
            known.add(1, 0, false, closed(22_000, 2));
            known.add(0, 0, false, closed(4000, 1));
            let restored = known.into_restored(10_000, final_until_ms);
            let [room] = restored.try_into().unwrap();
            let first_ms = room.change.map(|change| change.first.start_ms);
            (
                room.last_ms,
                room.counts.iter().map(|it| it.1).sum::<u64>(),
                first_ms,
            )
        };
        assert_eq!(restored(32_000), (22_000, 5, Some(20_000)));
        // The totals have expired.
        assert_eq!(restored(34_000), (22_000, 0, None));
    }

    /// Kafka compacts hours later: until then the record and the removal lie beside each other.
    #[test]
    fn a_removed_room_is_not_restored_also_with_a_longer_retention() {
        let log = uncompacted_log();
        let removal = NewRecord {
            value: "".into(),
            headers: vec![Header {
                name: REMOVED_HEADER.to_owned(),
                value: "20000".into(),
            }],
            ..totals(0, 0, 0, vec![])
        };
        write(&log, vec![totals(0, 2000, 7, vec![]), removal]);
        let known = || KnownTotals::read("totals", &log, 2, Resets::default()).unwrap();
        assert_eq!(known().into_restored(u64::MAX, 30_000), []);
        // It has come back since.
        let mut known = known();
        known.add(0, 0, false, closed(18_000, 9));
        known.add(0, 0, true, closed(20_000, 3));
        assert_eq!(counts(known), [3]);
    }

    #[test]
    fn finals_are_read_from_where_totals_or_what_is_trending_needs_them() {
        let log = log();
        // So early that nothing is found by its time.
        let at = |partition| NewRecord {
            time_ms: Some(0),
            ..totals(partition, 2000, 1, vec![])
        };
        write(&log, (0..10).map(|nth| at(nth % 2)).collect());
        let kept = log.offsets("totals").unwrap();
        let from = |since: Option<u64>, finals: Option<(u64, u64)>| {
            let order = |start_ms| ResultOrder {
                resets: 0,
                start_ms,
            };
            let finals = finals.map(|(since_ms, offset)| FinalsFrom {
                since: order(since_ms),
                offsets: vec![(0, offset), (1, 4)],
            });
            let stored = Progress {
                final_until_ms: 1_000_000,
                unwritten: Unwritten {
                    since: since.map(order),
                    finals,
                },
                ..Progress::default()
            };
            finals_from(&log, "totals", 6000, &stored, &kept).unwrap()
        };
        assert_eq!(from(None, None), []);
        assert_eq!(from(Some(996_000), None), [(0, 0), (1, 0)]);
        // Offsets that hold for the span, and those that hold for the totals alone.
        assert_eq!(from(None, Some((994_000, 2))), [(0, 2), (1, 4)]);
        assert_eq!(from(None, Some((996_000, 2))), []);
        assert_eq!(from(Some(996_000), Some((996_000, 2))), [(0, 2), (1, 4)]);
        // The topic was recreated.
        assert_eq!(from(Some(996_000), Some((996_000, 99))), [(0, 0), (1, 4)]);
        assert_eq!(from(None, Some((994_000, 99))), [(0, 0), (1, 4)]);
    }

    #[test]
    fn finals_that_are_later_than_the_record_are_added_and_no_others() {
        let log = log();
        write(&log, vec![totals(0, 4000, 7, reset())]);
        let resets = Resets {
            number: 1,
            until_ms: 2000,
        };
        let mut known = KnownTotals::read("totals", &log, 2, resets).unwrap();
        // Of a time that was given up, and already in the record.
        known.add(0, 0, false, closed(8000, 100));
        known.add(0, 1, false, closed(2000, 100));
        known.add(0, 1, false, closed(4000, 100));
        // The partition with the older one is read last.
        known.add(0, 1, false, closed(8000, 20));
        known.add(1, 1, false, closed(6000, 3));
        let [room] = known.into_restored(u64::MAX, 0).try_into().unwrap();
        let change = room.change.unwrap();
        let order = |start_ms| ResultOrder {
            resets: 1,
            start_ms,
        };
        let window = |start| Window {
            start,
            end: start + 2000,
        };
        assert_eq!(
            (change.first, change.since_ms, change.last),
            (order(6000), 6000, window(8000))
        );
        assert_eq!(room.counts.iter().map(|it| it.1).sum::<u64>(), 30);
    }

    /// A build that knows it wrote them; this one has written no record of the room since.
    #[test]
    fn emojis_that_this_build_does_not_know_are_added_too() {
        let log = log();
        let mut record = totals(0, 2000, 7, vec![]);
        let json = std::str::from_utf8(&record.value).unwrap();
        record.value = json.replace("🔥", "新").into();
        write(&log, vec![record]);
        let mut known = KnownTotals::read("totals", &log, 2, Resets::default()).unwrap();
        let window = r#"{"room":"a","start":4000,"end":6000,"total":9,"counts":[{"emoji":"年","count":5,"swarms":0,"loose":5},{"emoji":"新","count":3,"swarms":0,"loose":3},{"emoji":"🔥","count":1,"swarms":0,"loose":1}]}"#;
        known.add(0, 0, false, serde_json::from_str(window).unwrap());
        let [restored] = known.into_restored(u64::MAX, 0).try_into().unwrap();
        let unnamed = restored.unnamed.iter().map(|it| (&*it.emoji, it.count));
        assert_eq!(unnamed.collect::<Vec<_>>(), [("新", 10), ("年", 5)]);
        assert_eq!(restored.counts.iter().map(|it| it.1).sum::<u64>(), 1);
    }

    #[test]
    fn after_a_backward_reset_no_record_waits_for_the_time_that_was_given_up() {
        let log = log();
        let resets = Resets {
            number: 1,
            until_ms: 2000,
        };
        let mut known = KnownTotals::read("totals", &log, 2, resets).unwrap();
        known.add(0, 0, false, closed(8000, 5));
        let restored = known.into_restored(u64::MAX, 0);
        let change = restored[0].change.unwrap();
        assert_eq!((change.first.start_ms, change.since_ms), (8000, 2000));
    }

    #[test]
    fn after_a_backward_reset_a_final_of_the_time_that_was_given_up_keeps_no_room_longer() {
        let log = log();
        let resets = Resets {
            number: 1,
            until_ms: 2000,
        };
        let last_ms = |number| {
            let mut known = KnownTotals::read("totals", &log, 2, resets).unwrap();
            known.add(0, number, false, closed(8000, 5));
            known.into_restored(u64::MAX, 0)[0].last_ms
        };
        assert_eq!([0, 1].map(last_ms), [2000, 8000]);
    }
}
