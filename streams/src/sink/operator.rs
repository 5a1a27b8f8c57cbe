//! The sink operator: collects the results of closed windows and commits them with the progress, in one transaction per
//! close.
//!
//! All results are exchanged to one worker, since order and fencing need a single writer, and the transaction of a
//! window is small. Windows that close while a transaction is in flight share the next transaction, up to a size
//! (`MAX_TRANSACTION_BYTES`).
//!
//! Results are written into the next transaction as they arrive, before their window is complete, so that they are
//! encoded while further results are computed. A transaction contains the results of one window, and the results of
//! earlier windows that arrive in the meantime. Results of later windows wait for the next transaction: otherwise a
//! transaction would not end while there is a backlog.
//!
//! If there are very many rejections, they are written in transactions of their own, between two closes; see
//! [`super::rejections`].
//!
//! Invariants:
//! - A transaction is committed only when the input frontier has passed every result that was written into it.
//! - The results of a key are written in the order in which they arrive, which is the order of their windows, since one
//!   worker computes all results of a key.
//! - The sink has a capability at the time of the oldest results that are not durable, so the frontier of its output is
//!   the durable frontier.
//!
//! If there is nothing to write, the durable frontier advances without a commit, and the sink commits the progress
//! alone at every heartbeat, even if event time does not advance. A standby sees from these commits that the worker
//! loop runs, and the restart offset does not fall behind the records that the log retains. While results of an
//! incomplete window are being written, there is no heartbeat; a standby sees the open transaction instead.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_log::{GroupOffsets, Header, NewRecord};
use emostream_protocol::{ResultOrder, Unwritten, WindowSize};
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{
            Capability, Concat,
            generic::{OutputBuilder, builder_rc::OperatorBuilder},
            vec::Map,
        },
    },
    scheduling::Activator,
};

use super::{
    commit::{Commit, StartCommitter, Wakeup},
    known_ends::KnownEnds,
    rejections::{Rejected, Rejections},
    result::{ResultStreams, SinkResult, UnwrittenSince},
};
use crate::{
    metrics::Metrics,
    progress::{
        record::{PartitionProgress, Progress},
        stored::progress_record,
    },
    time::timers::Timers,
    topics::Topics,
};

/// Maximum bytes of the results of a transaction; only the results of a single window may exceed it. A transaction must
/// be committed within its timeout, and in a backlog the windows of several hours may be complete at once.
const MAX_TRANSACTION_BYTES: usize = 8 * 1024 * 1024;

/// A message to the sink that is not a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Notice {
    /// A record that is rejected.
    Rejected(Rejected),
    /// The progress of a partition; see [`crate::progress::record::OpenWindows::advance`].
    Mark(PartitionProgress),
    /// As of a window, the oldest final result that a worker has not written to the table of totals.
    Unwritten(UnwrittenSince),
}

/// The values with which a sink starts.
pub struct SinkContext {
    /// The topics of the application.
    pub topics: Topics,
    /// The progress of this run before its first commit.
    pub progress: Progress,
    /// The stored final-until time. Commits before the first close repeat it, so that the start of a run does not
    /// change it.
    pub stored_until_ms: u64,
    /// The size of the windows. The final-until time is always the end of a window.
    pub window: WindowSize,
    /// The length of the longest sliding span, milliseconds.
    pub span_ms: u64,
    /// The end offset of each partition of the final results at the start of the run.
    pub window_ends: Vec<(u32, u64)>,
    /// The interval at which progress is committed when there is nothing else to write.
    pub heartbeat: Duration,
    /// The timers of the worker.
    pub timers: Timers,
    /// Maximum bytes of a partition's rejections that are not written yet.
    pub max_unwritten_bytes: usize,
    /// The metrics of the application.
    pub metrics: Metrics,
    /// Commits the read offsets to the consumer group, for tools that show the lag; `None` if the log has no consumer
    /// groups.
    pub group_offsets: Option<Box<dyn GroupOffsets>>,
}

/// The report to a source that rejections of a partition are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectionsCommitted {
    /// The partition.
    pub partition: u32,
    /// The size of the rejections, bytes.
    pub bytes: usize,
}

