//! One partition being read: each record is decoded, judged and counted, or rejected.
//!
//! Pure but for the counters it bumps: records come in as values, so that tests feed it directly.

use std::ops::AddAssign;

use emostream_log::Record;
use emostream_model::{Batch, Emoji, EmojiNames, Payload, Window, WindowSize};
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{Aggregate, RoomNumber},
    clock::PartitionClock,
    progress::{Former, OpenWindows, PartitionProgress, Seen, Settlement, Verdict},
};

/// How far a batch's times may be ahead of its record's time. The log refuses records further ahead
/// of its own clock than this; a batch must not smuggle them in, or one bad producer would close
/// every window for good.
const MAX_AHEAD_MS: u64 = 5_000;

/// The most bytes of a rejected record that are written again, its key included: with its headers it
/// must fit what the log takes (librdkafka: 1,000,000 bytes), or one giant of another producer would
/// fail every transaction from there on. The largest batch of an ingest is smaller.
const MAX_REJECTED_BYTES: usize = 990_000;

/// Headers of a rejected record, and its place in memory.
const REJECTION_OVERHEAD_BYTES: usize = 256;

/// What reading needs to know, the same for every partition.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The size of the windows.
    pub size: WindowSize,
    /// How long a partition waits for stragglers.
    pub lateness_ms: u64,
    /// The emoji names that plain JSON records may use.
    pub emojis: EmojiNames,
}

/// Why a record was rejected: the `reason` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// Its window was closed.
    Late,
    /// It is neither a batch nor a plain reaction.
    Malformed,
    /// Its times are ahead of the record's own.
    Ahead,
}

impl Reason {
    /// Every one there is.
    pub const ALL: [Reason; 3] = [Reason::Late, Reason::Malformed, Reason::Ahead];

    /// As it stands in the header and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Late => "late",
            Reason::Malformed => "malformed",
            Reason::Ahead => "ahead",
        }
    }
}

/// A record on its way to the `rejected` topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejected {
    /// Where it lies.
    pub partition: u32,
    /// Where it lies.
    pub offset: u64,
    /// Its time.
    pub time_ms: u64,
    /// The end of the newest window that it is late for, 0 where no window is known: it is written once
    /// that is final.
    pub settled_at_ms: u64,
    /// Why: a [`Reason`]'s text.
    pub reason: String,
    /// Its key, as it came, or its beginning.
    pub key: Option<Vec<u8>>,
    /// Its value as it came, or its beginning; of a batch that was late in part, a batch of the late
    /// reactions.
    pub value: Vec<u8>,
}

impl Rejected {
    /// What it adds to a transaction, roughly.
    pub fn bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, Vec::len);
        key + self.value.len() + REJECTION_OVERHEAD_BYTES
    }
}

/// What became of the reactions of some records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Reactions counted.
    pub counted: u64,
    /// Reactions too late.
    pub late: u64,
}

/// The reading of one partition.
#[derive(Debug)]
pub struct PartitionReading {
    partition: u32,
    clock: PartitionClock,
    open: OpenWindows,
    settlement: Settlement,
    formers: Vec<Former>,
    last: Option<Seen>,
}

impl PartitionReading {
    /// Resumes where `progress` says, with everything up to `final_until_ms` final, and what `formers`
    /// settled.
    pub fn resume(
        progress: &PartitionProgress,
        final_until_ms: u64,
        formers: &[Former],
        rules: &Rules,
    ) -> Self {
        PartitionReading {
            partition: progress.partition,
            clock: PartitionClock::resumed(progress.resume_watermark_ms, rules.lateness_ms),
            open: OpenWindows::default(),
            settlement: Settlement {
                final_until_ms,
                read_offset: progress.read_offset,
            },
            formers: formers.to_vec(),
            last: progress.last,
        }
    }

    /// Which partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its time.
    pub fn clock(&self) -> &PartitionClock {
        &self.clock
    }

    /// The marks of an advance of the worker; see [`OpenWindows::advance`].
    pub fn advance(
        &mut self,
        from_ms: u64,
        to_ms: u64,
        position: u64,
    ) -> Vec<(u64, PartitionProgress)> {
        let watermark_ms = self.clock.watermark_ms();
        let partition = self.partition;
        self.open
            .advance(from_ms, to_ms, partition, position, watermark_ms, self.last)
    }

