//! Totals and what is trending, as of F, from the topics that hold them.
//!
//! ```text
//!  [totals] to its end ──────────────────────────┐
//!  [windows] from the offsets in progress ───────┼─▶ totals of each room, with what is in no record yet
//!                            │                   ┘
//!                            └─▶ what lies in the span ◀─ [trending] to its end
//! ```
//!
//! A totals record may lie behind its room's finals: see [`crate::due`]. Those that are later than the record, in the
//! order of results, are added to it. So it does no harm to read more finals than are needed.

use std::{
    collections::{BTreeMap, HashSet},
    panic::resume_unwind,
    thread,
};

use differential_dataflow::hashable::Hashable;
use emostream_log::{Log, LogError, Record, read_from, read_to_end};
use emostream_model::{
    Count, Emoji, ResultOrder, Room, TotalsRecord, Trending, TrendingRecord, WindowRecord,
};
use foldhash::HashMap;

use crate::{
    Config, DataflowError,
    due::Change,
    progress::{Progress, Resets},
    recovery::RecoveredTrending,
    results::resets_of,
    slide::Stay,
    totals::RestoredTotals,
};

/// A final's record is written after its window, by clocks that may differ: how much earlier than the
/// window's end its time may be at most. More than the five seconds that reactions may be ahead.
const WRITTEN_EARLY_MS: u64 = 60_000;

/// Returns the totals of each room as of F, and what lies in the trending span.
///
/// The next run may begin at a greater F than the `stored` one, `final_until_ms`, or with another span. What should have
/// left the span by then, and what the topic shows of a room though no final backs it, leaves at its F: so the topic
/// comes right there.
pub fn restore(
    config: &Config,
    log: &dyn Log,
    stored: &Progress,
    final_until_ms: u64,
) -> Result<(Vec<RestoredTotals>, RecoveredTrending), DataflowError> {
    let topics = &config.topics;
    let totals = KnownTotals::read(&topics.totals(), log, config.workers, stored.resets);
    let mut totals = totals.map_err(DataflowError::Start)?;
    let is_unwritten = stored.unwritten.since.is_some();
    let mut stays = Vec::new();
    let mut keep = |record: Record<'_>| {
        if let Ok(closed) = serde_json::from_slice::<WindowRecord>(record.value) {
            let resets = resets_of(&record);
            stays.extend(stay(config, stored, final_until_ms, resets, &closed));
            if is_unwritten {
                totals.add(resets, closed);
            }
        }
    };
    let from = finals_from(config, log, stored).map_err(DataflowError::Start)?;
    read_from(log, &topics.windows(), &from, &mut keep).map_err(DataflowError::Start)?;
    let backed: HashSet<Room> = stays.iter().map(|stay| stay.room.clone()).collect();
    for shown in shown(&topics.trending(), log).map_err(DataflowError::Start)? {
        if shown.span_ms != config.span().span_ms || !backed.contains(&shown.room) {
            stays.push(Stay {
                room: shown.room,
                from_ms: 0,
                until_ms: final_until_ms,
                counts: shown.top.iter().map(|c| (c.emoji, c.count)).collect(),
            });
        }
    }
    Ok((totals.into_restored(), stays))
}

/// From where each partition of the windows is read; those of which nothing is needed are left out.
fn finals_from(
    config: &Config,
    log: &dyn Log,
    stored: &Progress,
) -> Result<Vec<(u32, u64)>, LogError> {
    let (topic, span_ms) = (config.topics.windows(), config.span().span_ms);
    let known = stored.unwritten.finals.as_ref();
    let oldest = stored.resets.oldest_in_span(stored.final_until_ms, span_ms);
    let of_trending = known.filter(|finals| finals.since <= oldest);
    let since_ms = stored
        .final_until_ms
        .saturating_sub(span_ms + WRITTEN_EARLY_MS);
    let mut from = Vec::new();
    for partition in 0..log.partitions(&topic)? {
        let kept = log.offsets(&topic, partition)?;
        let trending = match of_trending {
            Some(finals) => finals.offset(partition),
            None => log.offset_at(&topic, partition, since_ms)?,
        };
        let totals = match stored.unwritten.since {
            Some(_) => known.map_or(kept.start, |finals| finals.offset(partition)),
            None => kept.end,
        };
        let needed = trending.min(totals);
        // Beyond the end are the offsets of a topic that was recreated.
        let start = match needed > kept.end {
            true => kept.start,
            false => needed.max(kept.start),
        };
        if start < kept.end {
            from.push((partition, start));
        }
    }
    Ok(from)
}