/// Commits the results and the other messages to the sink. Returns a stream of notices that rejections are durable. The
/// frontier of the stream is the durable frontier.
///
/// `committer` creates the committer, given the function that wakes the sink. Only worker 0 calls it.
pub fn commit<'scope>(
    mut results: ResultStreams<'scope>,
    notices: StreamVec<'scope, u64, Notice>,
    start: SinkContext,
    committer: StartCommitter,
) -> StreamVec<'scope, u64, RejectionsCommitted> {
    let scope = notices.scope();
    let mut builder = OperatorBuilder::new("commit".to_owned(), scope);
    let address = builder.operator_info().address;
    let again = scope.activator_for(address.clone());
    let wake = scope.worker().sync_activator_for(address.to_vec());
    let wake: Wakeup = Box::new(move || {
        // The call fails only if the worker has ended.
        let _ = wake.activate();
    });
    let notices = match results.unwritten.take() {
        Some(unwritten) => unwritten.map(Notice::Unwritten).concat(notices),
        None => notices,
    };
    let mut notices = builder.new_input(notices, Exchange::new(|_: &Notice| 0));
    let mut results = results.connect(&mut builder);
    let (written, written_stream) = builder.new_output();
    let mut written = OutputBuilder::<_, CapacityContainerBuilder<_>>::from(written);
    // The sinks of the other workers receive nothing. They drop their capability, which would hold the frontier back.
    let is_first = scope.index() == 0;
    builder.build(move |capabilities| {
        let committer = is_first.then(|| committer(wake)).flatten();
        let durable = capabilities.into_iter().next();
        let sink = durable.zip(committer);
        let mut sink = sink.map(|(durable, committer)| Sink::new(start, durable, committer, again));
        move |frontiers| {
            let Some(sink) = &mut sink else {
                notices.for_each(|_, _| {});
                results.iter_mut().for_each(|drain| drain(&mut |_, _| {}));
                return;
            };
            notices.for_each_stamp(|stamp, data| {
                let time_ms = stamp.least().copied().unwrap_or_default();
                for notice in data.flat_map(|data| data.drain(..)) {
                    sink.on_notice(time_ms, notice);
                }
            });
            for drain in &mut results {
                drain(&mut |time_ms, result| sink.results.add(time_ms, result));
            }
            let frontiers = frontiers
                .iter()
                .filter_map(|it| it.frontier().first().copied());
            // An empty frontier means that the sources have ended, not that windows are complete.
            if let Some(frontier_ms) = frontiers.min() {
                // While a window is being closed, the frontier is at its last instant. The time is rounded down, since
                // the window is not complete yet.
                sink.advance(sink.start.window.floor(frontier_ms));
            }
            let durable = sink.written.drain(..);
            written
                .activate()
                .session(&sink.durable)
                .give_iterator(durable);
        }
    });
    written_stream
}

struct Sink {
    start: SinkContext,
    partitions: BTreeMap<u32, PartitionProgress>,
    marks: BTreeMap<u64, Vec<PartitionProgress>>,
    restoring: Restoring,
    results: Results,
    rejections: Rejections,
    /// Notices of durable rejections that are not sent to the sources yet.
    written: Vec<RejectionsCommitted>,
    /// The capability whose time is the durable frontier.
    durable: Capability<u64>,
    committer: Box<dyn Commit>,
    /// Whether the committer knows that the worker loop runs.
    begun: bool,
    in_flight: Option<InFlight>,
    /// The final-until time at the start of the run.
    begun_until_ms: u64,
    /// The final-until time of the last commit. The durable frontier is later if windows have closed since then without
    /// results.
    stored_until_ms: u64,
    last_commit: Instant,
    /// Schedules the sink again.
    again: Activator,
    /// The time of the last timer that was set to schedule the sink again.
    scheduled_at: Option<Instant>,
}

/// Determines which final results the next run must read, besides the topics of the tables, to restore tables and
/// sliding spans.
struct Restoring {
    /// For each window that is not committed yet, the notices of the workers. The key is the last instant of the
    /// window.
    notices: BTreeMap<u64, Vec<UnwrittenSince>>,
    /// The oldest final result of each worker that is in no record of a table, as of the next commit.
    unwritten: BTreeMap<usize, ResultOrder>,
    /// The oldest final result that was in no record when the run began; `None` once the workers have sent their own
    /// notices.
    restored: Option<ResultOrder>,
    /// The oldest final result that was in no record as of the previous commit.
    before: Option<ResultOrder>,
    ends: KnownEnds,
}

impl Restoring {
    fn new(start: &SinkContext) -> Restoring {
        let Progress {
            unwritten,
            resets,
            final_until_ms,
            ..
        } = &start.progress;
        let mut ends = KnownEnds::new(unwritten.finals.clone());
        let since = ResultOrder {
            resets: resets.number,
            start_ms: *final_until_ms,
        };
        ends.add(since, start.window_ends.clone());
        Restoring {
            notices: BTreeMap::new(),
            unwritten: BTreeMap::new(),
            restored: unwritten.since,
            before: unwritten.since,
            ends,
        }
    }

    /// Applies the notices up to a commit with this final-until time.
    fn advance(&mut self, final_until_ms: u64) {
        // The notices of restored final results have the time 0, so they have arrived. They replace `restored`.
        self.restored = None;
        let later = self.notices.split_off(&final_until_ms);
        let notices = std::mem::replace(&mut self.notices, later);
        for UnwrittenSince { worker, since } in notices.into_values().flatten() {
            match since {
                Some(since) => self.unwritten.insert(worker, since),
                None => self.unwritten.remove(&worker),
            };
        }
    }

