//! Where the application stands, and what that means for each event that is read again.
//!
//! The record is written in the same transaction as the results. With it, and the log, a restart
//! continues exactly: no local state, no snapshot of open windows.
//!
//! ```text
//!  offsets of a partition   ────R──────────────N─────────▶
//!                               │              └ read up to here when F was committed
//!                               └ the first that may hold events of windows still open at F
//! ```

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, RandomState},
};

use emostream_log::Header;
use emostream_protocol::{ResultOrder, Unwritten, Window, WindowSize};
use serde::{Deserialize, Serialize};

use super::settings::{LATENESS_MS, Settings, WINDOW_MS};

/// Where the application stands: the value of the `progress` topic, `stored_progress.rs` has its format.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "crate::progress::stored::StoredProgress")]
pub struct Progress {
    /// What the results depend on; `None` after a reset: any settings may go on from it.
    pub settings: Option<Settings>,
    /// F: every window that ends at or before this is final. Unix milliseconds.
    pub final_until_ms: u64,
    /// Each partition of the source, by number.
    pub partitions: Vec<PartitionProgress>,
    /// What was settled under other settings, as long as some of it may be read again; the newest last.
    pub formers: Vec<Former>,
    /// The backward resets so far; the newest results are those of the greatest number.
    pub resets: Resets,
    /// The end of the newest window that has finals and was accepted, Unix milliseconds. Later than F only
    /// after a backward reset.
    pub newest_final_ms: u64,
    /// The id of the Kafka cluster; `None` for a log without one, or where the former version wrote it.
    pub cluster_id: Option<String>,
    /// The run that wrote it; `None` where the former version or a reset did.
    pub run: Option<RunIdentity>,
    /// How long it takes at most until its writer commits again, milliseconds; `None` where the former version wrote
    /// it, which commits at least once a minute.
    pub heartbeat_ms: Option<u64>,
    /// What the records of tables do not hold yet.
    pub unwritten: Unwritten,
}

impl Progress {
    /// The size of the windows that it was made under, where that is known.
    pub fn window_ms(&self) -> Option<u64> {
        let of_settings = self.settings.as_ref();
        let of_settings = of_settings.and_then(|settings| settings.number(WINDOW_MS));
        let of_former = self.formers.last().map(|former| former.window_ms);
        of_settings.or(of_former)
    }

    /// Whether a reset wrote it. One that only rejects what is ahead keeps the settings, but names no run.
    pub fn is_of_a_reset(&self) -> bool {
        self.settings.is_none() || (self.run.is_none() && self.heartbeat_ms.is_some())
    }
}

/// The header of a progress record that holds its [`CommitId`].
pub const COMMIT_HEADER: &str = "commit";

/// Names a commit, so that a run that lost the answer finds out whether it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitId {
    /// Another one for each run.
    run: String,
    number: u64,
}

impl CommitId {
    /// The first commit of a run.
    pub fn first() -> CommitId {
        // The standard library's random seed of a hash table: unpredictable, and another one for each call.
        let random = RandomState::new().hash_one(std::process::id());
        CommitId {
            run: format!("{random:016x}"),
            number: 1,
        }
    }

    /// The commit of the same run after this one.
    pub fn next(&self) -> CommitId {
        CommitId {
            run: self.run.clone(),
            number: self.number + 1,
        }
    }

    /// The header of a progress record of this commit.
    pub fn header(&self) -> Header {
        Header {
            name: COMMIT_HEADER.to_owned(),
            value: self.to_string().into(),
        }
    }

    /// The id in a header's value, if it is one.
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

/// How often the final time was set back on purpose, and to where the last time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resets {
    /// How often; results carry it in a header once it is greater than 0.
    pub number: u64,
    /// F as it was set by the last one, Unix milliseconds: finals of a lower number that end later are of a
    /// time that was given up.
    pub until_ms: u64,
}

