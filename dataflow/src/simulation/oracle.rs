//! The expected output, computed from the appended reactions alone, and the actual output of the simulated runs.
//!
//! The oracle does not use the rules of the dataflow. It reads each partition once, from the beginning, and remembers
//! only the greatest time, from which it decides whether a reaction is late.

use std::collections::{BTreeMap, BTreeSet};

use emostream_log::NewRecord;
use emostream_model::{
    Batch, REMOVED_HEADER, ReactionRef, TOTALS_BEGIN_HEADER, Topics, TotalsRecord, Trending,
    WindowRecord,
};
use emostream_streams::operators::schedule;

use super::{LATENESS_MS, SPAN_MS, SWARM, TOP, WINDOW_MS, producers::UNKNOWN_EMOJI};
use crate::{Progress, TotalsPace};

/// Numbers of reactions, by (window start, room, emoji).
pub type Counts = BTreeMap<(u64, String, String), u64>;

/// For each room, the start of each window that changed its totals, and the totals after that window.
type Totals = BTreeMap<String, Vec<(u64, BTreeMap<String, u64>)>>;

/// The partition and the offset of a record.
pub type Position = (u32, u64);

/// The settings on which the expected totals depend.
#[derive(Clone, Copy)]
pub struct TotalsChecked {
    /// The settings that determine how often totals records are written.
    pub pace: TotalsPace,
    /// Time without a final after which totals begin at 0.
    pub retention_ms: u64,
}

/// The contents of a record, as the producer knows them.
pub enum Produced {
    /// A batch, or a plain reaction.
    Reactions {
        /// The reactions.
        reactions: Vec<ReactionRef<'static>>,
        /// The greatest time in the record, including its base time.
        newest_ms: u64,
    },
    /// A record that is rejected as a whole, and the reason.
    Junk(&'static str),
}

/// The expected output for the records that were appended.
#[derive(Default)]
pub struct Oracle {
    /// All reactions that can be decoded.
    appended: Counts,
    /// For each record, the reactions that are late for the watermark of the record's own partition.
    late: BTreeMap<Position, Counts>,
    /// The reason of each record that is rejected as a whole.
    junk: BTreeMap<Position, &'static str>,
    newest_ms: BTreeMap<u32, u64>,
    /// For each partition, the offset of the last record that is not a heartbeat.
    last: BTreeMap<u32, u64>,
}

impl Oracle {
    /// Adds a record that was appended with the timestamp `time_ms`.
    pub fn append(&mut self, position: Position, time_ms: u64, produced: &Produced) {
        let newest = self.newest_ms.entry(position.0).or_default();
        if !matches!(produced, Produced::Reactions { reactions, .. } if reactions.is_empty()) {
            self.last.insert(position.0, position.1);
        }
        match produced {
            Produced::Junk(reason) => {
                self.junk.insert(position, reason);
                *newest = time_ms.max(*newest);
            }
            Produced::Reactions {
                reactions,
                newest_ms,
            } => {
                let watermark_ms = newest.saturating_sub(LATENESS_MS);
                for reaction in reactions {
                    let key = key(reaction);
                    if key.0 + WINDOW_MS <= watermark_ms {
                        let late = self.late.entry(position).or_default();
                        *late.entry(key.clone()).or_default() += 1;
                    }
                    *self.appended.entry(key).or_default() += 1;
                }
                *newest = (*newest_ms).max(*newest);
            }
        }
    }

    /// Whether all expected results must be in `output`: every window is final, and every record was read.
    pub fn is_written(&self, output: &Output) -> bool {
        let Some(progress) = &output.progress else {
            return self.last.is_empty();
        };
        let end_ms = self.appended.last_key_value();
        let end_ms = end_ms.map_or(0, |((start_ms, ..), _)| start_ms + WINDOW_MS);
        let read = |(partition, last): (&u32, &u64)| {
            let known = progress
                .partitions
                .iter()
                .find(|it| it.partition == *partition);
            known.is_some_and(|it| it.read_offset > *last)
        };
        progress.final_until_ms >= end_ms && self.last.iter().all(read)
    }
}

fn key(reaction: &ReactionRef<'_>) -> (u64, String, String) {
    let start_ms = reaction.at_ms - reaction.at_ms % WINDOW_MS;
    (
        start_ms,
        reaction.room.to_owned(),
        reaction.emoji.to_owned(),
    )
}

fn header<'a>(record: &'a NewRecord, name: &str) -> Option<&'a str> {
    let header = record.headers.iter().find(|it| it.name == name)?;
    Some(str::from_utf8(&header.value).unwrap())
}