    /// Returns the value that the next progress record contains. `sliding` is the order of the oldest final result in
    /// the longest sliding span.
    fn stored(&mut self, sliding: ResultOrder) -> Unwritten {
        let now = self.unwritten.values().copied().chain(self.restored).min();
        // A reader may see this progress together with the tables of the previous commit, so the value is the earlier
        // one of the two commits' values.
        let since = self.before.into_iter().chain(now).min();
        self.before = now;
        let needed = since.map_or(sliding, |since| since.min(sliding));
        let ends = self.ends.before(needed);
        // If the run began from progress without end offsets, the known end offsets may be old enough for the tables
        // but not for the sliding span. The next run then finds the final results of the span by their time.
        let ends = ends.or_else(|| self.ends.before(since?)).cloned();
        self.ends.forget(needed);
        Unwritten {
            since,
            finals: ends,
        }
    }
}

/// The results of the next transactions.
#[derive(Default)]
struct Results {
    /// The last instant of the latest window that has results in the open transaction or in `now`.
    open_ms: Option<u64>,
    /// Results that are to be written now.
    now: Vec<Box<dyn SinkResult>>,
    /// The results of windows later than `open_ms`. The key is the last instant of the window.
    later: BTreeMap<u64, Vec<Box<dyn SinkResult>>>,
    /// The windows that have results, here or in the open transaction. The key is the last instant of the window.
    windows: BTreeMap<u64, WindowSum>,
}

/// The number and the bytes of all results of a window.
#[derive(Debug, Clone, Copy, Default)]
struct WindowSum {
    has_finals: bool,
    bytes: usize,
}

/// The results with which a transaction ends.
#[derive(Default)]
struct Closing {
    /// The results that were not written yet.
    results: Vec<Box<dyn SinkResult>>,
    /// The windows in the transaction. The key is the last instant of the window.
    windows: BTreeMap<u64, WindowSum>,
}

impl Results {
    fn add(&mut self, time_ms: u64, result: Box<dyn SinkResult>) {
        let sum = self.windows.entry(time_ms).or_default();
        sum.has_finals |= result.is_final();
        sum.bytes += result.bytes();
        match time_ms <= *self.open_ms.get_or_insert(time_ms) {
            true => self.now.push(result),
            false => self.later.entry(time_ms).or_default().push(result),
        }
    }

    /// Writes the results that may be written now.
    fn write(&mut self, committer: &mut dyn Commit) {
        if !self.now.is_empty()
            && let Err(back) = committer.write(std::mem::take(&mut self.now))
        {
            self.now = back;
        }
    }

    /// Whether the open transaction, with the results that were written into it, may be committed with `final_until_ms`
    /// as the final-until time.
    fn may_end(&self, final_until_ms: u64) -> bool {
        self.open_ms.is_none_or(|open_ms| open_ms < final_until_ms)
    }

    /// Returns the final-until time of the next transaction: `frontier_ms` if the transaction can contain all windows
    /// before that time, and otherwise the start of the first window with which the transaction would exceed
    /// [`MAX_TRANSACTION_BYTES`]. The transaction contains at least the earliest window, and each window that has
    /// results in it already. `size` is the size of the windows.
    fn until(&self, frontier_ms: u64, size: WindowSize) -> u64 {
        let mut bytes = 0;
        for (time_ms, sum) in self.windows.range(..frontier_ms) {
            let is_written = self.open_ms.is_some_and(|open_ms| *time_ms <= open_ms);
            if bytes > 0 && bytes + sum.bytes > MAX_TRANSACTION_BYTES && !is_written {
                return size.floor(*time_ms);
            }
            bytes += sum.bytes;
        }
        frontier_ms
    }

    /// Removes and returns the results of all windows before `frontier_ms` that were not written yet. From then on, the
    /// results of the next window may be written.
    fn close(&mut self, frontier_ms: u64) -> Closing {
        let mut results = std::mem::take(&mut self.now);
        let later = self.later.split_off(&frontier_ms);
        results.extend(
            std::mem::replace(&mut self.later, later)
                .into_values()
                .flatten(),
        );
        let open = self.windows.split_off(&frontier_ms);
        let windows = std::mem::replace(&mut self.windows, open);
        self.open_ms = None;
        if let Some((open_ms, now)) = self.later.pop_first() {
            (self.open_ms, self.now) = (Some(open_ms), now);
        }
        Closing { results, windows }
    }
}

/// A transaction that is not acknowledged yet.
struct InFlight {
    final_until_ms: u64,
    /// The windows in the transaction. The key is the last instant of the window.
    windows: BTreeMap<u64, WindowSum>,
    /// The sizes of the rejections in the transaction.
    written: Vec<RejectionsCommitted>,
}