impl Resets {
    /// The oldest final that lies in a sliding span of `span_ms` as of F: all later ones and no older ones may lie in
    /// it.
    pub fn oldest_in_span(&self, final_until_ms: u64, span_ms: u64) -> ResultOrder {
        let start_ms = final_until_ms.saturating_sub(span_ms);
        // Finals of before the last reset are in the span, too, whatever their number.
        let is_over = self.number > 0 && start_ms < self.until_ms;
        ResultOrder {
            resets: if is_over { 0 } else { self.number },
            start_ms,
        }
    }
}

/// Which run wrote a progress record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunIdentity {
    /// The name of its host.
    pub host: String,
    /// Its index in the cluster.
    pub process: usize,
    /// The id of the operating system's process.
    pub pid: u32,
    /// When the process started, by its clock: containers may share a host's name, and all call their process 1.
    #[serde(default)]
    pub started_ms: u64,
}

impl fmt::Display for RunIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunIdentity {
            host, process, pid, ..
        } = self;
        // The host's name comes from a topic.
        let host = host.escape_debug();
        write!(f, "host {host}, process {process}, pid {pid}")
    }
}

/// How far one partition was read when the record was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionProgress {
    /// Which partition.
    pub partition: u32,
    /// R: the first offset that may still hold events of open windows. Reading resumes here.
    pub resume_offset: u64,
    /// The partition's watermark just before R.
    pub resume_watermark_ms: u64,
    /// N: the offset that was read up to.
    pub read_offset: u64,
    /// The last record below N: where the log holds another one in its place, it is another log.
    pub last: Option<LastRecord>,
    /// Whether it was read to its end and had brought nothing for the idle timeout.
    pub idle: bool,
    /// What is rejected as `ahead`, until R has passed it.
    pub ahead: Option<AheadLimit>,
}

impl PartitionProgress {
    /// A partition that is read from `offset` on for the first time.
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

/// A part of a partition's log whose records may be dated ahead of the true time: a clock was wrong when they
/// were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AheadLimit {
    /// E: it is the part below this offset.
    pub below_offset: u64,
    /// L: what is newer than this there moves no time, and is rejected unless it was settled before.
    /// Unix milliseconds.
    pub limit_ms: u64,
}

/// A record that was read last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its place in the partition.
    pub offset: u64,
    /// Its time, Unix milliseconds.
    pub time_ms: u64,
}

/// What is to be done with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Count it.
    Count,
    /// An earlier run has committed it, as counted or as rejected: leave it.
    Settled,
    /// Report it as rejected.
    Late,
    /// Report it as ahead of what a reset allows there.
    Ahead,
}

/// Where a run begins in one partition: what was settled before it.
///
/// It holds for runs that read up to N again before they let time pass F.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// F at the start of the run.
    pub final_until_ms: u64,
    /// N at the start of the run.
    pub read_offset: u64,
}

impl Settlement {
    /// The replay rule, for an event of `window` at `offset`.
    ///
    /// `watermark_ms` is its partition's just before the record, `closed_until_ms` where the worker stands now.
    ///
    /// An event is late when its window ends at or before the watermark, or where the worker stands.
    /// What is read again below N was committed if its window was final at the start: as counted, or as
    /// rejected, which no commit holds before.
    pub fn judge(
        &self,
        window: Window,
        offset: u64,
        watermark_ms: u64,
        closed_until_ms: u64,
    ) -> Verdict {
        if offset < self.read_offset && window.end <= self.final_until_ms {
            Verdict::Settled
        } else if window.end <= watermark_ms.max(closed_until_ms) {
            Verdict::Late
        } else {
            Verdict::Count
        }
    }
}

/// What a run had settled when its progress was reset to go on with other settings.
///
/// The same event may belong to a final window under the former settings and to an open one under
/// the next: whatever was counted or rejected once stays so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// `--window` then.
    pub window_ms: u64,
    /// `--lateness` then.
    pub lateness_ms: u64,
    /// F then.
    pub final_until_ms: u64,
    /// N of each partition then.
    pub read_offsets: Vec<(u32, u64)>,
    /// What was rejected as `ahead` then, by partition.
    #[serde(default)]
    pub ahead: Vec<(u32, AheadLimit)>,
}

