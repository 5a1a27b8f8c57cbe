//! Restores the totals and the sliding spans as of the final-until time, from the topics that contain them.
//!
//! ```text
//!  [totals] to its end ─────────────────────────┐
//!  [finals] from the offsets in progress ───────┼─▶ totals of each key, with the finals that are in no record yet
//!                            │                  ┘
//!                            └─▶ counts in the sliding span ◀─ [tops] to its end
//! ```
//!
//! A totals record may be older than its key's final results: see [`crate::operators::schedule`]. Final results that
//! are later than the record, in the order of results, are added to it; all other final results are ignored. So it does
//! no harm to read more final results than are needed.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    ops::Range,
    panic::resume_unwind,
    thread,
};

use differential_dataflow::hashable::Hashable;
use emostream_log::{Header, Log, LogError, Record, read_from, read_to_end};
use emostream_protocol::{FinalsFrom, LaterFinals, ResultHeaders, ResultOrder, Window};
use foldhash::HashMap;

use crate::{
    StreamsError,
    aggregate::key::{Item, Key},
    config::Config,
    operators::{
        lifetimes,
        schedule::Change,
        sliding::{SlidingContribution, SlidingSpan},
        totals::{RestoredTotals, UnnamedCount},
    },
    progress::record::{Progress, Resets},
};

/// Maximum difference between the clocks of two hosts, milliseconds. The record of a final result is written after the
/// end of its window, but the time of the record may be earlier than that end by this difference. The difference is
/// greater than the limit for the times of records that are ahead of the clock.
const MAX_CLOCK_SKEW_MS: u64 = 60_000;

/// The functions that decode records. When a run starts, it restores its state from these records.
#[derive(Debug)]
pub struct StoredFormat<K, I> {
    /// Returns the key with this text in a record; `None` if the text is not a key.
    pub key: fn(&str) -> Option<K>,
    /// Decodes a final result.
    pub finals: fn(&[u8]) -> Option<StoredCounts<K, I>>,
    /// Decodes a record of the totals.
    pub totals: fn(&[u8]) -> Option<StoredCounts<K, I>>,
    /// Decodes a record of the tops. Returns `None` for the top over all keys.
    pub top: fn(&[u8]) -> Option<StoredTop<K, I>>,
}

impl<K, I> Default for StoredFormat<K, I> {
    /// Returns the functions of an application without tables, which restores nothing.
    fn default() -> StoredFormat<K, I> {
        StoredFormat {
            key: |_| None,
            finals: |_| None,
            totals: |_| None,
            top: |_| None,
        }
    }
}

/// The counts of a key in a final result, or in a record of the totals. Another build may have written the record.
#[derive(Debug)]
pub struct StoredCounts<K, I> {
    /// The key.
    pub key: K,
    /// The window of the final result, or the last window that changed the totals.
    pub window: Window,
    /// The counts of the items.
    pub counts: Vec<(I, u64)>,
    /// The counts of items that this build cannot name.
    pub unnamed: Vec<UnnamedCount>,
}

/// The top of a key in a record of the tops.
#[derive(Debug)]
pub struct StoredTop<K, I> {
    /// The key.
    pub key: K,
    /// The length of the span, milliseconds.
    pub span_ms: u64,
    /// The top items; empty once the span contains no counts of the key.
    pub items: Vec<(I, u64)>,
}

/// The restored state of the workers of a process.
pub struct Restored<K, I> {
    /// The state of each worker.
    pub workers: Vec<RestoredTables<K, I>>,
    /// The end offset of each partition of the topic of final results.
    pub final_ends: Vec<(u32, u64)>,
}

/// The restored tables of a worker, as of the final-until time.
#[derive(Debug)]
pub struct RestoredTables<K, I> {
    /// The totals of the worker's share of the keys.
    pub totals: Vec<RestoredTotals<K, I>>,
    /// The counts in the sliding span, with the time 0. The first worker has all of them; they are exchanged by key
    /// later.
    pub sliding: Vec<SlidingContribution<K, I>>,
}