impl Sink {
    fn new(
        start: SinkContext,
        mut durable: Capability<u64>,
        committer: Box<dyn Commit>,
        again: Activator,
    ) -> Sink {
        let progress = &start.progress;
        durable.downgrade(&progress.final_until_ms);
        let partitions = progress
            .partitions
            .iter()
            .map(|p| (p.partition, *p))
            .collect();
        let last_commit = start.timers.now();
        let restoring = Restoring::new(&start);
        let max_unwritten_bytes = start.max_unwritten_bytes;
        Sink {
            begun_until_ms: progress.final_until_ms,
            stored_until_ms: progress.final_until_ms,
            start,
            partitions,
            marks: BTreeMap::new(),
            restoring,
            results: Results::default(),
            rejections: Rejections::new(max_unwritten_bytes),
            written: Vec::new(),
            durable,
            committer,
            begun: false,
            in_flight: None,
            last_commit,
            again,
            scheduled_at: None,
        }
    }

    fn on_notice(&mut self, time_ms: u64, notice: Notice) {
        match notice {
            Notice::Rejected(rejected) => self.rejections.push(rejected),
            Notice::Mark(mark) => self.marks.entry(time_ms).or_default().push(mark),
            Notice::Unwritten(since) => {
                let notices = &mut self.restoring.notices;
                notices.entry(time_ms).or_default().push(since);
            }
        }
    }

    fn advance(&mut self, frontier_ms: u64) {
        if !std::mem::replace(&mut self.begun, true) {
            self.committer.begin();
        }
        if self.in_flight.is_some() && self.committer.acknowledged() {
            self.on_committed();
        }
        while let Some(ends) = self.committer.ends() {
            let since = self.order(ends.final_until_ms);
            self.restoring.ends.add(since, ends.offsets);
        }
        self.results.write(&mut *self.committer);
        if self.in_flight.is_none() && frontier_ms > self.stored_until_ms {
            self.close(frontier_ms);
        }
        // If results of an open window were written into the transaction, it cannot be committed before that window is
        // complete. Rejections must wait for that commit.
        let final_until_ms = *self.durable.time();
        if self.may_commit() && self.rejections.is_full(final_until_ms) {
            // The transaction closes no window, so it repeats the durable final-until time.
            let settled = self.rejections.drain_settled(final_until_ms);
            self.submit(final_until_ms, Closing::default(), settled);
        }
        if self.may_commit() {
            self.commit_heartbeat();
        }
    }

    /// Whether a transaction that closes no window may be committed now.
    fn may_commit(&self) -> bool {
        self.in_flight.is_none() && self.results.may_end(0)
    }

    /// Commits the progress alone if nothing was committed for the heartbeat interval. Otherwise sets a timer for it.
    fn commit_heartbeat(&mut self) {
        let due = self.last_commit + self.start.heartbeat;
        if self.start.timers.now() >= due {
            self.submit(*self.durable.time(), Closing::default(), Vec::new());
        } else if self.scheduled_at.replace(due) != Some(due) {
            // A timer is set once for each time, since it cannot be cancelled.
            self.start.timers.at(due, self.again.clone());
        }
    }

    /// Submits a transaction of these results and rejections, and the new progress, to the committer.
    fn submit(&mut self, final_until_ms: u64, closing: Closing, rejected: Vec<Rejected>) {
        let mut records = Vec::new();
        let mut written: BTreeMap<u32, usize> = BTreeMap::new();
        for rejected in rejected {
            *written.entry(rejected.partition).or_default() += rejected.bytes();
            let reason = [rejected.reason.as_str()];
            self.start.metrics.rejected.with_label_values(&reason).inc();
            records.push(rejection(&self.start.topics, rejected));
        }
        for (partition, progress) in &mut self.partitions {
            let least = self.rejections.written_offset(*partition);
            progress.read_offset = progress.read_offset.max(least);
        }
        records.push(self.progress(final_until_ms));
        self.committer
            .submit(final_until_ms, closing.results, records);
        self.last_commit = self.start.timers.now();
        let written = written.into_iter();
        self.in_flight = Some(InFlight {
            final_until_ms,
            windows: closing.windows,
            written: written
                .map(|(partition, bytes)| RejectionsCommitted { partition, bytes })
                .collect(),
        });
    }

    /// Handles the acknowledgement of the transaction in flight, which is durable now.
    fn on_committed(&mut self) {
        let Some(done) = self.in_flight.take() else {
            return;
        };
        self.durable.downgrade(&done.final_until_ms);
        self.stored_until_ms = done.final_until_ms;
        if let Some(group) = &mut self.start.group_offsets {
            let read = self.partitions.values();
            let offsets: Vec<(u32, u64)> = read.map(|p| (p.partition, p.read_offset)).collect();
            group.commit(&offsets);
        }
        let rejected_bytes: usize = done.written.iter().map(|it| it.bytes).sum();
        tracing::debug!(
            final_until_ms = done.final_until_ms,
            windows = done.windows.len(),
            rejected_bytes,
            "committed"
        );
        self.written.extend(done.written);
        let now = self.start.timers.unix_time();
        let with_finals = done.windows.into_iter().filter(|(_, sum)| sum.has_finals);
        for (time_ms, _) in with_finals {
            let end = Duration::from_millis(time_ms + 1);
            let since_end = now.saturating_sub(end);
            self.start.metrics.close.observe(since_end.as_secs_f64());
        }
    }

