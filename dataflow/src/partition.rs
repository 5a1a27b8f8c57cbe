//! One partition being read: each record is decoded, judged and counted, or rejected.
//!
//! Pure but for the counters it bumps: records come in as values, so that tests feed it directly.

use std::{collections::BTreeMap, ops::AddAssign};

use emostream_log::Record;
use emostream_model::{
    Batch, EmojiNames, Invalid, Payload, PayloadError, Plain, Window, WindowSize,
};
use serde::{Deserialize, Serialize};

use crate::{
    aggregate::{Aggregate, RoomNumber},
    clock::{MAX_AHEAD_MS, PartitionClock},
    progress::{
        AheadLimit, Former, LastRecord, OpenWindows, PartitionProgress, Settlement, Verdict,
    },
};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its window was closed.
    Late,
    /// It is neither a batch nor a plain reaction.
    Malformed,
    /// Its times are ahead of the record's own, or of what a reset allows there.
    Ahead,
    /// This build does not know its emoji; another one may.
    UnknownEmoji,
}

impl Reason {
    /// Every one there is.
    pub const ALL: [Reason; 4] = [
        Reason::Late,
        Reason::Malformed,
        Reason::Ahead,
        Reason::UnknownEmoji,
    ];

    /// As it stands in the header and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Late => "late",
            Reason::Malformed => "malformed",
            Reason::Ahead => "ahead",
            Reason::UnknownEmoji => "unknown_emoji",
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
    /// It is written once this is F: the end of its window, or an F that was reached when it was read; 0 where no
    /// window is known.
    pub settled_at_ms: u64,
    /// Why: a [`Reason`]'s text.
    pub reason: String,
    /// Its key, as it came, or its beginning.
    pub key: Option<Vec<u8>>,
    /// Its value as it came, or its beginning; of a batch that is rejected in part, or in several records, a
    /// batch of those reactions.
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

/// A record that is not read, because its time is further ahead of this host's clock than records may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AheadRecord {
    /// Its offset.
    pub offset: u64,
    /// The newest time in it, Unix milliseconds.
    pub time_ms: u64,
}

/// Where time stands while a record is read.
#[derive(Debug, Clone, Copy)]
pub struct ReadingTime {
    /// Where the worker stands: windows that end by then are closed.
    pub closed_until_ms: u64,
    /// No later commit has an earlier F.
    pub final_until_ms: u64,
    /// This host's clock.
    pub now_ms: u64,
}

