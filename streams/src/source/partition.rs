//! One partition being read: each record is decoded, judged and counted, or rejected.
//!
//! Pure but for the counters it bumps: records come in as values, so that tests feed it directly.

use std::{collections::BTreeMap, ops::AddAssign};

use emostream_log::Record;
use emostream_protocol::{Window, WindowSize};

use super::format::{Event, Format, RecordTimes};
use crate::{
    aggregate::pre_aggregator::PreAggregator,
    progress::record::{
        AheadLimit, Former, LastRecord, OpenWindows, PartitionProgress, Settlement, Verdict,
    },
    sink::rejections::Rejected,
    time::{
        clock::{MAX_AHEAD_MS, PartitionClock},
        holds::AheadRecord,
    },
};

/// The most bytes of a rejected record that are written again, its key included: with its headers it
/// must fit what the log takes (librdkafka: 1,000,000 bytes), or one giant of another producer would
/// fail every transaction from there on. The largest batch of an ingest is smaller.
const MAX_REJECTED_BYTES: usize = 990_000;

/// What reading needs to know, the same for every partition.
#[derive(Debug, Clone)]
pub struct Rules<F> {
    /// The size of the windows.
    pub size: WindowSize,
    /// How long a partition waits for stragglers.
    pub lateness_ms: u64,
    /// How records become events.
    pub format: F,
}

/// Why a record was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// Its window was closed.
    Late,
    /// Its format is not valid.
    Malformed,
    /// Its times are ahead of the record's own, or of what a reset allows there.
    Ahead,
    /// This build does not know its item; another one may.
    UnknownItem,
}

impl Reason {
    /// The `reason` header of a rejected record.
    fn header<F: Format>(self) -> &'static str {
        match self {
            Reason::Late => LATE,
            Reason::Malformed => MALFORMED,
            Reason::Ahead => AHEAD,
            Reason::UnknownItem => F::UNKNOWN_ITEM,
        }
    }
}

/// The reason of a record whose window was closed.
pub const LATE: &str = "late";

/// The reason of a record whose format is not valid.
pub const MALFORMED: &str = "malformed";

/// The reason of a record whose times are ahead of its own, or of what a reset allows there.
pub const AHEAD: &str = "ahead";

/// What became of the events of some records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Events counted.
    pub counted: u64,
    /// Late events.
    pub late: u64,
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
pub struct PartitionReading<F: Format> {
    partition: u32,
    clock: PartitionClock,
    open: OpenWindows,
    settlement: Settlement,
    formers: Vec<Former>,
    ahead: Option<AheadLimit>,
    last: Option<LastRecord>,
    /// How much older the last record was than the newest time before it.
    behind_ms: u64,
    /// The events of a record, while it is read.
    events: Vec<Event<F::Item>>,
}

