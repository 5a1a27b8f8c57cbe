//! Reads one partition: decodes each record, classifies its events, and counts or rejects them.
//!
//! The functions receive records and times as values and do no IO, so that tests can call them directly.

use std::{collections::BTreeMap, ops::AddAssign};

use emostream_log::Record;
use emostream_protocol::{Window, WindowSize};

use super::format::{Format, RecordTimes};
use crate::{
    aggregate::pre_aggregator::{Event, PreAggregator},
    progress::record::{
        AheadLimit, Disposition, LastRecord, OpenWindows, PartitionProgress, PriorEpoch,
        ReplayPosition,
    },
    sink::rejections::Rejected,
    time::{clock::PartitionClock, holds::AheadRecord},
    topics::MAX_AHEAD_MS,
};

/// Maximum bytes of key and value of a rejected record. The rest is cut off. With its headers, the rejected record must
/// not exceed the limit of the log (librdkafka: 1,000,000 bytes). Otherwise one very large record of another producer
/// would make every further transaction fail.
const MAX_REJECTED_BYTES: usize = 990_000;

/// The settings with which every partition is read.
#[derive(Debug, Clone)]
pub struct Rules<F> {
    /// The size of the windows.
    pub size: WindowSize,
    /// The lateness: the difference between the newest time in a partition and the watermark of the partition,
    /// milliseconds.
    pub lateness_ms: u64,
    /// The format of the records.
    pub format: F,
}

/// The reason why a record or an event was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// The window of the event was closed.
    Late,
    /// The record is malformed.
    Malformed,
    /// The time of an event is too far after the time of its record, or after the limit of a reset.
    Ahead,
    /// This build does not know the item of the event; another build may know it.
    UnknownItem,
}

impl Reason {
    const ALL: [Reason; 4] = [
        Reason::Late,
        Reason::Malformed,
        Reason::Ahead,
        Reason::UnknownItem,
    ];

    /// Returns the value of the `reason` header of a rejected record.
    fn header<F: Format>(self) -> &'static str {
        match self {
            Reason::Late => "late",
            Reason::Malformed => "malformed",
            Reason::Ahead => "ahead",
            Reason::UnknownItem => F::UNKNOWN_ITEM,
        }
    }
}

/// Returns the reasons for which records of a format are rejected: the values of the `reason` header.
pub fn reasons<F: Format>() -> [&'static str; 4] {
    Reason::ALL.map(Reason::header::<F>)
}

/// The number of counted events and the number of late events in some records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Number of events counted.
    pub counted: u64,
    /// Number of late events.
    pub late: u64,
}

/// The times by which the events of a record are classified.
#[derive(Debug, Clone, Copy)]
pub struct ReadingTime {
    /// The frontier of the worker: windows that end by this time are closed.
    pub closed_until_ms: u64,
    /// The durable frontier: every later commit has this final-until time or a later one.
    pub final_until_ms: u64,
    /// The time of this host's clock, Unix milliseconds.
    pub now_ms: u64,
}

/// The state of the reading of one partition.
#[derive(Debug)]
pub struct PartitionReading {
    partition: u32,
    clock: PartitionClock,
    open: OpenWindows,
    replay_position: ReplayPosition,
    prior_epochs: Vec<PriorEpoch>,
    ahead: Option<AheadLimit>,
    last: Option<LastRecord>,
    /// How many milliseconds the last record is older than the newest record before it; 0 if the last record is newer.
    behind_ms: u64,
}

impl PartitionReading {
    /// Resumes the partition from `progress`. Windows that end by `final_until_ms` are final. `prior_epochs` are the
    /// epochs before resets, in which other settings may have applied.
    pub fn resume<F>(
        progress: &PartitionProgress,
        final_until_ms: u64,
        prior_epochs: &[PriorEpoch],
        rules: &Rules<F>,
    ) -> Self {
        PartitionReading {
            partition: progress.partition,
            clock: PartitionClock::resumed(progress.resume_watermark_ms, rules.lateness_ms),
            open: OpenWindows::default(),
            replay_position: ReplayPosition {
                final_until_ms,
                read_offset: progress.read_offset,
            },
            prior_epochs: prior_epochs.to_vec(),
            ahead: progress.ahead,
            last: progress.last,
            behind_ms: 0,
        }
    }