/// The reading of one partition.
#[derive(Debug)]
pub struct PartitionReading {
    partition: u32,
    clock: PartitionClock,
    open: OpenWindows,
    settlement: Settlement,
    formers: Vec<Former>,
    ahead: Option<AheadLimit>,
    last: Option<LastRecord>,
    /// How much older the last record was than the newest time before it.
    behind_ms: u64,
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
            ahead: progress.ahead,
            last: progress.last,
            behind_ms: 0,
        }
    }

    /// How much older the last record was than the newest time before it in its partition, milliseconds.
    pub fn behind_ms(&self) -> u64 {
        self.behind_ms
    }

    /// Which partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Its time.
    pub fn clock(&self) -> &PartitionClock {
        &self.clock
    }

    /// The marks of an advance of the worker; see [`OpenWindows::advance`]. `idle` is whether the partition
    /// is.
    pub fn advance(
        &mut self,
        from_ms: u64,
        to_ms: u64,
        position: u64,
        idle: bool,
    ) -> Vec<(u64, PartitionProgress)> {
        let now = PartitionProgress {
            resume_watermark_ms: self.clock.watermark_ms(),
            last: self.last,
            idle,
            ahead: self.ahead,
            ..PartitionProgress::begin(self.partition, position)
        };
        self.open.advance(from_ms, to_ms, now)
    }

    /// N at the start: below it everything is read again.
    pub fn settled_offset(&self) -> u64 {
        self.settlement.read_offset
    }

    /// Reads the next record: counts it, or rejects it. A record that is ahead of this host's clock changes
    /// nothing, and is to be read again later.
    pub fn read(
        &mut self,
        record: Record<'_>,
        rules: &Rules,
        time: ReadingTime,
        aggregate: &mut Aggregate,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Read, AheadRecord> {
        let (offset, partition) = (record.offset, self.partition);
        let limit = self.ahead.filter(|limit| offset < limit.below_offset);
        let limit_ms = limit.map_or(u64::MAX, |limit| limit.limit_ms);
        let payload = Payload::decode(record.value, &rules.emojis);
        let newest_ms = match &payload {
            Ok(Payload::Batch(batch)) if !ahead_of(batch, record) => newest_until(batch, limit_ms),
            _ => Some(record.time_ms).filter(|time_ms| *time_ms <= limit_ms),
        };
        if let Some(time_ms) = newest_ms
            && time_ms > time.now_ms.saturating_add(MAX_AHEAD_MS)
        {
            return Err(AheadRecord { offset, time_ms });
        }
        // Each is of no more use once the reading has passed its N, which never goes back.
        self.formers
            .retain(|former| offset < former.read_offset(partition));
        let formers = std::mem::take(&mut self.formers);
        let judge = Judge {
            settlement: self.settlement,
            formers: &formers,
            partition,
            offset,
            watermark_ms: self.clock.watermark_ms(),
            closed_until_ms: time.closed_until_ms,
            final_until_ms: time.final_until_ms,
            limit_ms,
        };
        let (mut read, size) = (Read::default(), rules.size);
        match payload {
            Ok(Payload::Batch(batch)) if ahead_of(&batch, record) => {
                rejected.extend(judge.unreadable(record, Reason::Ahead));
            }
            Ok(Payload::Batch(batch)) => {
                let parts = self.count_batch(&batch, size, &judge, aggregate, &mut read);
                if !parts.is_empty() {
                    reject_parts(&batch, parts, record, rejected);
                }
            }
            Ok(Payload::Plain(plain)) => {
                let plain = Some(&plain);
                let part = self.count_plain(plain, record, size, &judge, aggregate, &mut read);
                rejected.extend(part);
            }
            Err(PayloadError::Invalid(Invalid::UnknownEmoji { .. })) => {
                let part = self.count_plain(None, record, size, &judge, aggregate, &mut read);
                rejected.extend(part);
            }
            Err(_) => rejected.extend(judge.unreadable(record, Reason::Malformed)),
        };
        self.formers = formers;
        self.behind_ms = newest_ms.map_or(0, |newest_ms| {
            self.clock.newest_ms().saturating_sub(newest_ms)
        });
        self.clock.observe(newest_ms.unwrap_or(0));
        self.last = Some(LastRecord {
            offset,
            time_ms: record.time_ms,
        });
        Ok(read)
    }

    /// Counts a batch and returns which of its reactions are rejected.
    fn count_batch(
        &mut self,
        batch: &Batch<'_>,
        size: WindowSize,
        judge: &Judge<'_>,
        aggregate: &mut Aggregate,
        read: &mut Read,
    ) -> RejectedParts {
        let rooms: Vec<Option<RoomNumber>> = batch
            .rooms()
            .iter()
            .map(|name| aggregate.room(name))
            .collect();
        let mut parts = RejectedParts::default();
        // Neighbours mostly share a window: it is judged, and its counts are found, once a run.
        let mut entries = batch.entries().enumerate().peekable();
        while let Some(&(_, (_, _, first_ms))) = entries.peek() {
            let window = size.window_of(first_ms);
            let verdict = self.verdict(judge, window, first_ms);
            let inside = |at_ms: u64| match judge.judges_windows_whole() {
                true => (window.start..window.end).contains(&at_ms),
                false => at_ms == first_ms,
            };
            let mut counts = (verdict == Verdict::Count).then(|| aggregate.window(window));
            while let Some((index, (room, emoji, _))) =
                entries.next_if(|(_, (_, _, at_ms))| inside(*at_ms))
            {
                let emoji = batch.emojis()[emoji];
                if let (Some(counts), Some(room), Some(emoji)) = (&mut counts, rooms[room], emoji) {
                    *counts.entry((room, emoji)).or_default() += 1;
                }
                read.note(verdict, emoji.is_some());
                if let Some(part) = judge.rejection(verdict, window, emoji.is_some()) {
                    parts.entry(part).or_default().push(index);
                }
            }
        }
        parts
    }

    /// Counts a plain reaction, or returns its rejection. `None` for one whose emoji is unknown.
    fn count_plain(
        &mut self,
        plain: Option<&Plain<'_>>,
        record: Record<'_>,
        size: WindowSize,
        judge: &Judge<'_>,
        aggregate: &mut Aggregate,
        read: &mut Read,
    ) -> Option<Rejected> {
        let window = size.window_of(record.time_ms);
        let verdict = self.verdict(judge, window, record.time_ms);
        if verdict == Verdict::Count
            && let Some(plain) = plain
            && let Some(room) = aggregate.room(&plain.room)
        {
            let counts = aggregate.window(window);
            *counts.entry((room, plain.emoji)).or_default() += 1;
        }
        read.note(verdict, plain.is_some());
        let (settled_at_ms, reason) = judge.rejection(verdict, window, plain.is_some())?;
        Some(reject(record, reason, settled_at_ms, record.value.to_vec()))
    }

    /// The verdict on a reaction at `at_ms`. Its window counts as seen unless it is settled or ahead: until the
    /// window is final, a restart must read the record again, to count the reaction or to reject it.
    fn verdict(&mut self, judge: &Judge<'_>, window: Window, at_ms: u64) -> Verdict {
        let verdict = judge.verdict(window, at_ms);
        if matches!(verdict, Verdict::Count | Verdict::Late) {
            self.open.saw(window, judge.offset, judge.watermark_ms);
        }
        verdict
    }
}