impl<K, I> Default for RestoredTables<K, I> {
    fn default() -> RestoredTables<K, I> {
        RestoredTables {
            totals: Vec::new(),
            sliding: Vec::new(),
        }
    }
}

/// Restores the state as of `stored`, the progress in the log. Every older run must be fenced.
///
/// The run may begin at `final_until_ms`, a final-until time that is greater than the stored one, or with a span of
/// another length. Then the topic of tops may contain counts that should have left the span, or counts of a key without
/// final results in the span. These counts are restored so that they leave the span at `final_until_ms`, which then
/// corrects the topic.
///
/// # Errors
///
/// If the log cannot be read.
pub fn restore<K: Key, I: Item>(
    config: &Config,
    format: &StoredFormat<K, I>,
    log: &dyn Log,
    stored: &Progress,
    final_until_ms: u64,
) -> Result<Restored<K, I>, StreamsError> {
    read(config, format, log, stored, final_until_ms).map_err(StreamsError::Start)
}

fn read<K: Key, I: Item>(
    config: &Config,
    format: &StoredFormat<K, I>,
    log: &dyn Log,
    stored: &Progress,
    final_until_ms: u64,
) -> Result<Restored<K, I>, LogError> {
    let (topics, span) = (&config.topics, config.span());
    let mut totals = match &topics.totals {
        Some(topic) => KnownTotals::read(topic, format, log, config.run.workers, stored.resets)?,
        None => KnownTotals::new(stored.resets),
    };
    let is_unwritten = stored.unwritten.since.is_some();
    let mut contributions = Vec::new();
    let mut keep = |record: Record<'_>| {
        if let Some(closed) = (format.finals)(record.value) {
            let headers = headers_of(&record);
            let resets = headers.resets;
            contributions.extend(contribution(span, stored, final_until_ms, resets, &closed));
            if is_unwritten {
                totals.add(record.partition, resets, headers.totals_begin, closed);
            }
        }
    };
    let kept = log.offsets(&topics.finals)?;
    if topics.totals.is_some() || topics.tops.is_some() {
        let from = finals_from(log, &topics.finals, span.span_ms, stored, &kept)?;
        read_from(log, &topics.finals, &from, &mut keep)?;
    }
    let backed: HashSet<K> = contributions.iter().map(|it| it.key.clone()).collect();
    let tops = topics.tops.as_ref();
    let shown = tops.map(|topic| shown(topic, format, log));
    for shown in shown.transpose()?.into_iter().flatten() {
        if shown.span_ms != span.span_ms || !backed.contains::<K>(&shown.key) {
            contributions.push(SlidingContribution {
                key: shown.key,
                from_ms: 0,
                until_ms: span.size.window_of(final_until_ms).last_ms(),
                counts: shown.items.into(),
            });
        }
    }
    let first = span.size.window_of(final_until_ms);
    let leaving = contributions
        .iter()
        .filter(|it| it.until_ms == first.last_ms());
    let leaving: HashSet<K> = leaving.map(|it| it.key.clone()).collect();
    let mut totals = totals.into_restored(config.retention_ms, stored.final_until_ms);
    for totals in &mut totals {
        if leaving.contains::<K>(&totals.key) {
            totals.kept_until_ms = first.start;
        }
    }
    let mut workers: Vec<_> = split(totals, config.run.workers)
        .into_iter()
        .map(|totals| RestoredTables {
            totals,
            sliding: Vec::new(),
        })
        .collect();
    // The counts are exchanged by key later.
    workers[0].sliding = contributions;
    Ok(Restored {
        workers,
        final_ends: (0..).zip(kept.iter().map(|kept| kept.end)).collect(),
    })
}