/// Returns the window start, the room and the emoji of each reaction in a rejected record, which is a batch or plain
/// JSON.
fn reactions_of(record: &NewRecord) -> Vec<(u64, String, String)> {
    if let Ok(batch) = Batch::decode(&record.value) {
        return batch.reactions().unwrap().iter().map(key).collect();
    }
    let plain: serde_json::Value = serde_json::from_slice(&record.value).unwrap();
    let plain = ReactionRef {
        user: "u",
        emoji: plain["emoji_type"].as_str().unwrap(),
        room: plain["room"].as_str().unwrap(),
        at_ms: record.time_ms.unwrap(),
    };
    vec![key(&plain)]
}

/// The contents of the output topics after the last transaction.
#[derive(Default)]
pub struct Output {
    /// The newest progress.
    pub progress: Option<Progress>,
    finals: Counts,
    closed: BTreeSet<(u64, String)>,
    late: BTreeMap<Position, Counts>,
    /// The rejected reactions with an unknown emoji, by the position of their record and the start of their window.
    /// Each entry is one rejected record.
    unknown: BTreeMap<(Position, u64), Counts>,
    junk: BTreeMap<Position, String>,
    totals: Totals,
    trending: BTreeMap<String, Vec<Shown>>,
    /// The start of the window and the room of each final with which the totals of a room begin at 0.
    begins: BTreeSet<(u64, String)>,
    /// The rooms that were removed from the topics `totals` and `trending` by a tombstone, each with the start of the
    /// window that the tombstone names.
    removed: [BTreeSet<(u64, String)>; 2],
    /// For both topics, the start of the window that the last tombstone of each room names. A room with a newer record
    /// after its tombstone has no entry.
    removed_at: [BTreeMap<String, u64>; 2],
}

impl Output {
    /// Returns the final-until time: every window that ends at or before it is final.
    pub fn final_until_ms(&self) -> u64 {
        self.progress.as_ref().map_or(0, |it| it.final_until_ms)
    }

    /// Applies a committed transaction, and checks the invariants of a transaction.
    pub fn apply(&mut self, topics: &Topics, records: &[NewRecord]) {
        let (last, results) = records
            .split_last()
            .expect("progress is in every transaction");
        assert_eq!(last.topic, topics.progress());
        let progress: Progress = serde_json::from_slice(&last.value).unwrap();
        let before_ms = self.final_until_ms();
        assert!(
            progress.final_until_ms >= before_ms,
            "the final-until time went back"
        );
        self.compare_offsets(&progress);
        for record in results {
            if record.topic == topics.windows() {
                let closed: WindowRecord = serde_json::from_slice(&record.value).unwrap();
                assert!(
                    closed.window.start >= before_ms,
                    "the window was final already: {closed:?}"
                );
                assert!(
                    closed.window.end <= progress.final_until_ms,
                    "open: {closed:?}"
                );
                if header(record, TOTALS_BEGIN_HEADER).is_some() {
                    let of = (closed.window.start, closed.room.to_string());
                    self.begins.insert(of);
                }
                self.close(closed);
            } else if record.topic != topics.rejected() && record.value.is_empty() {
                let start_ms = header(record, REMOVED_HEADER).unwrap().parse().unwrap();
                assert!((before_ms..progress.final_until_ms).contains(&start_ms));
                let room = str::from_utf8(record.key.as_ref().unwrap()).unwrap();
                let table = usize::from(record.topic == topics.trending());
                let is_new = self.removed[table].insert((start_ms, room.to_owned()));
                assert!(is_new, "removed twice");
                self.removed_at[table].insert(room.to_owned(), start_ms);
            } else if record.topic == topics.totals() {
                self.total(serde_json::from_slice(&record.value).unwrap());
            } else if record.topic == topics.trending() {
                self.trend(serde_json::from_slice(&record.value).unwrap());
            } else {
                assert_eq!(record.topic, topics.rejected());
                self.reject(record, before_ms, progress.final_until_ms);
            }
        }
        self.progress = Some(progress);
    }