impl Former {
    /// N of `partition` then; 0 if it was not read.
    pub fn read_offset(&self, partition: u32) -> u64 {
        let of = self.read_offsets.iter().find(|(p, _)| *p == partition);
        of.map_or(0, |(_, offset)| *offset)
    }

    /// What was settled by `progress` under `settings`.
    pub fn of(progress: &Progress, settings: &Settings) -> Former {
        let partitions = progress.partitions.iter();
        let ahead = partitions
            .clone()
            .filter_map(|p| Some((p.partition, p.ahead?)));
        Former {
            window_ms: settings.number(WINDOW_MS).unwrap_or(1),
            lateness_ms: settings.number(LATENESS_MS).unwrap_or(0),
            final_until_ms: progress.final_until_ms,
            read_offsets: partitions.map(|p| (p.partition, p.read_offset)).collect(),
            ahead: ahead.collect(),
        }
    }

    /// Whether an event of `at_ms`, at an offset of `partition` below N, was counted or rejected then.
    pub fn settles(&self, partition: u32, offset: u64, at_ms: u64) -> bool {
        let rejected = |(of, limit): &(u32, AheadLimit)| {
            *of == partition && offset < limit.below_offset && at_ms > limit.limit_ms
        };
        let window = WindowSize::from_ms(self.window_ms).map(|size| size.window_of(at_ms));
        window.is_some_and(|window| window.end <= self.final_until_ms)
            || self.ahead.iter().any(rejected)
    }

    /// Whether what was settled then may come again: because a partition may read it again, or because time
    /// was set back and has not passed F of then.
    pub fn matters<'a>(
        &self,
        final_until_ms: u64,
        partitions: impl IntoIterator<Item = &'a PartitionProgress>,
    ) -> bool {
        let again = |p: &PartitionProgress| p.resume_offset < self.read_offset(p.partition);
        final_until_ms < self.final_until_ms || partitions.into_iter().any(again)
    }
}

/// Where a partition's open windows begin: what R is made from.
#[derive(Debug, Clone, Default)]
pub struct OpenWindows {
    /// By the last instant of the window: the first offset that holds an event of it, the watermark just before.
    first: BTreeMap<u64, (u64, u64)>,
}

impl OpenWindows {
    /// The record at `offset` holds an event of `window`: counted in it, too late for it, or rejected once it is
    /// final.
    pub fn saw(&mut self, window: Window, offset: u64, watermark_ms: u64) {
        let first = self.first.entry(window.last_ms());
        first.or_insert((offset, watermark_ms));
    }

    /// How the partition stands for a commit whose F is greater than `after_ms`: R is the first
    /// offset of any window that ends later, or where reading is now.
    fn resume(&self, after_ms: u64, now: (u64, u64)) -> (u64, u64) {
        let open = self.first.range(after_ms + 1..).map(|(_, first)| *first);
        open.min().unwrap_or(now)
    }