/// Returns the offset from which each partition of the final results is read. `kept` are the offsets that the
/// partitions contain. Partitions from which no final results are needed are omitted.
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
            // The topic was recreated since the offset was stored, so the partition is read from its start.
            offset if offset > kept.end => kept.start,
            offset => offset,
        };
        (0..).zip(kept).map(from).collect()
    };
    let oldest = stored.resets.oldest_in_span(stored.final_until_ms, span_ms);
    let of_span = match known.filter(|finals| finals.since <= oldest) {
        Some(finals) => known_from(finals),
        None => {
            let until_ms = stored.final_until_ms;
            log.offsets_at(
                topic,
                until_ms.saturating_sub(span_ms.saturating_add(MAX_CLOCK_SKEW_MS)),
            )?
        }
    };
    let of_totals: Vec<u64> = match (stored.unwritten.since, known) {
        (Some(_), Some(finals)) => known_from(finals),
        (Some(_), None) => kept.iter().map(|kept| kept.start).collect(),
        (None, _) => kept.iter().map(|kept| kept.end).collect(),
    };
    let needed = of_span.into_iter().zip(of_totals);
    let from = (0..).zip(kept).zip(needed);
    let start = |((partition, kept), (span, totals)): ((u32, &Range<u64>), (u64, u64))| {
        let start = span.min(totals).max(kept.start);
        (start < kept.end).then_some((partition, start))
    };
    Ok(from.filter_map(start).collect())
}

/// Returns the counts of a final result with the time until which they stay in the sliding span; `None` if they have
/// left the span before the stored final-until time.
///
/// Final results of windows that a backward reset has discarded are in no span.
fn contribution<K: Key, I: Item>(
    span: SlidingSpan,
    stored: &Progress,
    final_until_ms: u64,
    number: u64,
    closed: &StoredCounts<K, I>,
) -> Option<SlidingContribution<K, I>> {
    let resets = stored.resets;
    let expires_ms = span.expires(closed.window).start;
    let given_up = closed.window.end > resets.until_ms && number < resets.number;
    (expires_ms >= stored.final_until_ms && !given_up).then(|| {
        let expires = span.size.window_of(expires_ms.max(final_until_ms));
        SlidingContribution {
            key: closed.key.clone(),
            from_ms: 0,
            until_ms: expires.last_ms(),
            counts: closed.counts[..].into(),
        }
    })
}

/// Returns the newest top of each key in the topic, without empty tops.
fn shown<K: Key, I: Item>(
    topic: &str,
    format: &StoredFormat<K, I>,
    log: &dyn Log,
) -> Result<Vec<StoredTop<K, I>>, LogError> {
    let mut tops = BTreeMap::new();
    // Tombstones are skipped here: before its tombstone, a removed key has a record with an empty top.
    let mut keep = |record: Record<'_>| {
        if let Some(top) = (format.top)(record.value) {
            match top.items.is_empty() {
                true => tops.remove::<K>(&top.key),
                false => tops.insert(top.key.clone(), top),
            };
        }
    };
    read_to_end(log, topic, &mut keep)?;
    Ok(tops.into_values().collect())
}

/// Splits restored totals between the `workers` of a process. If there is no other process, each key is assigned to the
/// worker that owns it.
fn split<K: Key, I: Item>(
    totals: Vec<RestoredTotals<K, I>>,
    workers: usize,
) -> Vec<Vec<RestoredTotals<K, I>>> {
    let mut parts: Vec<Vec<_>> = (0..workers.max(1)).map(|_| Vec::new()).collect();
    for totals in totals {
        let worker = totals.key.hashed() % parts.len() as u64;
        parts[worker as usize].push(totals);
    }
    parts
}

/// The totals of all keys while they are read.
struct KnownTotals<K, I> {
    resets: Resets,
    keys: HashMap<K, KnownKey<I>>,
}

struct KnownKey<I> {
    /// The order of the key's newest record; `None` if the key has no record.
    order: Option<ResultOrder>,
    /// Whether the newest record of the key removes the key. If so, the key has totals only if there are later final
    /// results.
    is_removed: bool,
    counts: Vec<(I, u64)>,
    unnamed: Vec<UnnamedCount>,
    later: LaterFinals<Later<I>>,
    /// The order of the key's last final result.
    last: ResultOrder,
}

impl<I> Default for KnownKey<I> {
    fn default() -> KnownKey<I> {
        KnownKey {
            order: None,
            is_removed: false,
            counts: Vec::new(),
            unnamed: Vec::new(),
            later: LaterFinals::default(),
            last: ResultOrder::default(),
        }
    }
}