    /// N at the start: below it everything is read again.
    pub fn settled_offset(&self) -> u64 {
        self.settlement.read_offset
    }

    /// Takes the next record in. `closed_until_ms` is where the worker stands.
    pub fn take(
        &mut self,
        record: Record<'_>,
        rules: &Rules,
        closed_until_ms: u64,
        aggregate: &mut Aggregate,
        rejected: &mut Vec<Rejected>,
    ) -> Read {
        let (offset, partition) = (record.offset, self.partition);
        // Each is of no more use once the reading has passed its N, which never goes back.
        self.formers
            .retain(|former| offset < former.read_offset(partition));
        let formers = std::mem::take(&mut self.formers);
        let mut judge = Judge {
            settlement: self.settlement,
            formers: &formers,
            offset,
            watermark_ms: self.clock.watermark_ms(),
            closed_until_ms,
            late_until_ms: 0,
        };
        let mut read = Read::default();
        let seen_ms = match Payload::decode(record.value, &rules.emojis) {
            Ok(Payload::Batch(batch)) if ahead_of(&batch, record) => {
                rejected.extend(judge.unreadable(record, Reason::Ahead));
                record.time_ms
            }
            Ok(Payload::Batch(batch)) => {
                judge.late_until_ms = judge.late_until(rules.size, &batch);
                let late = self.count_batch(&batch, rules.size, &judge, aggregate, &mut read);
                if !late.indices.is_empty() {
                    let value = late_part(&batch, &late.indices, record.value);
                    rejected.push(reject(record, Reason::Late, late.newest_end_ms, value));
                }
                batch.newest_ms()
            }
            Ok(Payload::Plain(reaction)) => {
                let window = rules.size.window_of(record.time_ms);
                let verdict = judge.verdict(window, record.time_ms);
                if let Some(room) = aggregate.room(&reaction.room) {
                    self.count(verdict, window, &judge, aggregate, (room, reaction.emoji));
                }
                read.note(verdict);
                if verdict == Verdict::Late {
                    let value = record.value.to_vec();
                    rejected.push(reject(record, Reason::Late, window.end, value));
                }
                record.time_ms
            }
            Err(_) => {
                rejected.extend(judge.unreadable(record, Reason::Malformed));
                record.time_ms
            }
        };
        self.formers = formers;
        self.clock.observe(seen_ms);
        self.last = Some(Seen {
            offset,
            time_ms: record.time_ms,
        });
        read
    }

    /// Counts a batch and returns which of its reactions are late.
    fn count_batch(
        &mut self,
        batch: &Batch<'_>,
        size: WindowSize,
        judge: &Judge<'_>,
        aggregate: &mut Aggregate,
        read: &mut Read,
    ) -> LateReactions {
        let rooms: Vec<Option<RoomNumber>> = batch
            .rooms()
            .iter()
            .map(|name| aggregate.room(name))
            .collect();
        let mut late = LateReactions::default();
        // Neighbours mostly share a window: it is judged, and its counts are found, once a run.
        let mut entries = batch.entries().enumerate().peekable();
        while let Some(&(_, (_, _, first_ms))) = entries.peek() {
            let window = size.window_of(first_ms);
            let verdict = judge.verdict(window, first_ms);
            if verdict != Verdict::Settled {
                self.open
                    .saw(window.start, judge.offset, judge.watermark_ms);
            }
            let inside = |at_ms: u64| match judge.formers {
                [] => (window.start..window.end).contains(&at_ms),
                // Former windows may end within this one.
                _ => at_ms == first_ms,
            };
            let mut counts = (verdict == Verdict::Count).then(|| aggregate.window(window.start));
            while let Some((index, (room, emoji, _))) =
                entries.next_if(|(_, (_, _, at_ms))| inside(*at_ms))
            {
                if let (Some(counts), Some(room)) = (&mut counts, rooms[room]) {
                    *counts.entry((room, batch.emojis()[emoji])).or_default() += 1;
                }
                read.note(verdict);
                if verdict == Verdict::Late {
                    late.indices.push(index);
                    late.newest_end_ms = late.newest_end_ms.max(window.end);
                }
            }
        }
        late
    }

    fn count(
        &mut self,
        verdict: Verdict,
        window: Window,
        judge: &Judge<'_>,
        aggregate: &mut Aggregate,
        key: (RoomNumber, Emoji),
    ) {
        if verdict != Verdict::Settled {
            self.open
                .saw(window.start, judge.offset, judge.watermark_ms);
        }
        if verdict == Verdict::Count {
            *aggregate.window(window.start).entry(key).or_default() += 1;
        }
    }
}