    fn compare_offsets(&self, next: &Progress) {
        for partition in &next.partitions {
            assert!(partition.resume_offset <= partition.read_offset, "{next:?}");
            let known = self.progress.iter().flat_map(|it| &it.partitions);
            let known = known.filter(|it| it.partition == partition.partition);
            for before in known {
                assert!(
                    before.resume_offset <= partition.resume_offset,
                    "R went back"
                );
                assert!(before.read_offset <= partition.read_offset, "N went back");
            }
        }
    }

    fn close(&mut self, closed: WindowRecord) {
        let (start_ms, room) = (closed.window.start, closed.room.to_string());
        assert!(
            self.closed.insert((start_ms, room.clone())),
            "final twice: {closed:?}"
        );
        assert_eq!(
            closed.total,
            closed.counts.iter().map(|it| it.count).sum::<u64>()
        );
        for tally in closed.counts {
            assert_eq!(
                (tally.swarms, tally.loose),
                (tally.count / SWARM, tally.count % SWARM)
            );
            let key = (start_ms, room.clone(), tally.emoji.to_string());
            assert_eq!(self.finals.insert(key, tally.count), None);
        }
    }

    /// Checks that a record that follows a tombstone of its room is not older than the tombstone.
    fn check_removal(&mut self, table: usize, room: &str, start_ms: u64) {
        let removed_ms = self.removed_at[table].remove(room);
        let is_back = removed_ms.is_none_or(|removed_ms| start_ms >= removed_ms);
        assert!(
            is_back,
            "{room}: a record of {start_ms} follows a tombstone of {removed_ms:?}"
        );
    }

    fn total(&mut self, record: TotalsRecord) {
        self.check_removal(0, record.room.as_str(), record.window.start);
        let counts = record.counts.entries();
        let counts = counts.map(|(emoji, count)| (emoji.to_owned(), count));
        let of_room = self.totals.entry(record.room.to_string()).or_default();
        of_room.push((record.window.start, counts.collect()));
    }

    fn trend(&mut self, record: Trending) {
        let key = record.key().to_owned();
        if let Trending::Room(record) = &record {
            self.check_removal(1, &key, record.window.start);
        }
        let (window, top, rooms) = match record {
            Trending::Room(it) => (it.window, it.top, Vec::new()),
            Trending::All(it) => (it.window, it.top, it.rooms),
        };
        let top = top.iter().map(|it| (it.emoji.to_string(), it.count));
        let rooms = rooms.iter().map(|it| (it.room.to_string(), it.count));
        let shown = (window.start, top.collect(), rooms.collect());
        self.trending.entry(key).or_default().push(shown);
    }

    fn reject(&mut self, record: &NewRecord, before_ms: u64, final_until_ms: u64) {
        let header = |name| header(record, name).unwrap();
        let position = (
            header("partition").parse().unwrap(),
            header("offset").parse().unwrap(),
        );
        let reason = header("reason");
        if reason != "late" && reason != "unknown_emoji" {
            let known = self.junk.insert(position, reason.to_owned());
            assert_eq!(known, None, "rejected twice");
            return;
        }
        let mut counts = Counts::new();
        for key in reactions_of(record) {
            assert!(
                key.0 + WINDOW_MS <= final_until_ms,
                "rejected before its window is final: {key:?}"
            );
            *counts.entry(key).or_default() += 1;
        }
        if reason == "late" {
            let late = self.late.entry(position).or_default();
            for (key, count) in counts {
                *late.entry(key).or_default() += count;
            }
            return;
        }
        let (start_ms, ..) = *counts.keys().next().unwrap();
        for key in counts.keys() {
            assert_eq!((key.0, &*key.2), (start_ms, UNKNOWN_EMOJI));
        }
        assert!(
            start_ms + WINDOW_MS > before_ms,
            "rejected after its window was final: {counts:?}"
        );
        let known = self.unknown.insert((position, start_ms), counts);
        assert_eq!(known, None, "rejected twice");
    }