impl AddAssign for Read {
    fn add_assign(&mut self, other: Read) {
        self.counted += other.counted;
        self.late += other.late;
    }
}

impl Read {
    fn note(&mut self, verdict: Verdict, is_known: bool) {
        match verdict {
            Verdict::Count => self.counted += u64::from(is_known),
            Verdict::Late => self.late += 1,
            Verdict::Settled | Verdict::Ahead => {}
        }
    }
}

/// Where a rejection belongs to no window that could become final: it is settled at any time.
const NO_WINDOW: u64 = 0;

/// The reactions of a batch that are rejected, by when they are settled and why: see [`Judge::rejection`].
type RejectedParts = BTreeMap<(u64, Reason), Vec<usize>>;

/// The replay rule, with all that is the same for one record.
struct Judge<'a> {
    settlement: Settlement,
    /// Those whose N is not reached yet: none but after a reset.
    formers: &'a [Former],
    partition: u32,
    offset: u64,
    watermark_ms: u64,
    closed_until_ms: u64,
    final_until_ms: u64,
    /// What is newer is rejected as `ahead`; `u64::MAX` without such a limit.
    limit_ms: u64,
}

impl Judge<'_> {
    /// Whether all reactions of one window have one verdict: windows of former settings, or a limit, may end
    /// within this one.
    fn judges_windows_whole(&self) -> bool {
        self.formers.is_empty() && self.limit_ms == u64::MAX
    }

    /// Of a reaction at `at_ms`, which `window` holds.
    fn verdict(&self, window: Window, at_ms: u64) -> Verdict {
        let settles = |former: &Former| former.settles(self.partition, self.offset, at_ms);
        if self.formers.iter().any(settles) {
            return Verdict::Settled;
        }
        if at_ms > self.limit_ms {
            // Its rejection belongs to no window: below N it was committed.
            return match self.offset < self.settlement.read_offset {
                true => Verdict::Settled,
                false => Verdict::Ahead,
            };
        }
        let (watermark_ms, closed_until_ms) = (self.watermark_ms, self.closed_until_ms);
        self.settlement
            .judge(window, self.offset, watermark_ms, closed_until_ms)
    }

    /// When the rejection of a reaction is settled, and why it is rejected; `None` if it is not. `is_known` is whether
    /// this build knows its emoji.
    fn rejection(&self, verdict: Verdict, window: Window, is_known: bool) -> Option<(u64, Reason)> {
        match verdict {
            // Windows that are final already go together.
            Verdict::Late => Some((window.end.max(self.final_until_ms), Reason::Late)),
            Verdict::Ahead => Some((NO_WINDOW, Reason::Ahead)),
            Verdict::Count if !is_known => Some((window.end, Reason::UnknownEmoji)),
            Verdict::Count | Verdict::Settled => None,
        }
    }

    /// Rejects a record that no window is known of, unless an earlier run has.
    fn unreadable(&self, record: Record<'_>, reason: Reason) -> Option<Rejected> {
        let news = self.offset >= self.settlement.read_offset && self.formers.is_empty();
        news.then(|| reject(record, reason, NO_WINDOW, record.value.to_vec()))
    }
}

/// Whether a batch's times are further ahead of its record's time than records may be ahead of the broker's
/// clock: a batch must not smuggle them in, or one bad producer would close every window for good.
fn ahead_of(batch: &Batch<'_>, record: Record<'_>) -> bool {
    batch.newest_ms() > record.time_ms.saturating_add(MAX_AHEAD_MS)
}