    /// The marks that a worker sends when it advances from `from_ms` to `to_ms`: each holds for
    /// commits whose F is greater than its time, until the next one. `now` is the progress if no window
    /// were open.
    ///
    /// Windows that end by `to_ms` are forgotten.
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
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
        let settled = Settlement {
            final_until_ms: 100,
            read_offset: 50,
        };
        let judge = |start, offset, watermark, closed| {
            settled.judge(window(start), offset, watermark, closed)
        };
        // Late by its partition's watermark, window final: reported again only from N on.
        assert_eq!(judge(80, 49, 95, 100), Verdict::Settled);
        assert_eq!(judge(80, 50, 95, 100), Verdict::Late);
        // Late by its partition's watermark, window open: not reported yet.
        assert_eq!(judge(100, 49, 110, 100), Verdict::Late);
        // Not late by the watermark, window final: counted already if read, else late.
        assert_eq!(judge(90, 49, 95, 100), Verdict::Settled);
        assert_eq!(judge(90, 50, 95, 100), Verdict::Late);
        // The window is open.
        assert_eq!(judge(100, 10, 95, 100), Verdict::Count);
        assert_eq!(judge(100, 60, 95, 100), Verdict::Count);
        // Closed by this run, since the partition had been idle.
        assert_eq!(judge(110, 60, 95, 120), Verdict::Late);
    }

    #[test]
    fn a_former_settles_what_was_final_and_what_it_rejected_as_ahead() {
        let limit = AheadLimit {
            below_offset: 20,
            limit_ms: 500,
        };
        let former = Former {
            window_ms: 100,
            lateness_ms: 0,
            final_until_ms: 200,
            read_offsets: vec![(3, 30)],
            ahead: vec![(3, limit)],
        };
        assert!(former.settles(3, 0, 199));
        assert!(!former.settles(3, 0, 200));
        // Newer than its limit, below the limit's offset, of that partition.
        assert!(former.settles(3, 19, 501));
        assert!(!former.settles(3, 20, 501));
        assert!(!former.settles(4, 19, 501));
        assert!(!former.settles(3, 19, 500));
    }

    /// One partition's records of one time each, some of them heartbeats; a run reads some, commits
    /// some closes, and dies. Whatever is committed and replayed, every event counts once or is
    /// rejected once.
    #[derive(Debug, Clone)]
    struct Run {
        /// Read up to this offset, then die.
        dies_at: usize,
        /// Of the closes that happen, this many are committed.
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
            // How far another partition holds the worker back.
            behind in 0_u64..60,
        ) {
            let size = WindowSize::from_ms(10).unwrap();
            let mut progress = PartitionProgress::begin(0, 0);
            let mut final_until = 0;
            let mut counted = vec![0; records.len()];
            let mut rejected = vec![0; records.len()];
            let last = Run { dies_at: usize::MAX, commits: usize::MAX };
            for run in runs.into_iter().chain([last]) {
                let settlement = Settlement { final_until_ms: final_until, read_offset: progress.read_offset };
                let mut clock = PartitionClock::resumed(progress.resume_watermark_ms, lateness);
                let mut open = OpenWindows::default();
                let mut frontier = final_until;
                let mut pending: Vec<(u64, usize, bool)> = Vec::new(); // (time, offset, counted)
                let mut commits = 0;
                for (offset, (time, beats)) in records.iter().enumerate().skip(progress.resume_offset as usize) {
                    if offset >= run.dies_at {
                        break;
                    }
                    let watermark = clock.watermark_ms();
                    let window = size.window_of(*time);
                    match settlement.judge(window, offset as u64, watermark, frontier) {
                        _ if *beats => {}
                        Verdict::Count => {
                            open.saw(window, offset as u64, watermark);
                            pending.push((window.last_ms(), offset, true));
                        }
                        Verdict::Late => {
                            open.saw(window, offset as u64, watermark);
                            pending.push((window.last_ms().max(frontier), offset, false));
                        }
                        Verdict::Settled | Verdict::Ahead => {}
                    }
                    clock.observe(*time);
                    let to = size.floor(clock.watermark_ms().saturating_sub(behind));
                    let position = offset as u64 + 1;
                    // Time stands still while what was read before is read again.
                    if to > frontier && position >= settlement.read_offset {
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
            // The oracle: one uninterrupted reading.
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
            // Windows of 10 ms, one event a record.
            let (from, to) = (from * 10, to * 10);
            let mut open = OpenWindows::default();
            let events: Vec<u64> = events.iter().map(|w| w * 10).filter(|start| *start >= from).collect();
            for (offset, start) in events.iter().enumerate() {
                open.saw(window(*start), offset as u64, offset as u64);
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
