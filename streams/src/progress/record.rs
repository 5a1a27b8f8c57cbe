//! The progress of an application, and the rule by which a restart treats each event that it reads again.
//!
//! The progress record is written in the same transaction as the results. A restart continues from the record and the
//! log alone, exactly once: there is no local state, and no snapshot of open windows.
//!
//! ```text
//!  offsets of a partition   ────R──────────────N─────────▶
//!                               │              └ committed offset: read up to here when F was committed
//!                               └ restart offset: the first that may hold events of windows still open at F
//! ```
//!
//! F is the final-until time: every window that ends at or before it is final.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
};

use emostream_log::Header;
use emostream_protocol::{ResultOrder, Unwritten, Window, WindowSize};
use serde::{Deserialize, Serialize};

use super::settings::{LATENESS_MS, Settings, WINDOW_MS};

/// The progress of the application: the value of the record in the progress topic. [`crate::progress::stored`] defines
/// the format.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "crate::progress::stored::StoredProgress")]
pub struct Progress {
    /// The settings of the run that wrote the progress; `None` after a reset, since a run with any settings may
    /// continue from it.
    pub settings: Option<Settings>,
    /// The final-until time (F): every window that ends at or before it is final. Unix milliseconds.
    pub final_until_ms: u64,
    /// The progress of each partition of the source, in the order of the partitions' numbers.
    pub partitions: Vec<PartitionProgress>,
    /// The prior epochs: the settings and offsets from before each reset. An epoch is stored as long as a run may read
    /// some of its records again. The newest epoch is the last.
    pub prior_epochs: Vec<PriorEpoch>,
    /// The backward resets so far. The newest results are those with the greatest reset number.
    pub resets: Resets,
    /// The end of the newest window that has final results, Unix milliseconds. It is later than the final-until time
    /// only after a backward reset.
    pub newest_final_ms: u64,
    /// The id of the Kafka cluster; `None` for a log without one, or if version 0.1 wrote the record.
    pub cluster_id: Option<String>,
    /// The run that wrote the record; `None` if version 0.1 or a reset wrote it.
    pub run: Option<RunIdentity>,
    /// The interval within which the writer commits again, milliseconds. `None` if version 0.1 wrote the record, which
    /// commits at least once a minute.
    pub heartbeat_ms: Option<u64>,
    /// The final results that records of tables do not contain yet.
    pub unwritten: Unwritten,
}

impl Progress {
    /// Returns the size of the windows for which the progress was computed, if the size is known.
    pub fn window_ms(&self) -> Option<u64> {
        let of_settings = self.settings.as_ref();
        let of_settings = of_settings.and_then(|settings| settings.number(WINDOW_MS));
        let of_epoch = self.prior_epochs.last().map(|epoch| epoch.window_ms);
        of_settings.or(of_epoch)
    }

    /// Whether a reset wrote the progress. A reset that only rejects records that are ahead of the clock keeps the
    /// settings, but its record does not name a run.
    pub fn is_of_a_reset(&self) -> bool {
        self.settings.is_none() || (self.run.is_none() && self.heartbeat_ms.is_some())
    }
}

/// The name of the header of a progress record that contains its [`CommitId`].
pub const COMMIT_HEADER: &str = "commit";

/// The id of a commit. If a run receives no response to a commit, it compares this id with the newest record of the
/// progress topic, to find out whether the commit was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitId {
    /// A random value, which is different for each run.
    run: String,
    number: u64,
}

impl CommitId {
    /// Returns the id of the first commit of a new run.
    pub fn first() -> CommitId {
        // Each `RandomState` of the standard library has another random seed.
        let random = RandomState::new().hash_one(std::process::id());
        CommitId {
            run: format!("{random:016x}"),
            number: 1,
        }
    }

    /// Returns the id of the next commit of the same run.
    pub fn next(&self) -> CommitId {
        CommitId {
            run: self.run.clone(),
            number: self.number + 1,
        }
    }

    /// Returns the header that the progress record of this commit has.
    pub fn header(&self) -> Header {
        Header {
            name: COMMIT_HEADER.to_owned(),
            value: self.to_string().into(),
        }
    }

    /// Parses the value of a header; `None` if it is not an id.
    pub fn parse(value: &[u8]) -> Option<CommitId> {
        let (run, number) = std::str::from_utf8(value).ok()?.split_once('-')?;
        Some(CommitId {
            run: run.to_owned(),
            number: number.parse().ok()?,
        })
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.run, self.number)
    }
}