impl AddAssign for Read {
    fn add_assign(&mut self, other: Read) {
        self.counted += other.counted;
        self.late += other.late;
    }
}

impl Read {
    fn note(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Count => self.counted += 1,
            Verdict::Late => self.late += 1,
            Verdict::Settled => {}
        }
    }
}

/// The reactions of a batch that are late.
#[derive(Default)]
struct LateReactions {
    indices: Vec<usize>,
    /// When the newest of their windows ends.
    newest_end_ms: u64,
}

/// The replay rule, with all that is the same for one record.
struct Judge<'a> {
    settlement: Settlement,
    /// Those whose N is not reached yet: none but after a reset.
    formers: &'a [Former],
    offset: u64,
    watermark_ms: u64,
    closed_until_ms: u64,
    /// When the newest window ends that the record is too late for by its partition alone.
    late_until_ms: u64,
}

impl Judge<'_> {
    fn late_until(&self, size: WindowSize, batch: &Batch<'_>) -> u64 {
        // Of no interest but where it is read again.
        if self.offset >= self.settlement.read_offset {
            return 0;
        }
        let ends_ms = batch
            .entries()
            .map(|(_, _, at_ms)| size.window_of(at_ms).end);
        let late = ends_ms.filter(|end_ms| *end_ms <= self.watermark_ms);
        late.max().unwrap_or(0)
    }

    /// Of a reaction at `at_ms`, which `window` holds.
    fn verdict(&self, window: Window, at_ms: u64) -> Verdict {
        let settles = |former: &Former| former.settles(at_ms);
        if self.formers.iter().any(settles) {
            return Verdict::Settled;
        }
        let (watermark_ms, closed_until_ms) = (self.watermark_ms, self.closed_until_ms);
        let late_until_ms = self.late_until_ms.max(window.end);
        self.settlement.judge(
            window,
            self.offset,
            watermark_ms,
            late_until_ms,
            closed_until_ms,
        )
    }

    /// Rejects a record that no window is known of, unless an earlier run has.
    fn unreadable(&self, record: Record<'_>, reason: Reason) -> Option<Rejected> {
        let news = self.offset >= self.settlement.read_offset && self.formers.is_empty();
        news.then(|| reject(record, reason, 0, record.value.to_vec()))
    }
}

fn ahead_of(batch: &Batch<'_>, record: Record<'_>) -> bool {
    batch.newest_ms() > record.time_ms.saturating_add(MAX_AHEAD_MS)
}

fn reject(record: Record<'_>, reason: Reason, settled_at_ms: u64, mut value: Vec<u8>) -> Rejected {
    let key = record
        .key
        .map(|key| &key[..key.len().min(MAX_REJECTED_BYTES)]);
    value.truncate(MAX_REJECTED_BYTES - key.map_or(0, <[u8]>::len));
    Rejected {
        partition: record.partition,
        offset: record.offset,
        time_ms: record.time_ms,
        settled_at_ms,
        reason: reason.as_str().to_owned(),
        key: key.map(<[u8]>::to_vec),
        value,
    }
}