    /// Commits the windows that end by `frontier_ms`, which are complete. In a backlog, commits only the earliest of
    /// them.
    fn close(&mut self, frontier_ms: u64) {
        if !self.results.may_end(frontier_ms) {
            return;
        }
        let frontier_ms = self.results.until(frontier_ms, self.start.window);
        let later = self.marks.split_off(&frontier_ms);
        for mark in std::mem::replace(&mut self.marks, later)
            .into_values()
            .flatten()
        {
            self.partitions.insert(mark.partition, mark);
        }
        self.restoring.advance(frontier_ms);
        let mut rejected = Vec::new();
        for (partition, progress) in &self.partitions {
            // A transaction of rejections alone may have moved the committed offset past the offset of the partition's
            // last mark.
            let read_offset = self.rejections.written_offset(*partition);
            let read_offset = read_offset.max(progress.read_offset);
            let taken = self
                .rejections
                .drain_before(*partition, read_offset, frontier_ms);
            rejected.extend(taken);
        }
        let closing = self.results.close(frontier_ms);
        if closing.windows.is_empty() && rejected.is_empty() {
            // There is nothing to write. The next heartbeat commits the new final-until time.
            self.durable.downgrade(&frontier_ms);
            return;
        }
        self.submit(frontier_ms, closing, rejected);
    }

    /// Returns the order of a result of this run whose window begins at `start_ms`.
    fn order(&self, start_ms: u64) -> ResultOrder {
        ResultOrder {
            resets: self.start.progress.resets.number,
            start_ms,
        }
    }

    fn progress(&mut self, final_until_ms: u64) -> NewRecord {
        let (progress, partitions) = (&mut self.start.progress, &self.partitions);
        progress.final_until_ms = match final_until_ms > self.begun_until_ms {
            true => final_until_ms,
            false => self.start.stored_until_ms,
        };
        let (span_ms, resets) = (self.start.span_ms, progress.resets);
        let sliding = resets.oldest_in_span(progress.final_until_ms, span_ms);
        progress.unwritten = self.restoring.stored(sliding);
        progress.partitions = partitions.values().copied().collect();
        progress
            .prior_epochs
            .retain(|epoch| epoch.is_live(final_until_ms, partitions.values()));
        progress_record(&self.start.topics, progress)
    }
}