/// How long the counts of a final stay in the trending span, if the stored F has not seen them leave.
///
/// Finals of a time that was given up by a reset are in no span.
fn stay(
    config: &Config,
    stored: &Progress,
    final_until_ms: u64,
    number: u64,
    closed: &WindowRecord,
) -> Option<Stay> {
    let resets = stored.resets;
    let leaves_ms = config.span().leaves_ms(closed.window.start);
    let given_up = closed.window.end > resets.until_ms && number < resets.number;
    (leaves_ms >= stored.final_until_ms && !given_up).then(|| Stay {
        room: closed.room.clone(),
        from_ms: 0,
        until_ms: leaves_ms.max(final_until_ms),
        counts: closed.counts.iter().map(|t| (t.emoji, t.count)).collect(),
    })
}

/// The rooms that the topic shows as trending.
fn shown(topic: &str, log: &dyn Log) -> Result<Vec<TrendingRecord>, LogError> {
    let mut rooms: BTreeMap<Room, TrendingRecord> = BTreeMap::new();
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

/// Deals restored totals out to the `workers` of a process: each room to the worker that will have it, if these are all.
pub fn deal(totals: Vec<RestoredTotals>, workers: usize) -> Vec<Vec<RestoredTotals>> {
    let mut dealt: Vec<Vec<RestoredTotals>> = (0..workers.max(1)).map(|_| Vec::new()).collect();
    let to = |totals: &RestoredTotals| totals.room.hashed() % dealt.len() as u64;
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
    counts: Vec<Count>,
    /// Of finals that are later than the record.
    added: BTreeMap<Emoji, u64>,
    change: Option<Change>,
}

impl KnownTotals {
    /// Reads the topic with so many threads, if it has as many partitions: of millions of counts, to read the JSON takes
    /// longest.
    fn read(
        topic: &str,
        log: &dyn Log,
        threads: usize,
        resets: Resets,
    ) -> Result<KnownTotals, LogError> {
        let mut from: Vec<(u32, u64)> = Vec::new();
        for partition in 0..log.partitions(topic)? {
            let kept = log.offsets(topic, partition)?;
            if !kept.is_empty() {
                from.push((partition, kept.start));
            }
        }
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
        let mut keep =
            |record: Record<'_>| match serde_json::from_slice::<TotalsRecord>(record.value) {
                Ok(totals) => {
                    let order = Some(ResultOrder::new(resets_of(&record), totals.window));
                    // Not the record that is read last, which may lie in another partition than the later one.
                    if rooms
                        .get(&totals.room)
                        .is_none_or(|known| known.order <= order)
                    {
                        let room = KnownRoom {
                            order,
                            counts: totals.counts,
                            ..KnownRoom::default()
                        };
                        rooms.insert(totals.room, room);
                    }
                }
                Err(_) => unreadable += 1,
            };
        read_from(log, topic, from, &mut keep)?;
        if unreadable > 0 {
            tracing::warn!(topic, unreadable, "records that are no totals were skipped");
        }
        Ok(rooms)
    }

    /// Adds a final, if the record of its room does not hold it.
    fn add(&mut self, number: u64, closed: WindowRecord) {
        let order = ResultOrder::new(number, closed.window);
        let room = self.rooms.entry(closed.room).or_default();
        if room.order >= Some(order) {
            return;
        }
        for tally in &closed.counts {
            *room.added.entry(tally.emoji).or_default() += tally.count;
        }
        // Time was set back since: the record must not wait for the time that was given up to come again.
        let latest_ms = match number < self.resets.number {
            true => self.resets.until_ms,
            false => u64::MAX,
        };
        let own = Change {
            first: order,
            since_ms: order.start_ms.min(latest_ms),
            last: closed.window,
            last_resets: number,
        };
        // Finals of two partitions come in any order.
        room.change = Some(match room.change {
            Some(known) => known.merge(own),
            None => own,
        });
    }

    fn into_restored(self) -> Vec<RestoredTotals> {
        let restored = |(room, known): (Room, KnownRoom)| {
            let mut added = known.added;
            let counts = known.counts.into_iter().map(|count| {
                let more = added.remove(&count.emoji).unwrap_or_default();
                (count.emoji, count.count + more)
            });
            let mut counts: Vec<(Emoji, u64)> = counts.collect();
            counts.extend(added);
            RestoredTotals {
                room,
                counts,
                change: known.change,
            }
        };
        let mut rooms: Vec<RestoredTotals> = self.rooms.into_iter().map(restored).collect();
        // As windows bring them: what is known first is numbered first.
        rooms.sort_unstable_by(|a, b| a.room.cmp(&b.room));
        rooms
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use emostream_log::{Cleanup, Header, NewRecord, TopicSpec, embedded::EmbeddedLog};
    use emostream_model::{RESETS_HEADER, Window};

    use super::*;

    fn log() -> EmbeddedLog {
        let log = EmbeddedLog::in_memory().unwrap();
        log.create_topic(&TopicSpec {
            name: "totals".to_owned(),
            partitions: 2,
            replication: 1,
            min_in_sync: 1,
            cleanup: Cleanup::Compact,
            max_ahead: None,
        })
        .unwrap();
        log
    }

    fn totals(partition: u32, start: u64, count: u64, headers: Vec<Header>) -> NewRecord {
        NewRecord {
            topic: "totals".to_owned(),
            partition: Some(partition),
            time_ms: None,
            key: Some("a".into()),
            value: format!(
                r#"{{"room":"a","start":{start},"end":{},"total":{count},"counts":[{{"emoji":"🔥","count":{count}}}]}}"#,
                start + 2000
            )
            .into(),
            headers,
        }
    }

    fn reset() -> Vec<Header> {
        vec![Header {
            name: RESETS_HEADER.to_owned(),
            value: "1".into(),
        }]
    }

    fn write(log: &EmbeddedLog, records: Vec<NewRecord>) {
        let timeout = std::time::Duration::from_secs(5);
        log.transactor("t", timeout)
            .unwrap()
            .commit(records)
            .unwrap();
    }

    fn counts(known: KnownTotals) -> Vec<u64> {
        let restored = known.into_restored().into_iter();
        restored
            .flat_map(|it| it.counts)
            .map(|(_, count)| count)
            .collect()
    }

    fn closed(start: u64, count: u64) -> WindowRecord {
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
        let known = KnownTotals::read("totals", &log, 2, Resets::default()).unwrap();
        assert_eq!(counts(known), [7]);
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
        known.add(0, closed(8000, 100));
        known.add(1, closed(2000, 100));
        known.add(1, closed(4000, 100));
        // In any order.
        known.add(1, closed(8000, 20));
        known.add(1, closed(6000, 3));
        let change = known.rooms.values().next().unwrap().change.unwrap();
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
        assert_eq!(counts(known), [30]);
    }

    #[test]
    fn after_a_backward_reset_no_record_waits_for_the_time_that_was_given_up() {
        let log = log();
        let resets = Resets {
            number: 1,
            until_ms: 2000,
        };
        let mut known = KnownTotals::read("totals", &log, 2, resets).unwrap();
        known.add(0, closed(8000, 5));
        let restored = known.into_restored();
        let change = restored[0].change.unwrap();
        assert_eq!((change.first.start_ms, change.since_ms), (8000, 2000));
    }
}