/// The backward resets: how often a reset has set the final-until time to an earlier time, and the last such time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resets {
    /// The number of backward resets. Results have it in a header once it is greater than 0.
    pub number: u64,
    /// The final-until time that the last backward reset has set, Unix milliseconds. Final results from before this
    /// reset are superseded if their windows end after this time.
    pub until_ms: u64,
}

impl Resets {
    /// Returns the order of the oldest final result in a sliding span of `span_ms` as of the final-until time. The span
    /// may contain later final results, but not older ones.
    pub fn oldest_in_span(&self, final_until_ms: u64, span_ms: u64) -> ResultOrder {
        let start_ms = final_until_ms.saturating_sub(span_ms);
        // If the span begins before the final-until time of the last reset, it also contains final results from before
        // that reset, which have lower numbers.
        let is_over = self.number > 0 && start_ms < self.until_ms;
        ResultOrder {
            resets: if is_over { 0 } else { self.number },
            start_ms,
        }
    }
}

/// The identity of a run, stored in its progress records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// The name of the run's host.
    pub host: String,
    /// The index of the process in the cluster.
    pub process: usize,
    /// The id of the operating system's process.
    pub pid: u32,
    /// The time at which the process started, Unix milliseconds. It distinguishes containers, which may have the same
    /// host name, and whose process usually has the id 1.
    #[serde(default)]
    pub started_ms: u64,
}

impl fmt::Display for RunIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunIdentity {
            host, process, pid, ..
        } = self;
        // The name of the host is escaped, since it was read from a topic and is logged.
        let host = host.escape_debug();
        write!(f, "host {host}, process {process}, pid {pid}")
    }
}

/// The progress of one partition when the record was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// The number of the partition.
    pub partition: u32,
    /// The restart offset (R): the first offset that may hold events of windows that are still open.
    pub resume_offset: u64,
    /// The partition's watermark just before the restart offset.
    pub resume_watermark_ms: u64,
    /// The committed offset (N): the partition was read up to here.
    pub read_offset: u64,
    /// The last record below the committed offset. If the log has another record at the offset of this record, the
    /// topic was recreated.
    pub last: Option<LastRecord>,
    /// Whether the partition was read to its end and had no new record within the idle timeout.
    pub idle: bool,
    /// The limit above which records are rejected as `ahead`, until the restart offset has passed it.
    pub ahead: Option<AheadLimit>,
}

impl PartitionProgress {
    /// Returns the initial progress of a partition that was not read before. Reading begins at `offset`.
    pub fn begin(partition: u32, offset: u64) -> PartitionProgress {
        PartitionProgress {
            partition,
            resume_offset: offset,
            resume_watermark_ms: 0,
            read_offset: offset,
            last: None,
            idle: false,
            ahead: None,
        }
    }
}

/// A limit for the times of the records in a part of a partition. A reset sets it if these records may have times in
/// the future, because a clock was wrong when they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AheadLimit {
    /// The limit applies to offsets below this one.
    pub below_offset: u64,
    /// The greatest time that is not ahead, Unix milliseconds. Events with later times do not advance the watermark.
    /// They are rejected if no earlier run has committed them.
    pub limit_ms: u64,
}

/// The offset and the time of the record that was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LastRecord {
    /// The offset of the record.
    pub offset: u64,
    /// The time of the record, Unix milliseconds.
    pub time_ms: u64,
}

/// The result of the rule by which a restart treats an event that it reads again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The event is counted.
    Count,
    /// The event is ignored: an earlier run has committed it, as counted or as rejected.
    AlreadyCommitted,
    /// The event is rejected, since its window is closed.
    Late,
    /// The event is rejected, since its time is later than the limit of a reset.
    Ahead,
}

/// The position at which a run starts in one partition. It determines which events earlier runs have committed.
///
/// [`ReplayPosition::classify`] is correct only if the run reads up to the committed offset again before its frontier
/// passes the final-until time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayPosition {
    /// The final-until time at the start of the run.
    pub final_until_ms: u64,
    /// The committed offset at the start of the run.
    pub read_offset: u64,
}