impl<F: Format> PartitionReading<F> {
    /// Resumes where `progress` says, with everything up to `final_until_ms` final, and what `formers`
    /// settled.
    pub fn resume(
        progress: &PartitionProgress,
        final_until_ms: u64,
        formers: &[Former],
        rules: &Rules<F>,
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
            events: Vec::new(),
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
        rules: &Rules<F>,
        time: ReadingTime,
        aggregate: &mut PreAggregator<F::Key, F::Item>,
        rejected: &mut Vec<Rejected>,
    ) -> Result<Read, AheadRecord> {
        let (offset, partition) = (record.offset, self.partition);
        let limit = self.ahead.filter(|limit| offset < limit.below_offset);
        let limit_ms = limit.map_or(u64::MAX, |limit| limit.limit_ms);
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let times = rules
            .format
            .decode(record, &mut aggregate.keys, &mut events);
        let readable = times.filter(|times| !is_ahead_of(*times, record));
        let newest_ms = match readable {
            Some(times) => newest_until(times, &events, limit_ms),
            None => Some(record.time_ms).filter(|time_ms| *time_ms <= limit_ms),
        };
        if let Some(time_ms) = newest_ms
            && time_ms > time.now_ms.saturating_add(MAX_AHEAD_MS)
        {
            self.events = events;
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
        let mut read = Read::default();
        if readable.is_some() {
            let parts = self.count(&events, rules.size, &judge, aggregate, &mut read);
            reject_parts(&rules.format, record, events.len(), parts, rejected);
        } else {
            let reason = match times {
                Some(_) => Reason::Ahead,
                None => Reason::Malformed,
            };
            rejected.extend(judge.unreadable::<F>(record, reason));
        }
        (self.formers, self.events) = (formers, events);
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

    /// Counts the events of a record and returns which of them are rejected.
    fn count(
        &mut self,
        events: &[Event<F::Item>],
        size: WindowSize,
        judge: &Judge<'_>,
        aggregate: &mut PreAggregator<F::Key, F::Item>,
        read: &mut Read,
    ) -> RejectedParts {
        let mut parts = RejectedParts::default();
        // Neighbours mostly share a window: it is judged, and its counts are found, once a run.
        let mut rest = events.iter().enumerate().peekable();
        while let Some(&(_, first)) = rest.peek() {
            let window = size.window_of(first.at_ms);
            let verdict = self.verdict(judge, window, first.at_ms);
            let inside = |event: &Event<F::Item>| match judge.judges_windows_whole() {
                true => (window.start..window.end).contains(&event.at_ms),
                false => event.at_ms == first.at_ms,
            };
            let mut counts = (verdict == Verdict::Count).then(|| aggregate.window(window));
            while let Some((index, event)) = rest.next_if(|(_, event)| inside(event)) {
                if let (Some(counts), Some(key), Some(item)) = (&mut counts, event.key, event.item)
                {
                    *counts.entry((key, item)).or_default() += 1;
                }
                read.note(verdict, event.item.is_some());
                if let Some(part) = judge.rejection(verdict, window, event.item.is_some()) {
                    parts.entry(part).or_default().push(index);
                }
            }
        }
        parts
    }

    /// The verdict on an event at `at_ms`. Its window counts as seen unless it is settled or ahead: until the
    /// window is final, a restart must read the record again, to count the event or to reject it.
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
pub const NO_WINDOW: u64 = 0;

/// The events of a record that are rejected, by when they are settled and why: see [`Judge::rejection`].
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
    /// Whether all events of one window have one verdict: windows of former settings, or a limit, may end
    /// within this one.
    fn judges_windows_whole(&self) -> bool {
        self.formers.is_empty() && self.limit_ms == u64::MAX
    }

    /// Of an event at `at_ms`, which `window` holds.
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

    /// When the rejection of an event is settled, and why it is rejected; `None` if it is not. `is_known` is whether
    /// this build knows its item.
    fn rejection(&self, verdict: Verdict, window: Window, is_known: bool) -> Option<(u64, Reason)> {
        match verdict {
            // Windows that are final already go together.
            Verdict::Late => Some((window.end.max(self.final_until_ms), Reason::Late)),
            Verdict::Ahead => Some((NO_WINDOW, Reason::Ahead)),
            Verdict::Count if !is_known => Some((window.end, Reason::UnknownItem)),
            Verdict::Count | Verdict::Settled => None,
        }
    }

    /// Rejects a record that no window is known of, unless an earlier run has.
    fn unreadable<F: Format>(&self, record: Record<'_>, reason: Reason) -> Option<Rejected> {
        let news = self.offset >= self.settlement.read_offset && self.formers.is_empty();
        news.then(|| reject::<F>(record, reason, NO_WINDOW, record.value.to_vec()))
    }
}

/// Whether the times of a record are further ahead of its own time than records may be ahead of the broker's
/// clock: a record must not smuggle them in, or one bad producer would close every window for good.
fn is_ahead_of(times: RecordTimes, record: Record<'_>) -> bool {
    times.newest_ms > record.time_ms.saturating_add(MAX_AHEAD_MS)
}

/// The newest time in a record that is not after `limit_ms`.
fn newest_until<I>(times: RecordTimes, events: &[Event<I>], limit_ms: u64) -> Option<u64> {
    if times.newest_ms <= limit_ms {
        return Some(times.newest_ms);
    }
    let all = events
        .iter()
        .map(|event| event.at_ms)
        .chain([times.base_ms]);
    all.filter(|at_ms| *at_ms <= limit_ms).max()
}

fn reject<F: Format>(
    record: Record<'_>,
    reason: Reason,
    settled_at_ms: u64,
    mut value: Vec<u8>,
) -> Rejected {
    let key = record
        .key
        .map(|key| &key[..key.len().min(MAX_REJECTED_BYTES)]);
    value.truncate(MAX_REJECTED_BYTES - key.map_or(0, <[u8]>::len));
    Rejected {
        partition: record.partition,
        offset: record.offset,
        time_ms: record.time_ms,
        settled_at_ms,
        reason: reason.header::<F>().to_owned(),
        key: key.map(<[u8]>::to_vec),
        value,
    }
}

/// Rejects parts of a record with so many events one by one, each when its window is final: a run may begin between two
/// of them.
fn reject_parts<F: Format>(
    format: &F,
    record: Record<'_>,
    events: usize,
    parts: RejectedParts,
    rejected: &mut Vec<Rejected>,
) {
    let (settled, parts): (Vec<(u64, Reason)>, Vec<Vec<usize>>) = parts.into_iter().unzip();
    let values = match &parts[..] {
        [] => return,
        [part] if part.len() == events => vec![record.value.to_vec()],
        parts => format.parts(record, parts),
    };
    for ((settled_at_ms, reason), value) in settled.into_iter().zip(values) {
        rejected.push(reject::<F>(record, reason, settled_at_ms, value));
    }
}