    /// Returns how many milliseconds the last record is older than the newest record before it in the partition.
    pub fn behind_ms(&self) -> u64 {
        self.behind_ms
    }

    /// Returns the number of the partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Returns the clock of the partition.
    pub fn clock(&self) -> &PartitionClock {
        &self.clock
    }

    /// Returns the marks that are sent when the worker's frontier advances from `from_ms` to `to_ms`; see
    /// [`OpenWindows::advance`]. `position` is the next offset of the partition, and `idle` whether the partition is
    /// idle.
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

    /// Returns the committed offset at the start of the run. Records between the restart offset and the committed
    /// offset are read again.
    pub fn settled_offset(&self) -> u64 {
        self.replay_position.read_offset
    }

    /// Reads the next record: counts its events, or rejects them.
    ///
    /// # Errors
    ///
    /// Returns the offset and the time of the record if it is ahead of this host's clock. In this case nothing has
    /// changed, and the record must be read again later.
    pub fn read<F: Format>(
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
        let mut events = std::mem::take(&mut aggregate.events);
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
            aggregate.events = events;
            return Err(AheadRecord { offset, time_ms });
        }
        // A prior epoch is not needed any more once the partition is read past the committed offset of that epoch.
        self.prior_epochs
            .retain(|epoch| offset < epoch.read_offset(partition));
        let prior_epochs = std::mem::take(&mut self.prior_epochs);
        let rule = ReplayRule {
            replay_position: self.replay_position,
            prior_epochs: &prior_epochs,
            partition,
            offset,
            watermark_ms: self.clock.watermark_ms(),
            closed_until_ms: time.closed_until_ms,
            final_until_ms: time.final_until_ms,
            limit_ms,
        };
        let mut read = Read::default();
        if readable.is_some() {
            let parts = self.count::<F>(&events, rules.size, &rule, aggregate, &mut read);
            reject_parts(&rules.format, record, events.len(), parts, rejected);
        } else {
            let reason = match times {
                Some(_) => Reason::Ahead,
                None => Reason::Malformed,
            };
            rejected.extend(rule.unreadable::<F>(record, reason));
        }
        (self.prior_epochs, aggregate.events) = (prior_epochs, events);
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
    fn count<F: Format>(
        &mut self,
        events: &[Event<F::Item>],
        size: WindowSize,
        rule: &ReplayRule<'_>,
        aggregate: &mut PreAggregator<F::Key, F::Item>,
        read: &mut Read,
    ) -> RejectedParts {
        let mut parts = RejectedParts::default();
        // Consecutive events are mostly in the same window. So the window is classified once for all of them, and its
        // counts are looked up once.
        let mut rest = events.iter().enumerate().peekable();
        while let Some(&(_, first)) = rest.peek() {
            let window = size.window_of(first.at_ms);
            let disposition = self.classify(rule, window, first.at_ms);
            let inside = |event: &Event<F::Item>| match rule.classifies_whole_windows() {
                true => (window.start..window.end).contains(&event.at_ms),
                false => event.at_ms == first.at_ms,
            };
            let mut counts = (disposition == Disposition::Count).then(|| aggregate.window(window));
            while let Some((index, event)) = rest.next_if(|(_, event)| inside(event)) {
                if let (Some(counts), Some(key), Some(item)) = (&mut counts, event.key, &event.item)
                {
                    *counts.entry((key, item.clone())).or_default() += 1;
                }
                read.note(disposition, event.item.is_some());
                if let Some(part) = rule.rejection(disposition, window, event.item.is_some()) {
                    parts.entry(part).or_default().push(index);
                }
            }
        }
        parts
    }

    /// Classifies an event at `at_ms`. If this run counts or rejects the event together with its window, the restart
    /// offset stays at or below this record until the window is final. So a restart before that reads the record again,
    /// and counts or rejects the event again.
    fn classify(&mut self, rule: &ReplayRule<'_>, window: Window, at_ms: u64) -> Disposition {
        let disposition = rule.classify(window, at_ms);
        if matches!(disposition, Disposition::Count | Disposition::Late) {
            self.open
                .record_first_offset(window, rule.offset, rule.watermark_ms);
        }
        disposition
    }
}

impl AddAssign for Read {
    fn add_assign(&mut self, other: Read) {
        self.counted += other.counted;
        self.late += other.late;
    }
}