/// Returns the record of a rejection: the source record, with its partition, its offset and the reason in headers.
fn rejection(topics: &Topics, rejected: Rejected) -> NewRecord {
    let header = |name: &str, value: String| Header {
        name: name.to_owned(),
        value: value.into(),
    };
    NewRecord {
        topic: topics.rejected.clone(),
        partition: None,
        time_ms: Some(rejected.time_ms),
        key: rejected.key.map(Bytes::from),
        value: rejected.value.into(),
        headers: vec![
            header("reason", rejected.reason),
            header("topic", topics.source.clone()),
            header("partition", rejected.partition.to_string()),
            header("offset", rejected.offset.to_string()),
        ],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use std::sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    };

    use emostream_log::{LogError, Transactor, embedded::EmbeddedLog};
    use timely::{
        dataflow::{
            InputHandleVec,
            operators::{OkErr, Probe, probe, vec::Input as _},
        },
        worker::Worker,
    };

    use super::*;
    use crate::{
        Stop,
        sink::{
            commit::{CommitThread, CommitterParams},
            rejections::MAX_UNWRITTEN_BYTES,
        },
        testing::{TestEncoder, TestResult, metrics, topics},
        time::holds::Holds,
        time::timers::MachineClock,
    };

    /// An input of a sink.
    #[derive(Debug, Clone)]
    enum Input {
        Result(TestResult),
        Notice(Notice),
    }

    const DEADLINE: Duration = Duration::from_secs(60);

    /// A transactor that sends the records of each commit to the test, and returns when the test acknowledges them.
    struct RecordingTransactor {
        /// Whether the heartbeat of the start of the run was committed.
        started: bool,
        written: Vec<NewRecord>,
        commits: Sender<Vec<NewRecord>>,
        acks: Receiver<()>,
    }

    impl RecordingTransactor {
        fn new(commits: Sender<Vec<NewRecord>>, acks: Receiver<()>) -> RecordingTransactor {
            RecordingTransactor {
                started: false,
                written: Vec::new(),
                commits,
                acks,
            }
        }
    }

    impl Transactor for RecordingTransactor {
        fn write(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
            self.written.extend(records);
            Ok(())
        }

        fn commit(&mut self, records: Vec<NewRecord>) -> Result<(), LogError> {
            self.written.extend(records);
            let mut written = std::mem::take(&mut self.written);
            if std::mem::replace(&mut self.started, true) {
                // The commit thread adds the progress of the previous commit, which is not part of the commit in these
                // tests.
                if written.len() > 1 && written[0].topic == topics().progress {
                    written.remove(0);
                }
                self.commits.send(written).unwrap();
                let _ = self.acks.recv();
            }
            Ok(())
        }
    }

    fn size() -> WindowSize {
        WindowSize::from_ms(10).unwrap()
    }

    /// Builds a sink that starts at 0. Returns its input, the probe of the durable frontier, and its timers.
    fn sink(
        worker: &mut Worker,
        heartbeat: Duration,
        transactor: RecordingTransactor,
    ) -> (InputHandleVec<u64, Input>, probe::Handle<u64>, Timers) {
        sink_from(worker, heartbeat, transactor, |_| {})
    }

    /// Builds a sink whose start values `adjust` changes.
    fn sink_from(
        worker: &mut Worker,
        heartbeat: Duration,
        transactor: RecordingTransactor,
        adjust: impl FnOnce(&mut SinkContext),
    ) -> (InputHandleVec<u64, Input>, probe::Handle<u64>, Timers) {
        let timers = Timers::new(Arc::new(MachineClock::default()));
        let metrics = metrics();
        let mut start = SinkContext {
            topics: topics(),
            progress: Progress::default(),
            stored_until_ms: 0,
            window: size(),
            span_ms: 60,
            window_ends: vec![(0, 0)],
            heartbeat,
            timers: timers.clone(),
            max_unwritten_bytes: MAX_UNWRITTEN_BYTES,
            metrics: metrics.clone(),
            group_offsets: None,
        };
        adjust(&mut start);
        let committer: StartCommitter = Box::new(|wake| {
            let transactor = Box::new(transactor);
            let committing = CommitterParams {
                transactor,
                log: Arc::new(EmbeddedLog::in_memory().ok()?),
                topics: topics(),
                timeout: DEADLINE,
                newest: None,
                progress: progress_record(&topics(), &Progress::default()),
                // The commit thread sends no heartbeats of its own in these tests; another test covers them.
                heartbeat: DEADLINE,
                holds: Arc::new(Holds::new(topics().source, metrics.clone())),
                metrics,
                stop: Stop::default(),
            };
            let thread = CommitThread::start(committing).ok()??;
            Some(Box::new(thread.attached(wake)))
        });
        worker.dataflow(|scope| {
            let (input, inputs) = scope.new_input();
            let (test_results, notices) = inputs.ok_err(|input| match input {
                Input::Result(result) => Ok(result),
                Input::Notice(notice) => Err(notice),
            });
            let mut results = ResultStreams::default();
            results.add(test_results, TestEncoder);
            let (durable, _) = commit(results, notices, start, committer).probe();
            (input, durable, timers)
        })
    }

    /// Runs a test on a worker. The sink never drops its capability by itself, so its dataflow is dropped at the end,
    /// as in a run.
    fn on_a_worker(test: impl FnOnce(&mut Worker) + Send + Sync + 'static) {
        timely::execute_directly(|worker| {
            test(worker);
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        });
    }

    fn step_until<T>(
        worker: &mut Worker,
        timers: &Timers,
        mut enough: impl FnMut() -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            timers.fire_due();
            worker.step_or_park(Some(Duration::from_millis(1)));
            if let Some(enough) = enough() {
                return enough;
            }
            assert!(Instant::now() < deadline, "nothing happens");
        }
    }

    fn a_final() -> Input {
        Input::Result(TestResult::Final)
    }

    fn final_until_ms(records: &[NewRecord]) -> u64 {
        let progress: Progress = serde_json::from_slice(&records.last().unwrap().value).unwrap();
        progress.final_until_ms
    }

    #[test]
    fn nothing_is_durable_before_it_is_acknowledged() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (ack, acks) = channel();
            let (mut input, durable, timers) =
                sink(worker, DEADLINE, RecordingTransactor::new(commits, acks));
            input.send(a_final());
            input.advance_to(20);
            let records = step_until(worker, &timers, || shown.try_recv().ok());
            assert_eq!((records.len(), final_until_ms(&records)), (2, 20));
            for _ in 0..10 {
                worker.step();
            }
            assert_eq!(durable.with_frontier(|f| f.to_vec()), [0]);
            drop(ack);
            step_until(worker, &timers, || (!durable.less_than(&20)).then_some(()));
        });
    }

    #[test]
    fn a_rejection_is_in_no_transaction_before_its_time() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (_, acks) = channel();
            let (mut input, _, timers) =
                sink(worker, DEADLINE, RecordingTransactor::new(commits, acks));
            let topics_until = |worker: &mut Worker, expected_ms| {
                let records = step_until(worker, &timers, || shown.try_recv().ok());
                assert_eq!(final_until_ms(&records), expected_ms);
                let written = records.into_iter().map(|record| record.topic);
                written.collect::<Vec<_>>()
            };
            let names = topics();
            input.send(a_final());
            input.advance_to(20);
            // A worker whose frontier is ahead of those of the other workers sends the rejection while earlier windows
            // are being closed.
            input.send(Input::Notice(Notice::Rejected(Rejected {
                partition: 0,
                offset: 7,
                time_ms: 3,
                settled_at_ms: 20,
                reason: "late".to_owned(),
                key: None,
                value: Vec::new(),
            })));
            input.send(Input::Notice(Notice::Mark(PartitionProgress::begin(0, 8))));
            input.flush();
            let first = topics_until(worker, 20);
            assert_eq!(first, [names.finals.clone(), names.progress.clone()]);
            input.advance_to(30);
            let second = topics_until(worker, 30);
            assert_eq!(second, [names.rejected.clone(), names.progress.clone()]);
        });
    }

    #[test]
    fn a_flood_of_rejections_does_not_commit_results_of_an_open_window() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (_, acks) = channel();
            let (mut input, durable, timers) =
                sink(worker, DEADLINE, RecordingTransactor::new(commits, acks));
            input.send(a_final());
            input.send(Input::Notice(Notice::Rejected(Rejected {
                partition: 0,
                offset: 7,
                time_ms: 3,
                settled_at_ms: 0,
                reason: "malformed".to_owned(),
                key: None,
                value: vec![0; MAX_UNWRITTEN_BYTES],
            })));
            input.flush();
            for _ in 0..10 {
                worker.step();
            }
            // A commit now would contain a final result of a window that ends after the final-until time of the commit.
            input.advance_to(20);
            let records = step_until(worker, &timers, || shown.try_recv().ok());
            assert_eq!(final_until_ms(&records), 20);
            let written: Vec<_> = records.into_iter().map(|record| record.topic).collect();
            let names = topics();
            // No mark has moved the committed offset past the rejections, so they are not in this transaction but in a
            // later one of their own.
            assert_eq!(written, [names.finals.clone(), names.progress.clone()]);
            step_until(worker, &timers, || (!durable.less_than(&20)).then_some(()));
            let records = step_until(worker, &timers, || shown.try_recv().ok());
            assert_eq!(records[0].topic, names.rejected.clone());
        });
    }

    #[test]
    fn a_rejection_that_n_has_passed_is_written_once_its_window_is_final() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (_, acks) = channel();
            let (mut input, _, timers) =
                sink(worker, DEADLINE, RecordingTransactor::new(commits, acks));
            let rejected = |offset, settled_at_ms, bytes| {
                Input::Notice(Notice::Rejected(Rejected {
                    partition: 0,
                    offset,
                    time_ms: 3,
                    settled_at_ms,
                    reason: "late".to_owned(),
                    key: None,
                    value: vec![0; bytes],
                }))
            };
            let rejections = |worker: &mut Worker| {
                let records = step_until(worker, &timers, || shown.try_recv().ok());
                let written = records.into_iter().map(|record| record.topic);
                let of_rejected = |topic: &String| *topic == topics().rejected;
                written.filter(of_rejected).count()
            };
            // The large rejection is written at once, and the committed offset moves past both rejections, although the
            // window of the first one is not final.
            input.send(rejected(6, 20, 0));
            input.send(rejected(7, 0, MAX_UNWRITTEN_BYTES));
            input.flush();
            assert_eq!(rejections(worker), 1);
            // The offset of the partition's mark is lower than the committed offset.
            input.send(Input::Notice(Notice::Mark(PartitionProgress::begin(0, 5))));
            input.send(a_final());
            input.advance_to(20);
            assert_eq!(rejections(worker), 1);
        });
    }

    #[test]
    fn in_a_backlog_a_transaction_contains_windows_up_to_a_size() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (ack, acks) = channel();
            let (mut input, _, timers) =
                sink(worker, DEADLINE, RecordingTransactor::new(commits, acks));
            let third = MAX_TRANSACTION_BYTES * 2 / 5;
            for (start_ms, bytes) in [
                (0, third),
                (10, third),
                (20, third),
                (30, 2 * MAX_TRANSACTION_BYTES),
            ] {
                input.advance_to(start_ms + 9);
                input.send(Input::Result(TestResult::OfTable(bytes)));
            }
            input.advance_to(40);
            let until_ms: Vec<u64> = (0..3)
                .map(|_| {
                    let records = step_until(worker, &timers, || shown.try_recv().ok());
                    ack.send(()).unwrap();
                    final_until_ms(&records)
                })
                .collect();
            assert_eq!(until_ms, [20, 30, 40]);
        });
    }

    #[test]
    fn a_transaction_contains_every_window_that_was_written_into_it_for_any_size() {
        let mut results = Results::default();
        for start_ms in [10, 0, 20] {
            results.add(
                start_ms + 9,
                Box::new(TestResult::OfTable(MAX_TRANSACTION_BYTES * 2 / 3)),
            );
        }
        // The transaction contains the first result, and one of an earlier window that arrived after it. So the
        // final-until time must be past both windows.
        assert_eq!(results.until(30, size()), 20);
        let written = results.close(20).windows;
        assert_eq!(written.into_keys().collect::<Vec<_>>(), [9, 19]);
    }

    fn order(start_ms: u64) -> ResultOrder {
        ResultOrder {
            resets: 0,
            start_ms,
        }
    }

    fn restoring(unwritten: Unwritten) -> Restoring {
        Restoring::new(&SinkContext {
            topics: topics(),
            progress: Progress {
                final_until_ms: 100,
                unwritten,
                ..Progress::default()
            },
            stored_until_ms: 100,
            window: size(),
            span_ms: 20,
            window_ends: vec![(0, 1000)],
            heartbeat: DEADLINE,
            timers: Timers::new(Arc::new(MachineClock::default())),
            max_unwritten_bytes: MAX_UNWRITTEN_BYTES,
            metrics: metrics(),
            group_offsets: None,
        })
    }

    #[test]
    fn progress_names_the_finals_that_complete_tables_as_of_it_and_of_the_commit_before() {
        let mut restoring = restoring(Unwritten::default());
        let first = |stored: &Unwritten| stored.finals.as_ref().map(|it| it.offset(0));
        // The sliding span begins before the oldest known end offsets, so the progress names none.
        let stored = restoring.stored(order(80));
        assert_eq!((stored.since, first(&stored)), (None, None));
        let notices = [(100, 0, Some(100)), (100, 1, Some(110)), (130, 0, None)];
        for (time_ms, worker, since) in notices {
            let since = since.map(order);
            let notices = restoring.notices.entry(time_ms).or_default();
            notices.push(UnwrittenSince { worker, since });
        }
        for (until_ms, offset) in [(110, 1010), (120, 1020)] {
            restoring.ends.add(order(until_ms), vec![(0, offset)]);
        }
        restoring.advance(130);
        let stored = restoring.stored(order(120));
        assert_eq!(
            (stored.since, first(&stored)),
            (Some(order(100)), Some(1000))
        );
        // Newer records of the tables contain all final results up to the final-until time of this commit, but a reader
        // may not see these records yet.
        restoring.advance(140);
        let stored = restoring.stored(order(120));
        assert_eq!(
            (stored.since, first(&stored)),
            (Some(order(100)), Some(1000))
        );
        let stored = restoring.stored(order(120));
        assert_eq!(
            (stored.since, first(&stored)),
            (Some(order(110)), Some(1010))
        );
    }

    #[test]
    fn commits_before_the_first_close_keep_the_restored_value() {
        let since = Some(order(60));
        let mut restoring = restoring(Unwritten {
            since,
            finals: None,
        });
        for _ in 0..3 {
            assert_eq!(restoring.stored(order(80)).since, since);
        }
        restoring.advance(110);
        assert_eq!(restoring.stored(order(90)).since, since);
        assert_eq!(restoring.stored(order(90)).since, None);
    }

    #[test]
    fn progress_is_committed_at_each_heartbeat_although_time_does_not_advance() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (_, acks) = channel();
            let heartbeat = Duration::from_millis(200);
            let (mut input, durable, timers) =
                sink(worker, heartbeat, RecordingTransactor::new(commits, acks));
            input.advance_to(20);
            step_until(worker, &timers, || (!durable.less_than(&20)).then_some(()));
            for _ in 0..3 {
                let since = Instant::now();
                let records = step_until(worker, &timers, || shown.try_recv().ok());
                assert_eq!((records.len(), final_until_ms(&records)), (1, 20));
                assert!(since.elapsed() > heartbeat / 2, "at its pace");
            }
        });
    }

    #[test]
    fn there_is_no_heartbeat_while_a_window_is_being_written() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (_, acks) = channel();
            let heartbeat = Duration::from_millis(50);
            let (mut input, _, timers) =
                sink(worker, heartbeat, RecordingTransactor::new(commits, acks));
            input.send(a_final());
            input.flush();
            let until = Instant::now() + 4 * heartbeat;
            step_until(worker, &timers, || (Instant::now() > until).then_some(()));
            // A heartbeat now would commit a final result of a window that ends after the final-until time of the
            // heartbeat.
            assert!(shown.try_recv().is_err());
            input.advance_to(20);
            let records = step_until(worker, &timers, || shown.try_recv().ok());
            assert_eq!((records.len(), final_until_ms(&records)), (2, 20));
        });
    }

    #[test]
    fn until_the_first_close_heartbeats_repeat_the_stored_final_time() {
        on_a_worker(|worker| {
            let (commits, shown) = channel();
            let (_, acks) = channel();
            let start = |start: &mut SinkContext| {
                // A reset has set the final-until time to 13, which is within a window of 10 ms.
                start.stored_until_ms = 13;
                start.progress.final_until_ms = 20;
            };
            let heartbeat = Duration::from_millis(20);
            let transactor = RecordingTransactor::new(commits, acks);
            let (mut input, _, timers) = sink_from(worker, heartbeat, transactor, start);
            let next = |worker: &mut Worker| {
                let records = step_until(worker, &timers, || shown.try_recv().ok());
                final_until_ms(&records)
            };
            input.advance_to(20);
            assert_eq!((next(worker), next(worker)), (13, 13));
            input.advance_to(30);
            while next(worker) != 30 {}
        });
    }
}