/// The counts of final results that are later than the record of their key.
struct Later<I> {
    counts: BTreeMap<I, u64>,
    /// The counts of items that this build cannot name.
    unnamed: BTreeMap<Box<str>, u64>,
    change: Option<Change>,
}

impl<I> Default for Later<I> {
    fn default() -> Later<I> {
        Later {
            counts: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            change: None,
        }
    }
}

impl<I: Item> Later<I> {
    fn new(counts: Vec<(I, u64)>, unnamed: Vec<UnnamedCount>, change: Option<Change>) -> Later<I> {
        let unnamed = unnamed.into_iter();
        Later {
            counts: counts.into_iter().collect(),
            unnamed: unnamed.map(|it| (it.name, it.count)).collect(),
            change,
        }
    }

    fn merge(&mut self, more: Later<I>) {
        for (item, more) in more.counts {
            *self.counts.entry(item).or_default() += more;
        }
        for (name, more) in more.unnamed {
            let count = self.unnamed.entry(name).or_default();
            // The sum saturates, since any program may have written the count.
            *count = count.saturating_add(more);
        }
        self.change = match (self.change, more.change) {
            (Some(known), Some(more)) => Some(known.merge(more)),
            (known, more) => known.or(more),
        };
    }
}

impl<K: Key, I: Item> KnownTotals<K, I> {
    fn new(resets: Resets) -> KnownTotals<K, I> {
        KnownTotals {
            resets,
            keys: HashMap::default(),
        }
    }

    /// Reads the topic with up to `threads` threads, which share its partitions, since parsing the JSON of millions of
    /// counts takes most of the time.
    fn read(
        topic: &str,
        format: &StoredFormat<K, I>,
        log: &dyn Log,
        threads: usize,
        resets: Resets,
    ) -> Result<KnownTotals<K, I>, LogError> {
        let kept = (0..).zip(log.offsets(topic)?);
        let kept = kept.filter(|(_, kept)| !kept.is_empty());
        let from: Vec<(u32, u64)> = kept
            .map(|(partition, kept)| (partition, kept.start))
            .collect();
        let share = from.len().div_ceil(threads.max(1)).max(1);
        let parts: Vec<&[(u32, u64)]> = from.chunks(share).collect();
        let read = |part: &[(u32, u64)]| KnownTotals::read_part(topic, format, log, part);
        let parts = match parts[..] {
            [] => Vec::new(),
            // A single part needs no further thread. A simulation depends on that, since it runs one thread at a time.
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
        let mut all = KnownTotals::new(resets);
        for part in parts {
            for (key, read) in part {
                // If partitions were added to the topic, a key may have records in two partitions. The later record is
                // valid.
                let known = all.keys.get::<K>(&key);
                if known.is_none_or(|known| known.order <= read.order) {
                    all.keys.insert(key, read);
                }
            }
        }
        Ok(all)
    }

    fn read_part(
        topic: &str,
        format: &StoredFormat<K, I>,
        log: &dyn Log,
        from: &[(u32, u64)],
    ) -> Result<HashMap<K, KnownKey<I>>, LogError> {
        let mut keys: HashMap<K, KnownKey<I>> = HashMap::default();
        let mut unreadable = 0_u64;
        let mut keep = |record: Record<'_>| {
            let headers = headers_of(&record);
            let text = record.key.and_then(|key| std::str::from_utf8(key).ok());
            let removal = text.and_then(format.key).zip(headers.removed_before());
            let (key, read) = match (removal, record.value) {
                (Some((key, before)), []) => {
                    let removed = KnownKey {
                        // The removal does not include the final results of its own window.
                        order: Some(before.just_before()),
                        is_removed: true,
                        ..KnownKey::default()
                    };
                    (key, removed)
                }
                (None, []) => return,
                (_, value) => match (format.totals)(value) {
                    Some(totals) => {
                        let order = headers.order(totals.window);
                        let read = KnownKey {
                            order: Some(order),
                            counts: totals.counts,
                            unnamed: totals.unnamed,
                            last: order,
                            ..KnownKey::default()
                        };
                        (totals.key, read)
                    }
                    None => {
                        unreadable += 1;
                        return;
                    }
                },
            };
            // The later record is valid, not the one that is read last, since they may be in different partitions.
            let known = keys.get::<K>(&key);
            if known.is_none_or(|known| known.order <= read.order) {
                keys.insert(key, read);
            }
        };
        read_from(log, topic, from, &mut keep)?;
        if unreadable > 0 {
            tracing::warn!(
                topic,
                unreadable,
                "skipped records that cannot be read as totals"
            );
        }
        Ok(keys)
    }