    /// Checks that the output contains each appended reaction once: counted, rejected as late, or rejected because its
    /// emoji is unknown. The partitions in `released` were held for too long, so the frontier no longer waits for them.
    /// Their reactions may be late even if the oracle does not expect it.
    pub fn check(&self, oracle: &Oracle, released: &BTreeSet<u32>, rules: TotalsChecked) {
        let mut counted = self.finals.clone();
        let rejected = self.late.values().chain(self.unknown.values());
        for (key, count) in rejected.flatten() {
            *counted.entry(key.clone()).or_default() += count;
        }
        let keys: BTreeSet<_> = counted.keys().chain(oracle.appended.keys()).collect();
        for key in keys {
            let (out, appended) = (counted.get(key), oracle.appended.get(key));
            assert_eq!(
                out, appended,
                "counted and rejected reactions, and appended ones, of {key:?}"
            );
        }
        let junk = self
            .junk
            .iter()
            .map(|(position, reason)| (*position, reason.as_str()));
        assert!(
            junk.eq(oracle.junk.iter().map(|it| (*it.0, *it.1))),
            "{:?}",
            self.junk
        );
        let strict = |late: &BTreeMap<Position, Counts>| -> BTreeMap<Position, Counts> {
            let of = late
                .iter()
                .filter(|(position, _)| !released.contains(&position.0));
            of.map(|(position, counts)| (*position, counts.clone()))
                .collect()
        };
        let (late, expected) = (strict(&self.late), strict(&oracle.late));
        assert_eq!(
            late, expected,
            "late reactions, and reactions that are late for their own partition"
        );
        for (position, late) in &oracle.late {
            for (key, count) in late {
                let rejected = self.late.get(position).and_then(|it| it.get(key));
                assert!(rejected >= Some(count), "{position:?} {key:?} was counted");
            }
        }
        self.check_totals(rules);
        let trending_expected = trending(&self.finals, self.final_until_ms());
        assert_eq!(self.trending, trending_expected, "trending");
    }
}

impl Output {
    /// Checks the counts in each totals record, and that each totals record that was due was written.
    fn check_totals(&self, rules: TotalsChecked) {
        let TotalsChecked { pace, retention_ms } = rules;
        let (all, begins) = totals(&self.finals, retention_ms);
        assert_eq!(self.begins, begins, "finals with which totals begin");
        let [of_totals, of_trending] = &self.removed;
        assert_eq!(of_totals, of_trending, "removed");
        for (start_ms, room) in of_totals {
            let closed = self
                .closed
                .iter()
                .filter(|it| it.1 == *room && it.0 <= *start_ms);
            let last_ms = closed.map(|it| it.0).max().unwrap();
            assert!(
                last_ms.saturating_add(retention_ms) < *start_ms,
                "removed early: {room}"
            );
        }
        for (room, records) in &self.totals {
            for record in records {
                assert!(all[room].contains(record), "totals of {room}: {record:?}");
            }
            let unsorted = records.windows(2).find(|it| it[0].0 >= it[1].0);
            assert_eq!(unsorted, None, "totals of {room}");
        }
        let expected = due_totals(&all, self.final_until_ms(), rules);
        match pace.close_bytes {
            usize::MAX => assert_eq!(self.totals, expected, "totals"),
            // The size of a close is bounded, so the totals of a room may have to wait until those of other rooms are
            // written. There are three rooms, so a room waits for two closes at most.
            _ => {
                let due_ms = self.final_until_ms().saturating_sub(2 * WINDOW_MS);
                for (room, records) in due_totals(&all, due_ms, rules) {
                    let newest = self.totals.get(&room).and_then(|it| it.last());
                    assert!(newest.is_some_and(|it| it.0 >= records[records.len() - 1].0));
                }
            }
        }
    }
}