/// The late reactions of a batch as a batch; the whole record where all are late or its users
/// cannot be read.
fn late_part(batch: &Batch<'_>, late: &[usize], value: &[u8]) -> Vec<u8> {
    match batch.reactions() {
        Ok(reactions) if late.len() < reactions.len() => {
            Batch::encode(batch.base_ms(), late.iter().map(|index| &reactions[*index]))
        }
        _ => value.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Reaction, Room, UserId};

    const T0: u64 = 1_764_000_000_000;

    struct Bench {
        rules: Rules,
        reading: PartitionReading,
        aggregate: Aggregate,
        rejected: Vec<Rejected>,
        offset: u64,
    }

    impl Bench {
        fn new(read_offset: u64, final_until_ms: u64) -> Bench {
            let rules = Rules {
                size: WindowSize::from_ms(2000).unwrap(),
                lateness_ms: 750,
                emojis: EmojiNames::default(),
            };
            let progress = PartitionProgress {
                partition: 3,
                resume_offset: 0,
                resume_watermark_ms: 0,
                read_offset,
                last: None,
            };
            Bench {
                reading: PartitionReading::resume(&progress, final_until_ms, &[], &rules),
                rules,
                aggregate: Aggregate::default(),
                rejected: Vec::new(),
                offset: 0,
            }
        }

        fn take(&mut self, time_ms: u64, value: &[u8]) -> Read {
            let record = Record {
                partition: 3,
                offset: self.offset,
                time_ms,
                key: None,
                value,
                headers: &(),
            };
            self.offset += 1;
            self.reading.take(
                record,
                &self.rules,
                0,
                &mut self.aggregate,
                &mut self.rejected,
            )
        }

        fn counts(&mut self) -> Vec<(u64, String, u64)> {
            let mut all = Vec::new();
            self.aggregate.drain(|start, tallies| {
                all.extend(
                    tallies.map(|(room, emoji, n)| (start - T0, format!("{room} {emoji}"), n)),
                );
            });
            all.sort();
            all
        }
    }

    fn reaction(room: &str, at_ms: u64) -> Reaction {
        Reaction {
            user: UserId::new("u").unwrap(),
            emoji: Emoji::from_text("🔥").unwrap(),
            room: Room::new(room).unwrap(),
            at_ms,
        }
    }

    fn batch(times: &[u64]) -> Vec<u8> {
        let reactions: Vec<Reaction> = times.iter().map(|t| reaction("a", T0 + t)).collect();
        Batch::encode(T0 + times.iter().min().unwrap(), &reactions)
    }

    #[test]
    fn a_batch_that_spans_two_windows_counts_in_both() {
        let mut bench = Bench::new(0, 0);
        let read = bench.take(T0 + 2100, &batch(&[1900, 1999, 2000]));
        assert_eq!(
            read,
            Read {
                counted: 3,
                late: 0
            }
        );
        assert_eq!(
            bench.counts(),
            [(0, "a 🔥".into(), 2), (2000, "a 🔥".into(), 1)]
        );
        assert_eq!(bench.reading.clock().watermark_ms(), T0 + 2000 - 750);
    }

    #[test]
    fn a_late_reaction_is_rejected_not_counted() {
        let mut bench = Bench::new(0, 0);
        bench.take(T0 + 5000, &Batch::heartbeat(T0 + 5000));
        let read = bench.take(T0 + 5100, &batch(&[1000, 4500]));
        assert_eq!(
            read,
            Read {
                counted: 1,
                late: 1
            }
        );
        assert_eq!(bench.counts(), [(4000, "a 🔥".into(), 1)]);
        let [rejected] = &bench.rejected[..] else {
            panic!("one rejection")
        };
        assert_eq!((rejected.reason.as_str(), rejected.offset), ("late", 1));
        let late = Batch::decode(&rejected.value).unwrap().reactions().unwrap();
        assert_eq!(late, [reaction("a", T0 + 1000)]);
    }

    #[test]
    fn a_record_that_cannot_be_read_is_rejected_and_the_rest_counts() {
        let mut bench = Bench::new(0, 0);
        bench.take(T0, br#"{"user_id":"u","emoji_type":"fire","room":"b"}"#);
        bench.take(T0 + 1, b" broken");
        bench.take(T0 + 2, b"{\"user_id\":");
        bench.take(T0 + 3, &batch(&[3]));
        assert_eq!(
            bench.counts(),
            [(0, "a 🔥".into(), 1), (0, "b 🔥".into(), 1)]
        );
        let reasons: Vec<_> = bench
            .rejected
            .iter()
            .map(|r| (r.offset, r.reason.as_str()))
            .collect();
        assert_eq!(reasons, [(1, "malformed"), (2, "malformed")]);
        assert_eq!(bench.rejected[0].value, b" broken");
    }

    #[test]
    fn a_batch_from_the_future_does_not_move_time() {
        let mut bench = Bench::new(0, 0);
        bench.take(T0 + 1000, &batch(&[100_000]));
        assert_eq!(bench.reading.clock().watermark_ms(), T0 + 250);
        assert_eq!(bench.rejected[0].reason, "ahead");
    }

    #[test]
    fn what_an_earlier_run_rejected_is_not_rejected_again() {
        let mut bench = Bench::new(1, T0);
        bench.take(T0, b"junk");
        bench.take(T0, b"junk");
        assert_eq!(bench.rejected.len(), 1);
        assert_eq!(bench.rejected[0].offset, 1);
    }
}