    /// Adds a final result that the record of its key does not contain yet; ignores any other final result. If
    /// `begins`, the totals begin at 0 with this final result.
    fn add(&mut self, partition: u32, number: u64, begins: bool, closed: StoredCounts<K, I>) {
        let order = ResultOrder::new(number, closed.window);
        let key = self.keys.entry(closed.key).or_default();
        if key.order >= Some(order) {
            return;
        }
        key.last = key.last.max(order);
        // If a reset has set the final-until time back since this final result, the record of the key must not wait
        // until event time reaches the window of the final result again.
        let latest_ms = match number < self.resets.number {
            true => self.resets.until_ms,
            false => u64::MAX,
        };
        let change = Change {
            first: order,
            since_ms: order.start_ms.min(latest_ms),
            last: closed.window,
            last_resets: number,
        };
        let more = Later::new(closed.counts, closed.unnamed, Some(change));
        key.later.counts(partition, order, begins).merge(more);
    }

    /// Returns the totals as of `final_until_ms`. For a key whose totals have expired, returns only the time of its
    /// last final result.
    fn into_restored(self, retention_ms: u64, final_until_ms: u64) -> Vec<RestoredTotals<K, I>> {
        let resets = self.resets;
        let restored = |(key, known): (K, KnownKey<I>)| {
            // A final result of a window that a reset has discarded must not delay the removal of the key until event
            // time reaches that window again.
            let last_ms = match known.last.resets < resets.number {
                true => known.last.start_ms.min(resets.until_ms),
                false => known.last.start_ms,
            };
            let nothing = RestoredTotals {
                key,
                counts: Vec::new(),
                unnamed: Vec::new(),
                change: None,
                last_ms,
                kept_until_ms: 0,
            };
            if lifetimes::exceeds_retention(last_ms, final_until_ms, retention_ms) {
                return nothing;
            }
            if known.later.is_empty() {
                // No later final results have to be added, so the counts are sorted already. Without this case, the
                // start of a run would sort millions of counts again.
                return RestoredTotals {
                    counts: known.counts,
                    unnamed: known.unnamed,
                    ..nothing
                };
            }
            let of_record = Later::new(known.counts, known.unnamed, None);
            let all = known.later.fold(of_record, Later::merge);
            let unnamed = all.unnamed.into_iter();
            let mut unnamed: Vec<UnnamedCount> = unnamed
                .map(|(name, count)| UnnamedCount { name, count })
                .collect();
            // The sort is stable, so equal counts stay in the order of their names.
            unnamed.sort_by_key(|it| Reverse(it.count));
            RestoredTotals {
                counts: all.counts.into_iter().collect(),
                unnamed,
                change: all.change,
                ..nothing
            }
        };
        let keys = self.keys.into_iter();
        let keys = keys.filter(|(_, known)| !known.is_removed || !known.later.is_empty());
        let mut totals: Vec<_> = keys.map(restored).collect();
        // The operators number the keys in the order of this list. Final results arrive in the order of their keys,
        // too, so sorting them by the numbers of their keys is fast.
        totals.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        totals
    }
}