/// The newest time in a batch that is not after `limit_ms`.
fn newest_until(batch: &Batch<'_>, limit_ms: u64) -> Option<u64> {
    let newest_ms = batch.newest_ms();
    if newest_ms <= limit_ms {
        return Some(newest_ms);
    }
    let times = batch.entries().map(|(_, _, at_ms)| at_ms);
    let allowed = times
        .chain([batch.base_ms()])
        .filter(|at_ms| *at_ms <= limit_ms);
    allowed.max()
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

/// Rejects parts of a batch one by one, each when its window is final: a run may begin between two of them.
fn reject_parts(
    batch: &Batch<'_>,
    parts: RejectedParts,
    record: Record<'_>,
    rejected: &mut Vec<Rejected>,
) {
    let reactions = batch.reactions().unwrap_or_default();
    let last = parts.len() - 1;
    for (number, ((settled_at_ms, reason), indices)) in parts.into_iter().enumerate() {
        let value = if indices.len() == reactions.len() {
            record.value.to_vec()
        } else if !reactions.is_empty() {
            let part = indices.iter().map(|index| reactions[*index]);
            Batch::encode(batch.base_ms(), part)
        } else if number == last {
            // Its users cannot be read: it is written whole, and only once.
            record.value.to_vec()
        } else {
            Vec::new()
        };
        rejected.push(reject(record, reason, settled_at_ms, value));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::ReactionRef;

    /// The text of an emoji that this build does not know.
    const UNKNOWN: &str = "新";

    const T0: u64 = 1_764_000_000_000;

    /// What this host's clock shows.
    const NOW_MS: u64 = T0 + 3_600_000;

    struct Bench {
        rules: Rules,
        reading: PartitionReading,
        aggregate: Aggregate,
        rejected: Vec<Rejected>,
        offset: u64,
        final_until_ms: u64,
    }

    impl Bench {
        fn new(read_offset: u64, final_until_ms: u64) -> Bench {
            let rules = Rules {
                size: WindowSize::from_ms(2000).unwrap(),
                lateness_ms: 750,
                emojis: EmojiNames::default(),
            };
            let progress = PartitionProgress {
                read_offset,
                ..PartitionProgress::begin(3, 0)
            };
            Bench {
                reading: PartitionReading::resume(&progress, final_until_ms, &[], &rules),
                rules,
                aggregate: Aggregate::default(),
                rejected: Vec::new(),
                offset: 0,
                final_until_ms,
            }
        }

        fn take(&mut self, time_ms: u64, value: &[u8]) -> Read {
            self.read(time_ms, value).unwrap()
        }

        fn read(&mut self, time_ms: u64, value: &[u8]) -> Result<Read, AheadRecord> {
            let record = Record {
                partition: 3,
                offset: self.offset,
                time_ms,
                key: None,
                value,
                headers: &(),
            };
            let time = ReadingTime {
                closed_until_ms: 0,
                final_until_ms: self.final_until_ms,
                now_ms: NOW_MS,
            };
            let (aggregate, rejected) = (&mut self.aggregate, &mut self.rejected);
            let read = self
                .reading
                .read(record, &self.rules, time, aggregate, rejected);
            self.offset += u64::from(read.is_ok());
            read
        }

        fn counts(&mut self) -> Vec<(u64, String, u64)> {
            let mut all = Vec::new();
            let size = self.rules.size;
            self.aggregate.drain(|time_ms, tallies| {
                let start = size.floor(time_ms) - T0;
                all.extend(tallies.map(|(room, emoji, n)| (start, format!("{room} {emoji}"), n)));
            });
            all.sort();
            all
        }
    }

    fn reaction(emoji: &str, at_ms: u64) -> ReactionRef<'_> {
        ReactionRef {
            user: "u",
            emoji,
            room: "a",
            at_ms,
        }
    }

    fn reactions_of(rejected: &Rejected) -> Vec<ReactionRef<'_>> {
        Batch::decode(&rejected.value).unwrap().reactions().unwrap()
    }

    fn batch(times: &[u64]) -> Vec<u8> {
        let reactions = times.iter().map(|at| ("🔥", *at));
        batch_of(&reactions.collect::<Vec<_>>())
    }

    /// A batch of emojis and their times.
    fn batch_of(reactions: &[(&str, u64)]) -> Vec<u8> {
        let base_ms = reactions.iter().map(|(_, at)| at).min().unwrap();
        let reactions = reactions.iter().map(|(emoji, at)| reaction(emoji, T0 + at));
        Batch::encode(T0 + base_ms, reactions)
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
        assert_eq!(reactions_of(rejected), [reaction("🔥", T0 + 1000)]);
    }

    #[test]
    fn a_batch_is_rejected_by_window_since_a_run_may_begin_between_two_of_them() {
        let times = [1000, 4500, 2500, 1500];
        let (first, second) = ((2000, vec![1000, 1500]), (4000, vec![2500]));
        for (read_offset, final_until_ms, expected) in [
            (0, 0, vec![first, second.clone()]),
            // The run before committed what was final when the window of 2 s was not.
            (2, T0 + 2000, vec![second]),
            // Both were final when it was read.
            (0, T0 + 4000, vec![(4000, vec![1000, 2500, 1500])]),
        ] {
            let mut bench = Bench::new(read_offset, final_until_ms);
            bench.take(T0 + 5000, &Batch::heartbeat(T0 + 5000));
            bench.take(T0 + 5100, &batch(&times));
            let of = |r: &Rejected| {
                let times = reactions_of(r).into_iter().map(|r| r.at_ms - T0);
                (r.settled_at_ms - T0, times.collect::<Vec<_>>())
            };
            let rejected: Vec<_> = bench.rejected.iter().map(of).collect();
            assert_eq!(rejected, expected);
        }
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

    /// The reason, the end of the window, and the emojis of each rejection, of batches alone.
    fn parts(bench: &Bench) -> Vec<(&str, u64, Vec<&str>)> {
        let rejected = bench.rejected.iter();
        let parts = rejected.map(|r| {
            let emojis = reactions_of(r).iter().map(|it| it.emoji).collect();
            (&*r.reason, r.settled_at_ms.saturating_sub(T0), emojis)
        });
        parts.collect()
    }

    #[test]
    fn an_unknown_emoji_costs_only_its_own_reactions_a_rejection_a_window() {
        let mut bench = Bench::new(0, 0);
        let sent = [
            (UNKNOWN, 1000),
            ("🔥", 1000),
            (UNKNOWN, 2500),
            ("年", 1500),
            ("🔥", 2600),
        ];
        let read = bench.take(T0 + 2600, &batch_of(&sent));
        assert_eq!((read.counted, read.late), (2, 0));
        assert_eq!(
            bench.counts(),
            [(0, "a 🔥".into(), 1), (2000, "a 🔥".into(), 1)]
        );
        let expected = [
            ("unknown_emoji", 2000, vec![UNKNOWN, "年"]),
            ("unknown_emoji", 4000, vec![UNKNOWN]),
        ];
        assert_eq!(parts(&bench), expected);
        assert_eq!(bench.reading.clock().newest_ms(), T0 + 2600);
    }

    #[test]
    fn an_unknown_emoji_of_a_closed_window_is_late_with_the_known_ones() {
        let mut bench = Bench::new(0, 0);
        bench.take(T0 + 5000, &Batch::heartbeat(T0 + 5000));
        let sent = [(UNKNOWN, 1000), ("🔥", 1000), (UNKNOWN, 4500)];
        let read = bench.take(T0 + 5100, &batch_of(&sent));
        assert_eq!((read.counted, read.late), (0, 2));
        let expected = [
            ("late", 2000, vec![UNKNOWN, "🔥"]),
            ("unknown_emoji", 6000, vec![UNKNOWN]),
        ];
        assert_eq!(parts(&bench), expected);
    }

    #[test]
    fn a_window_with_an_unknown_emoji_alone_is_read_again_until_it_is_final() {
        let sent = batch_of(&[(UNKNOWN, 1000), (UNKNOWN, 2500)]);
        let plain = format!(r#"{{"user_id":"u","emoji_type":"{UNKNOWN}"}}"#);
        for record in [&sent[..], plain.as_bytes()] {
            let mut bench = Bench::new(0, 0);
            bench.take(T0 + 2500, record);
            bench.take(T0 + 5000, &Batch::heartbeat(T0 + 5000));
            let marks = bench.reading.advance(T0 - 2000, T0 + 2000, 2, false);
            let resume = marks.last().unwrap().1.resume_offset;
            assert_eq!(resume, 0, "its last window is open");
            let marks = bench.reading.advance(T0 + 2000, T0 + 4000, 2, false);
            assert_eq!(marks.last().unwrap().1.resume_offset, 2);
            // The run after that reads it again: what was final is settled.
            let mut again = Bench::new(2, T0 + 2000);
            again.take(T0 + 2500, record);
            let settled_at_ms: Vec<u64> = again.rejected.iter().map(|r| r.settled_at_ms).collect();
            assert_eq!(settled_at_ms, [T0 + 4000]);
        }
    }

    #[test]
    fn a_plain_record_is_rejected_by_its_emoji_or_as_malformed() {
        let mut bench = Bench::new(0, 0);
        bench.take(T0, br#"{"user_id":"u","emoji_type":"no emoji"}"#);
        bench.take(T0 + 1, br#"{"user_id":"","emoji_type":"no emoji"}"#);
        bench.take(T0 + 2, br#"{"user_id":"u"}"#);
        let rejected = bench.rejected.iter();
        let rejected: Vec<_> = rejected.map(|r| (&*r.reason, r.settled_at_ms)).collect();
        let expected = [
            ("unknown_emoji", T0 + 2000),
            ("malformed", NO_WINDOW),
            ("malformed", NO_WINDOW),
        ];
        assert_eq!(rejected, expected);
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

    #[test]
    fn a_record_ahead_of_this_hosts_clock_is_left_and_changes_nothing() {
        let mut bench = Bench::new(0, 0);
        bench.take(NOW_MS, &batch(&[3_600_000]));
        let ahead = AheadRecord {
            offset: 1,
            time_ms: NOW_MS + 5_001,
        };
        let plain = br#"{"user_id":"u","emoji_type":"fire"}"#;
        for _ in 0..2 {
            assert_eq!(bench.read(NOW_MS + 5_001, plain), Err(ahead));
            assert_eq!(bench.reading.clock().newest_ms(), NOW_MS);
        }
        assert_eq!(bench.take(NOW_MS + 5_000, plain).counted, 1);
        assert!(bench.rejected.is_empty());
    }

    #[test]
    fn below_the_offset_of_a_reset_what_is_newer_than_its_limit_is_rejected_once_and_moves_no_time()
    {
        let mut bench = Bench::new(0, 0);
        bench.reading.ahead = Some(AheadLimit {
            below_offset: 3,
            limit_ms: T0 + 5_000,
        });
        bench.take(T0 + 5_000, &batch(&[4_000, 5_001, 9_000]));
        bench.take(NOW_MS + 60_000, br#"{"user_id":"u","emoji_type":"fire"}"#);
        assert_eq!(bench.reading.clock().newest_ms(), T0 + 4_000);
        let rejections = |bench: &Bench| -> Vec<(u64, String, u64)> {
            let of = bench.rejected.iter();
            of.map(|r| (r.offset, r.reason.clone(), r.settled_at_ms))
                .collect()
        };
        let expected = [(0, "ahead".to_owned(), 0), (1, "ahead".to_owned(), 0)];
        assert_eq!(rejections(&bench), expected);
        let part = [5_001, 9_000].map(|at_ms| reaction("🔥", T0 + at_ms));
        assert_eq!(reactions_of(&bench.rejected[0]), part);
        // Behind it the limit has no meaning.
        bench.offset = 3;
        bench.take(T0 + 9_000, &batch(&[9_000]));
        assert_eq!(bench.reading.clock().newest_ms(), T0 + 9_000);
        assert_eq!(
            bench.counts(),
            [(4_000, "a 🔥".into(), 1), (8_000, "a 🔥".into(), 1)]
        );
        // A run that reads it again below its N rejects nothing again.
        let mut again = Bench::new(2, 0);
        again.reading.ahead = bench.reading.ahead;
        again.take(T0 + 5_000, &batch(&[4_000, 5_001, 9_000]));
        assert!(again.rejected.is_empty());
    }

    #[test]
    fn what_a_former_run_settled_is_not_rejected_as_ahead() {
        let mut bench = Bench::new(0, 0);
        bench.reading.ahead = Some(AheadLimit {
            below_offset: 3,
            limit_ms: T0 + 5_000,
        });
        bench.reading.formers = vec![Former {
            reactions: "r".to_owned(),
            window_ms: 2000,
            lateness_ms: 750,
            final_until_ms: T0 + 8_000,
            read_offsets: vec![(3, 1)],
            ahead: Vec::new(),
        }];
        // The first two were final, of the first record only.
        bench.take(T0 + 9_000, &batch(&[4_000, 7_000, 9_000]));
        bench.take(T0 + 9_000, &batch(&[4_000, 7_000]));
        let offsets: Vec<u64> = bench.rejected.iter().map(|r| r.offset).collect();
        assert_eq!(offsets, [0, 1]);
        assert_eq!(bench.counts(), [(4_000, "a 🔥".into(), 1)]);
    }
}