impl ReplayPosition {
    /// Returns how this run treats an event of `window` at `offset`.
    ///
    /// `watermark_ms` is the watermark of the partition just before the record, `closed_until_ms` the frontier of the
    /// worker.
    ///
    /// An event is late if its window ends at or before the watermark or the frontier. An event below the committed
    /// offset was committed already if its window was final at the start: as counted, or as rejected. A rejection is
    /// not committed before its window is final, so this run rejects all other late events below the committed offset.
    pub fn classify(
        &self,
        window: Window,
        offset: u64,
        watermark_ms: u64,
        closed_until_ms: u64,
    ) -> Disposition {
        if offset < self.read_offset && window.end <= self.final_until_ms {
            Disposition::AlreadyCommitted
        } else if window.end <= watermark_ms.max(closed_until_ms) {
            Disposition::Late
        } else {
            Disposition::Count
        }
    }
}

/// The events that the runs before a reset have committed, and the settings of these runs.
///
/// The same event may belong to a final window of the settings before the reset, and to an open window of the settings
/// after it. An event that was counted or rejected before must not be counted again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriorEpoch {
    /// The size of the windows before the reset, milliseconds.
    pub window_ms: u64,
    /// The lateness before the reset, milliseconds.
    pub lateness_ms: u64,
    /// The final-until time before the reset.
    pub final_until_ms: u64,
    /// The committed offset of each partition before the reset.
    pub read_offsets: Vec<(u32, u64)>,
    /// For each partition, the limit above which records were rejected as `ahead` before the reset.
    #[serde(default)]
    pub ahead: Vec<(u32, AheadLimit)>,
}

impl PriorEpoch {
    /// Returns the committed offset of `partition` before the reset; 0 if the partition was not read.
    pub fn read_offset(&self, partition: u32) -> u64 {
        let of = self.read_offsets.iter().find(|(p, _)| *p == partition);
        of.map_or(0, |(_, offset)| *offset)
    }

    /// Returns the prior epoch that ends with `progress`, which a run with `settings` has written.
    pub fn of(progress: &Progress, settings: &Settings) -> PriorEpoch {
        let partitions = progress.partitions.iter();
        let ahead = partitions
            .clone()
            .filter_map(|p| Some((p.partition, p.ahead?)));
        PriorEpoch {
            window_ms: settings.number(WINDOW_MS).unwrap_or(1),
            lateness_ms: settings.number(LATENESS_MS).unwrap_or(0),
            final_until_ms: progress.final_until_ms,
            read_offsets: partitions.map(|p| (p.partition, p.read_offset)).collect(),
            ahead: ahead.collect(),
        }
    }

    /// Whether an event at `at_ms`, at an offset of `partition` below the committed offset, was counted or rejected in
    /// this epoch.
    pub fn covers(&self, partition: u32, offset: u64, at_ms: u64) -> bool {
        let rejected = |(of, limit): &(u32, AheadLimit)| {
            *of == partition && offset < limit.below_offset && at_ms > limit.limit_ms
        };
        let window = WindowSize::from_ms(self.window_ms).map(|size| size.window_of(at_ms));
        window.is_some_and(|window| window.end <= self.final_until_ms)
            || self.ahead.iter().any(rejected)
    }

    /// Whether a run may still read events of this epoch. This is the case if a partition resumes below the committed
    /// offset of the epoch, or if a reset has set the final-until time back and it has not yet reached the final-until
    /// time of the epoch again.
    pub fn is_live<'a>(
        &self,
        final_until_ms: u64,
        partitions: impl IntoIterator<Item = &'a PartitionProgress>,
    ) -> bool {
        let again = |p: &PartitionProgress| p.resume_offset < self.read_offset(p.partition);
        final_until_ms < self.final_until_ms || partitions.into_iter().any(again)
    }
}

/// The first offset of each open window of a partition, from which the restart offset is computed.
#[derive(Debug, Clone, Default)]
pub struct OpenWindows {
    /// For each open window: the first offset with an event of the window, and the watermark just before that record.
    /// The key is the last instant of the window.
    first: BTreeMap<u64, (u64, u64)>,
}

impl OpenWindows {
    /// Stores that the record at `offset` contains an event of `window`. The event is counted, late, or rejected once
    /// the window is final.
    pub fn record_first_offset(&mut self, window: Window, offset: u64, watermark_ms: u64) {
        let first = self.first.entry(window.last_ms());
        first.or_insert((offset, watermark_ms));
    }

    /// Returns the restart offset and its watermark for a commit whose final-until time is greater than `after_ms`. The
    /// restart offset is the lowest first offset of the windows that end after the final-until time, or the current
    /// position if there is no such window.
    fn resume(&self, after_ms: u64, now: (u64, u64)) -> (u64, u64) {
        let open = self.first.range(after_ms + 1..).map(|(_, first)| *first);
        open.min().unwrap_or(now)
    }