/// Returns the totals records that are due until `until_ms` if the size of a close is not bounded. To be independent of
/// the dataflow, the function does not compute due times, but looks for them in each millisecond of each window.
fn due_totals(all: &Totals, until_ms: u64, rules: TotalsChecked) -> Totals {
    let TotalsChecked { pace, retention_ms } = rules;
    let mut written = Totals::new();
    for (room, changes) in all {
        let phase_ms = schedule::stable_hash(room) % pace.period_ms;
        let mut changes = changes.iter().peekable();
        let mut newest: Option<&(u64, BTreeMap<String, u64>)> = None;
        // The start of the first window that no totals record of the room contains yet.
        let mut since_ms = None;
        let first_ms = changes.peek().map_or(until_ms, |(start_ms, _)| *start_ms);
        for start_ms in (first_ms..until_ms).step_by(WINDOW_MS as usize) {
            if newest.is_some_and(|(at_ms, _)| at_ms.saturating_add(retention_ms) < start_ms) {
                // The totals of the room have expired, so the changes that were not written yet are not due any more.
                since_ms = None;
            }
            let change = changes.next_if(|(at_ms, _)| *at_ms == start_ms);
            newest = change.or(newest);
            let Some((_, sums)) = newest else { continue };
            let is_small = sums.len() <= pace.small_items;
            if change.is_some() {
                since_ms = since_ms.or(Some(start_ms));
            }
            let Some(waits_ms) = since_ms else { continue };
            let mut passed = waits_ms + 1..start_ms + WINDOW_MS;
            let is_due = passed.any(|at_ms| at_ms % pace.period_ms == phase_ms);
            if is_due || is_small {
                since_ms = None;
                let records = written.entry(room.clone()).or_default();
                records.extend(newest.cloned());
            }
        }
    }
    written
}

/// Returns the totals of each room after each of its windows, and the finals with which the totals of a room begin at
/// 0.
fn totals(finals: &Counts, retention_ms: u64) -> (Totals, BTreeSet<(u64, String)>) {
    let (mut totals, mut begins) = (Totals::new(), BTreeSet::new());
    for ((start_ms, room, emoji), count) in finals {
        let of_room = totals.entry(room.clone()).or_default();
        if of_room.last().is_none_or(|(at_ms, _)| at_ms != start_ms) {
            let before = of_room
                .last()
                .filter(|(at_ms, _)| start_ms - at_ms <= retention_ms);
            if before.is_none() {
                begins.insert((*start_ms, room.clone()));
            }
            let sums = before.map(|(_, sums)| sums.clone());
            of_room.push((*start_ms, sums.unwrap_or_default()));
        }
        let (_, sums) = of_room.last_mut().unwrap();
        *sums.entry(emoji.clone()).or_default() += count;
    }
    (totals, begins)
}

/// Names and their counts, the greatest count first.
type Top = Vec<(String, u64)>;

/// A trending record: the start of its window, the top emojis, and the top rooms, which only the record of all rooms
/// has.
type Shown = (u64, Top, Top);

fn top(sums: &BTreeMap<String, u64>) -> Top {
    let mut top: Top = sums
        .iter()
        .map(|(name, count)| (name.clone(), *count))
        .collect();
    top.sort_by(|(a, m), (b, n)| n.cmp(m).then(a.cmp(b)));
    top.truncate(TOP);
    top
}

/// Returns the expected trending records of each key: one for each window that changes the top of the key.
fn trending(finals: &Counts, until_ms: u64) -> BTreeMap<String, Vec<Shown>> {
    let mut rooms: BTreeSet<String> = finals.keys().map(|(_, room, _)| room.clone()).collect();
    rooms.insert("*".to_owned());
    let first_ms = finals
        .keys()
        .next()
        .map_or(until_ms, |(start_ms, ..)| *start_ms);
    let mut records: BTreeMap<String, Vec<Shown>> = BTreeMap::new();
    for start_ms in (first_ms..until_ms).step_by(WINDOW_MS as usize) {
        let since_ms = (start_ms + WINDOW_MS).saturating_sub(SPAN_MS);
        let in_span = || {
            let since = (since_ms, String::new(), String::new());
            let until = (start_ms + 1, String::new(), String::new());
            finals.range(since..until)
        };
        for key in &rooms {
            let (mut by_emoji, mut by_room) = (BTreeMap::new(), BTreeMap::new());
            for ((_, room, emoji), count) in in_span() {
                if key == "*" || key == room {
                    *by_emoji.entry(emoji.clone()).or_default() += count;
                    *by_room.entry(room.clone()).or_default() += count;
                }
            }
            let rooms = if key == "*" {
                top(&by_room)
            } else {
                Vec::new()
            };
            let shown = (top(&by_emoji), rooms);
            let before = records.get(key).and_then(|it| it.last());
            if before.map_or((Vec::new(), Vec::new()), |it| (it.1.clone(), it.2.clone())) != shown {
                let of_key = records.entry(key.clone()).or_default();
                of_key.push((start_ms, shown.0, shown.1));
            }
        }
    }
    records
}