/// Parses the headers of a result.
fn headers_of(record: &Record<'_>) -> ResultHeaders {
    ResultHeaders::parse(record.headers.read().iter().map(Header::pair))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use emostream_log::{
        Cleanup, Header, NewRecord,
        embedded::EmbeddedLog,
        testing::{KEEP, header, keyed, topic},
    };
    use emostream_protocol::{REMOVED_HEADER, RESETS_HEADER, Unwritten, WindowSize};

    use super::*;

    /// Records such as `{"key":"a","start":0,"end":2000,"counts":{"1":5}}`. Items are numbers; this build cannot name
    /// other texts.
    #[derive(serde::Deserialize)]
    struct TestRecord {
        key: String,
        #[serde(flatten)]
        window: Window,
        counts: BTreeMap<String, u64>,
    }

    fn decode(value: &[u8]) -> Option<StoredCounts<String, u16>> {
        let record: TestRecord = serde_json::from_slice(value).ok()?;
        let (mut counts, mut unnamed) = (Vec::new(), Vec::new());
        for (name, count) in record.counts {
            match name.parse() {
                Ok(item) => counts.push((item, count)),
                Err(_) => unnamed.push(UnnamedCount {
                    name: name.into(),
                    count,
                }),
            }
        }
        Some(StoredCounts {
            key: record.key,
            window: record.window,
            counts,
            unnamed,
        })
    }

    fn format() -> StoredFormat<String, u16> {
        StoredFormat {
            key: |text| Some(text.to_owned()),
            finals: decode,
            totals: decode,
            ..StoredFormat::default()
        }
    }

    type Known = KnownTotals<String, u16>;

    fn known(log: &dyn Log, threads: usize, resets: Resets) -> Known {
        Known::read("totals", &format(), log, threads, resets).unwrap()
    }

    fn json(start: u64, counts: &str) -> String {
        let end = start + 2000;
        format!(r#"{{"key":"a","start":{start},"end":{end},"counts":{{{counts}}}}}"#)
    }

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
        NewRecord {
            partition: Some(partition),
            headers,
            ..keyed("totals", "a", json(start, &format!(r#""1":{count}"#)))
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

    fn counts(known: Known) -> Vec<u64> {
        let restored = known.into_restored(u64::MAX, 0).into_iter();
        restored
            .flat_map(|it| it.counts)
            .map(|(_, count)| count)
            .collect()
    }

    fn closed(start: u64, count: u64) -> StoredCounts<String, u16> {
        decode(json(start, &format!(r#""1":{count}"#)).as_bytes()).unwrap()
    }

    #[test]
    fn totals_after_a_backward_reset_win_over_those_of_a_later_window() {
        let log = log();
        // The valid record is in the partition that is read first.
        let records = vec![totals(0, 2000, 7, reset()), totals(1, 8000, 5, vec![])];
        write(&log, records);
        // One thread reads both partitions, or each of two threads reads one.
        for threads in [1, 2] {
            let known = known(&log, threads, Resets::default());
            assert_eq!(counts(known), [7]);
        }
    }

    /// One of the final results after the record begins the totals at 0. It is in another partition, which is read
    /// first.
    #[test]
    fn totals_begin_at_0_with_a_marked_final_and_expired_totals_are_left_out() {
        let log = log();
        write(&log, vec![totals(0, 2000, 7, vec![])]);
        let restored = |final_until_ms| {
            let mut known = known(&log, 2, Resets::default());
            known.add(1, 0, true, closed(20_000, 3));
            known.add(1, 0, false, closed(22_000, 2));
            known.add(0, 0, false, closed(4000, 1));
            let restored = known.into_restored(10_000, final_until_ms);
            let [key] = restored.try_into().unwrap();
            let first_ms = key.change.map(|change| change.first.start_ms);
            (
                key.last_ms,
                key.counts.iter().map(|it| it.1).sum::<u64>(),
                first_ms,
            )
        };
        assert_eq!(restored(32_000), (22_000, 5, Some(20_000)));
        // The totals have expired, so they are not restored.
        assert_eq!(restored(34_000), (22_000, 0, None));
    }

    /// Kafka compacts a topic hours later. Until then the topic contains both the record and the removal.
    #[test]
    fn a_removed_key_is_not_restored_also_with_a_longer_retention() {
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
        let read = || known(&log, 2, Resets::default());
        assert_eq!(read().into_restored(u64::MAX, 30_000), []);
        // The key has new final results after its removal.
        let mut known = read();
        known.add(0, 0, false, closed(18_000, 9));
        known.add(0, 0, true, closed(20_000, 3));
        assert_eq!(counts(known), [3]);
    }

    #[test]
    fn finals_are_read_from_the_offset_that_the_totals_or_the_span_need() {
        let log = log();
        // The records have times that are too early to be found by a search for the time.
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
        // In the first case the offsets are old enough for the span; in the other cases they are old enough only for
        // the totals.
        assert_eq!(from(None, Some((994_000, 2))), [(0, 2), (1, 4)]);
        assert_eq!(from(None, Some((996_000, 2))), []);
        assert_eq!(from(Some(996_000), Some((996_000, 2))), [(0, 2), (1, 4)]);
        // The topic was recreated, so its partition is read from the beginning.
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
        let mut known = known(&log, 2, resets);
        // None of these final results is added: the first is of a window that the reset has discarded, and the totals
        // record contains the others.
        known.add(0, 0, false, closed(8000, 100));
        known.add(0, 1, false, closed(2000, 100));
        known.add(0, 1, false, closed(4000, 100));
        // The partition with the older final result is read last.
        known.add(0, 1, false, closed(8000, 20));
        known.add(1, 1, false, closed(6000, 3));
        let [key] = known.into_restored(u64::MAX, 0).try_into().unwrap();
        let change = key.change.unwrap();
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
        assert_eq!(key.counts.iter().map(|it| it.1).sum::<u64>(), 30);
    }

    /// Another build, which knows these items, wrote the final results. This build has written no record of the key
    /// since.
    #[test]
    fn items_that_this_build_cannot_name_are_added_too() {
        let log = log();
        let record = NewRecord {
            value: json(2000, r#""new":7"#).into(),
            ..totals(0, 0, 0, vec![])
        };
        write(&log, vec![record]);
        let mut known = known(&log, 2, Resets::default());
        let window = json(4000, r#""1":1,"new":3,"year":5"#);
        known.add(0, 0, false, decode(window.as_bytes()).unwrap());
        let [restored] = known.into_restored(u64::MAX, 0).try_into().unwrap();
        let unnamed = restored.unnamed.iter().map(|it| (&*it.name, it.count));
        assert_eq!(unnamed.collect::<Vec<_>>(), [("new", 10), ("year", 5)]);
        assert_eq!(restored.counts.iter().map(|it| it.1).sum::<u64>(), 1);
    }

    #[test]
    fn after_a_backward_reset_no_record_waits_for_the_discarded_time() {
        let log = log();
        let resets = Resets {
            number: 1,
            until_ms: 2000,
        };
        let mut known = known(&log, 2, resets);
        known.add(0, 0, false, closed(8000, 5));
        let restored = known.into_restored(u64::MAX, 0);
        let change = restored[0].change.unwrap();
        assert_eq!((change.first.start_ms, change.since_ms), (8000, 2000));
    }

    #[test]
    fn after_a_backward_reset_a_final_of_the_discarded_time_does_not_delay_a_removal() {
        let log = log();
        let resets = Resets {
            number: 1,
            until_ms: 2000,
        };
        let last_ms = |number| {
            let mut known = known(&log, 2, resets);
            known.add(0, number, false, closed(8000, 5));
            known.into_restored(u64::MAX, 0)[0].last_ms
        };
        assert_eq!([0, 1].map(last_ms), [2000, 8000]);
    }

    #[test]
    fn finals_of_the_time_that_a_reset_has_discarded_are_in_no_span() {
        let span = SlidingSpan {
            size: WindowSize::from_ms(2000).unwrap(),
            span_ms: 6000,
        };
        let stored = Progress {
            final_until_ms: 4000,
            resets: Resets {
                number: 1,
                until_ms: 4000,
            },
            ..Progress::default()
        };
        let is_in_span = |number, start_ms| {
            contribution(span, &stored, 4000, number, &closed(start_ms, 1)).is_some()
        };
        let windows = [2000, 4000];
        assert_eq!(
            windows.map(|start_ms| is_in_span(0, start_ms)),
            [true, false]
        );
        assert_eq!(
            windows.map(|start_ms| is_in_span(1, start_ms)),
            [true, true]
        );
    }
}