    /// Returns the marks that a worker sends when its frontier advances from `from_ms` to `to_ms`. A mark is a time and
    /// a progress. The progress is valid for commits whose final-until time is after the time of the mark and not after
    /// the time of the next mark. `now` is the progress that is valid if no window is open.
    ///
    /// Removes the windows that end by `to_ms`.
    pub fn advance(
        &mut self,
        from_ms: u64,
        to_ms: u64,
        now: PartitionProgress,
    ) -> Vec<(u64, PartitionProgress)> {
        let closing = self.first.range(from_ms + 1..to_ms).map(|(last, _)| *last);
        let times: Vec<u64> = std::iter::once(from_ms).chain(closing).collect();
        let mark = |time| {
            let (resume_offset, resume_watermark_ms) =
                self.resume(time, (now.resume_offset, now.resume_watermark_ms));
            let passed = |limit: &AheadLimit| resume_offset >= limit.below_offset;
            PartitionProgress {
                resume_offset,
                resume_watermark_ms,
                ahead: now.ahead.filter(|limit| !passed(limit)),
                ..now
            }
        };
        let marks = times.iter().map(|time| (*time, mark(*time))).collect();
        self.first = self.first.split_off(&to_ms);
        marks
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::time::clock::PartitionClock;
    use proptest::prelude::*;

    fn window(start: u64) -> Window {
        Window {
            start,
            end: start + 10,
        }
    }

    #[test]
    fn the_replay_rule() {
        let position = ReplayPosition {
            final_until_ms: 100,
            read_offset: 50,
        };
        let classify = |start, offset, watermark, closed| {
            position.classify(window(start), offset, watermark, closed)
        };
        // The watermark of its partition shows that the event is late, and its window is final. So the event is
        // rejected only if its offset is the committed offset or greater.
        assert_eq!(classify(80, 49, 95, 100), Disposition::AlreadyCommitted);
        assert_eq!(classify(80, 50, 95, 100), Disposition::Late);
        // The watermark of its partition shows that the event is late, and its window is open. So its rejection is not
        // committed yet.
        assert_eq!(classify(100, 49, 110, 100), Disposition::Late);
        // The watermark does not show that the event is late, and its window is final. Below the committed offset the
        // event was counted already; otherwise it is late.
        assert_eq!(classify(90, 49, 95, 100), Disposition::AlreadyCommitted);
        assert_eq!(classify(90, 50, 95, 100), Disposition::Late);
        // The event is in an open window, so it is counted.
        assert_eq!(classify(100, 10, 95, 100), Disposition::Count);
        assert_eq!(classify(100, 60, 95, 100), Disposition::Count);
        // The window was closed by this run, since the partition was idle.
        assert_eq!(classify(110, 60, 95, 120), Disposition::Late);
    }

    #[test]
    fn a_prior_epoch_covers_events_that_were_final_or_rejected_as_ahead() {
        let limit = AheadLimit {
            below_offset: 20,
            limit_ms: 500,
        };
        let epoch = PriorEpoch {
            window_ms: 100,
            lateness_ms: 0,
            final_until_ms: 200,
            read_offsets: vec![(3, 30)],
            ahead: vec![(3, limit)],
        };
        assert!(epoch.covers(3, 0, 199));
        assert!(!epoch.covers(3, 0, 200));
        // The epoch has rejected an event as ahead only if the event is later than the limit, in the partition of the
        // limit, and below the offset of the limit.
        assert!(epoch.covers(3, 19, 501));
        assert!(!epoch.covers(3, 20, 501));
        assert!(!epoch.covers(4, 19, 501));
        assert!(!epoch.covers(3, 19, 500));
    }

    /// A simulated run in a test: it reads some records of a partition, closes some windows and commits them, and ends.
    /// Each record has one time, and some records are heartbeats. Whatever is committed and read again, every event
    /// must be counted once or rejected once.
    #[derive(Debug, Clone)]
    struct Run {
        /// The run reads up to this offset, and then ends.
        dies_at: usize,
        /// The number of closed windows that the run commits.
        commits: usize,
    }

    fn runs() -> impl Strategy<Value = Vec<Run>> {
        let run = (0_usize..60, 0_usize..8);
        let run = run.prop_map(|(dies_at, commits)| Run { dies_at, commits });
        proptest::collection::vec(run, 0..6)
    }

    proptest! {
        #[test]
        fn every_event_is_counted_once_or_rejected_once(
            records in proptest::collection::vec((1_u64..200, any::<bool>()), 1..60), runs in runs(), lateness in 0_u64..20,
            // The frontier of the worker stays this much behind the watermark, because of another partition.
            behind in 0_u64..60,
        ) {
            let size = WindowSize::from_ms(10).unwrap();
            let mut progress = PartitionProgress::begin(0, 0);
            let mut final_until = 0;
            let mut counted = vec![0; records.len()];
            let mut rejected = vec![0; records.len()];
            let last = Run { dies_at: usize::MAX, commits: usize::MAX };
            for run in runs.into_iter().chain([last]) {
                let replay_position = ReplayPosition { final_until_ms: final_until, read_offset: progress.read_offset };
                let mut clock = PartitionClock::resumed(progress.resume_watermark_ms, lateness);
                let mut open = OpenWindows::default();
                let mut frontier = final_until;
                let mut pending: Vec<(u64, usize, bool)> = Vec::new(); // time, offset, whether counted
                let mut commits = 0;
                for (offset, (time, beats)) in records.iter().enumerate().skip(progress.resume_offset as usize) {
                    if offset >= run.dies_at {
                        break;
                    }
                    let watermark = clock.watermark_ms();
                    let window = size.window_of(*time);
                    match replay_position.classify(window, offset as u64, watermark, frontier) {
                        _ if *beats => {}
                        Disposition::Count => {
                            open.record_first_offset(window, offset as u64, watermark);
                            pending.push((window.last_ms(), offset, true));
                        }
                        Disposition::Late => {
                            open.record_first_offset(window, offset as u64, watermark);
                            pending.push((window.last_ms().max(frontier), offset, false));
                        }
                        Disposition::AlreadyCommitted | Disposition::Ahead => {}
                    }
                    clock.observe(*time);
                    let to = size.floor(clock.watermark_ms().saturating_sub(behind));
                    let position = offset as u64 + 1;
                    // The frontier does not advance while the run reads records below the committed offset.
                    if to > frontier && position >= replay_position.read_offset {
                        let now = PartitionProgress {
                            resume_watermark_ms: clock.watermark_ms(), ..PartitionProgress::begin(0, position)
                        };
                        let marks = open.advance(frontier, to, now);
                        frontier = to;
                        if commits < run.commits {
                            commits += 1;
                            progress = marks.last().unwrap().1;
                            final_until = to;
                            for (_, offset, count) in pending.extract_if(.., |(time, ..)| *time < to) {
                                if count { counted[offset] += 1 } else { rejected[offset] += 1 }
                            }
                        }
                    }
                }
                if run.dies_at == usize::MAX {
                    for (_, offset, count) in pending {
                        if count { counted[offset] += 1 } else { rejected[offset] += 1 }
                    }
                }
            }
            // The oracle reads all records once, without a restart.
            let mut newest = 0_u64;
            for (offset, (time, beats)) in records.iter().enumerate() {
                let late = time / 10 * 10 + 10 <= newest.saturating_sub(lateness);
                let expected = (u32::from(!beats && !late), u32::from(!beats && late));
                prop_assert_eq!((counted[offset], rejected[offset]), expected, "offset {}", offset);
                newest = newest.max(*time);
            }
        }

        #[test]
        fn a_mark_resumes_at_the_first_event_of_any_window_open_at_its_commit(
            events in proptest::collection::vec(0_u64..30, 1..40), from in 0_u64..10, to in 11_u64..40,
        ) {
            // Windows have a size of 10 ms, and each record has one event.
            let (from, to) = (from * 10, to * 10);
            let mut open = OpenWindows::default();
            let events: Vec<u64> = events.iter().map(|w| w * 10).filter(|start| *start >= from).collect();
            for (offset, start) in events.iter().enumerate() {
                open.record_first_offset(window(*start), offset as u64, offset as u64);
            }
            let position = events.len() as u64;
            let marks = open.advance(from, to, PartitionProgress::begin(0, position));
            for f in (from + 10..=to).step_by(10) {
                let mark = marks.iter().rfind(|(time, _)| *time < f).unwrap().1;
                let first_open = events.iter().position(|start| *start >= f);
                prop_assert_eq!(mark.resume_offset, first_open.map_or(position, |at| at as u64));
            }
        }
    }
}