impl Read {
    fn note(&mut self, disposition: Disposition, is_known: bool) {
        match disposition {
            Disposition::Count => self.counted += u64::from(is_known),
            Disposition::Late => self.late += 1,
            Disposition::AlreadyCommitted | Disposition::Ahead => {}
        }
    }
}

/// The value of [`Rejected::settled_at_ms`] of a rejection that does not depend on a window. Every commit may contain
/// such a rejection.
pub const NO_WINDOW: u64 = 0;

/// The indices of the rejected events of a record, grouped by the reason and by the earliest final-until time of a
/// commit that may contain their rejection; see [`ReplayRule::rejection`].
type RejectedParts = BTreeMap<(u64, Reason), Vec<usize>>;

/// The replay rule, with the values that are the same for all events of a record.
struct ReplayRule<'a> {
    replay_position: ReplayPosition,
    /// The prior epochs whose committed offset is greater than the offset of this record. There are some only after a
    /// reset.
    prior_epochs: &'a [PriorEpoch],
    partition: u32,
    offset: u64,
    watermark_ms: u64,
    closed_until_ms: u64,
    final_until_ms: u64,
    /// Events with later times are rejected as `ahead`; `u64::MAX` if there is no limit.
    limit_ms: u64,
}

impl ReplayRule<'_> {
    /// Whether all events of one window are treated in the same way. After a reset, they may be treated differently: a
    /// window of the previous settings may end within this window, and so may the limit for `ahead` events.
    fn classifies_whole_windows(&self) -> bool {
        self.prior_epochs.is_empty() && self.limit_ms == u64::MAX
    }

    /// Returns how this run treats an event at `at_ms`, which is in `window`.
    fn classify(&self, window: Window, at_ms: u64) -> Disposition {
        let covers = |epoch: &PriorEpoch| epoch.covers(self.partition, self.offset, at_ms);
        if self.prior_epochs.iter().any(covers) {
            return Disposition::AlreadyCommitted;
        }
        if at_ms > self.limit_ms {
            // This rejection does not depend on a window, so the first commit after it contains it. If the record is
            // below the committed offset, an earlier run has committed the rejection.
            return match self.offset < self.replay_position.read_offset {
                true => Disposition::AlreadyCommitted,
                false => Disposition::Ahead,
            };
        }
        let (watermark_ms, closed_until_ms) = (self.watermark_ms, self.closed_until_ms);
        self.replay_position
            .classify(window, self.offset, watermark_ms, closed_until_ms)
    }

    /// Returns the earliest final-until time of a commit that may contain the rejection of an event, and the reason;
    /// `None` if the event is not rejected. `is_known` is whether this build knows the item of the event.
    fn rejection(
        &self,
        disposition: Disposition,
        window: Window,
        is_known: bool,
    ) -> Option<(u64, Reason)> {
        match disposition {
            // All events whose windows are final already get the same final-until time, so that one rejection contains
            // all of them.
            Disposition::Late => Some((window.end.max(self.final_until_ms), Reason::Late)),
            Disposition::Ahead => Some((NO_WINDOW, Reason::Ahead)),
            Disposition::Count if !is_known => Some((window.end, Reason::UnknownItem)),
            Disposition::Count | Disposition::AlreadyCommitted => None,
        }
    }

    /// Rejects a record that cannot be decoded, or whose times are not valid. Does nothing if an earlier run has
    /// rejected it.
    fn unreadable<F: Format>(&self, record: Record<'_>, reason: Reason) -> Option<Rejected> {
        let is_new =
            self.offset >= self.replay_position.read_offset && self.prior_epochs.is_empty();
        is_new.then(|| reject::<F>(record, reason, NO_WINDOW, record.value.to_vec()))
    }
}

/// Whether an event of a record is later than the record by more than [`MAX_AHEAD_MS`]. Such a record must be rejected:
/// the broker checks only the time of the record, so the events of one faulty producer could otherwise close every
/// window.
fn is_ahead_of(times: RecordTimes, record: Record<'_>) -> bool {
    times.newest_ms > record.time_ms.saturating_add(MAX_AHEAD_MS)
}

/// Returns the newest time in a record that is not after `limit_ms`.
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

/// Rejects parts of a record that has `events` events. Each part gets a rejection of its own. A run may begin when the
/// window of one part is final and the window of another part is not, and must then write only the second rejection.
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
