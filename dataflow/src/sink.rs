//! Gathers what closed windows produced and commits it, one transaction a close, with the progress.
//!
//! Everything is exchanged to one worker: order and fencing want a single writer, and a transaction
//! of a window is small. Windows that close while a transaction is under way share the next one.
//!
//! Invariant: the sink keeps the time of what is not durable, so the frontier behind it is the
//! durable frontier. With nothing to write it lets time pass, and commits the progress alone once a
//! minute, so that R never falls out of what the log keeps.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use emostream_log::{Header, NewRecord};
use emostream_model::{Room, Topics, TotalsRecord, WindowRecord};
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Exchange,
        operators::{Capability, generic::Operator},
    },
};

use crate::{
    Settings,
    commit::{Committer, StartCommitter, Wakeup},
    metrics::Metrics,
    partition::Rejected,
    progress::{FORMAT, PartitionProgress, Progress},
};

/// The key of the one record of the `progress` topic.
const PROGRESS_KEY: &[u8] = b"dataflow";

/// How long progress may wait when there is nothing else to write.
const QUIET_COMMIT: Duration = Duration::from_secs(60);

/// What the sink is sent. The order is the order of the records in a transaction.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Outcome {
    /// A final's JSON.
    Final(Room, Vec<u8>),
    /// A room's totals' JSON.
    Totals(Room, Vec<u8>),
    /// A record to be rejected.
    Rejected(Rejected),
    /// How far a partition is read; see [`crate::progress::OpenWindows::advance`].
    Mark(PartitionProgress),
}

impl Outcome {
    /// A closed window of a room.
    pub fn closed(record: &WindowRecord) -> Outcome {
        Outcome::Final(record.room.clone(), json(record))
    }

    /// What a closed window did to a room's totals.
    pub fn totals(record: &TotalsRecord) -> Outcome {
        Outcome::Totals(record.room.clone(), json(record))
    }
}

fn json(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("result records are plain data with string keys")
}

/// Where a sink begins.
pub struct SinkStart {
    /// Names of the topics.
    pub topics: Topics,
    /// Written with the progress.
    pub settings: Settings,
    /// F.
    pub final_until_ms: u64,
    /// The progress of every partition.
    pub partitions: Vec<PartitionProgress>,
    /// The size of a window, for the metric of how long a close takes.
    pub window_ms: u64,
    /// What to count.
    pub metrics: Metrics,
}

/// Commits outcomes; the returned stream is empty, and its frontier is what is durable.
///
/// `committer` makes the one commit thread, given what wakes the sink; it is called on worker 0.
pub fn commit<'scope>(
    outcomes: StreamVec<'scope, u64, Outcome>,
    start: SinkStart,
    committer: StartCommitter,
) -> StreamVec<'scope, u64, ()> {
    let scope = outcomes.scope();
    let to_one = Exchange::new(|_: &Outcome| 0);
    outcomes.unary_frontier::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
        to_one,
        "commit",
        move |durable, info| {
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let wake: Wakeup = Box::new(move || {
                // A worker that is gone needs no waking.
                let _ = wake.activate();
            });
            // The other workers' sinks get nothing, and must not hold the frontier.
            let committer = (scope.index() == 0).then(|| committer(wake)).flatten();
            let mut sink = committer.map(|committer| Sink::new(start, durable, committer));
            move |(input, frontier), _| {
                let Some(sink) = &mut sink else {
                    input.for_each(|_, _| {});
                    return;
                };
                input.for_each_stamp(|stamp, data| {
                    let time_ms = stamp.least().copied().unwrap_or_default();
                    let pending = sink.pending.entry(time_ms).or_default();
                    pending.extend(data.flat_map(|data| data.drain(..)));
                });
                // An empty frontier means that the sources are gone, not that windows are complete.
                if let Some(frontier_ms) = frontier.frontier().first() {
                    sink.advance(*frontier_ms);
                }
            }
        },
    )
}

struct Sink {
    start: SinkStart,
    partitions: BTreeMap<u32, PartitionProgress>,
    pending: BTreeMap<u64, Vec<Outcome>>,
    /// Its time is the durable frontier.
    durable: Capability<u64>,
    committer: Committer,
    under_way: Option<UnderWay>,
    last_commit: Instant,
}

/// A transaction that is not acknowledged yet.
struct UnderWay {
    final_until_ms: u64,
    /// The ends of the windows in it.
    ends_ms: Vec<u64>,
}

impl Sink {
    fn new(start: SinkStart, mut durable: Capability<u64>, committer: Committer) -> Sink {
        durable.downgrade(&start.final_until_ms);
        let partitions = start.partitions.iter().map(|p| (p.partition, *p)).collect();
        Sink {
            start,
            partitions,
            pending: BTreeMap::new(),
            durable,
            committer,
            under_way: None,
            last_commit: Instant::now(),
        }
    }

    fn advance(&mut self, frontier_ms: u64) {
        if self.under_way.is_some() && self.committer.acknowledged() {
            self.settle();
        }
        if self.under_way.is_none() && frontier_ms > *self.durable.time() {
            self.close(frontier_ms);
        }
    }

    /// The transaction under way is durable.
    fn settle(&mut self) {
        let Some(done) = self.under_way.take() else {
            return;
        };
        self.durable.downgrade(&done.final_until_ms);
        self.start
            .metrics
            .final_until
            .set((done.final_until_ms / 1000) as i64);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        for end_ms in done.ends_ms {
            let since_end = now.saturating_sub(Duration::from_millis(end_ms));
            self.start.metrics.close.observe(since_end.as_secs_f64());
        }
    }

    /// Every window that begins before `frontier_ms` is complete.
    fn close(&mut self, frontier_ms: u64) {
        let open = self.pending.split_off(&frontier_ms);
        let mut records = Vec::new();
        let mut ends_ms = Vec::new();
        for (time_ms, mut outcomes) in std::mem::replace(&mut self.pending, open) {
            // Sorted, so that a replay writes the same records in the same order.
            outcomes.sort_unstable();
            if matches!(outcomes.first(), Some(Outcome::Final(..))) {
                ends_ms.push(time_ms + self.start.window_ms);
            }
            for outcome in outcomes {
                records.extend(self.record(outcome));
            }
        }
        if records.is_empty() && self.last_commit.elapsed() < QUIET_COMMIT {
            self.durable.downgrade(&frontier_ms);
            return;
        }
        records.push(self.progress(frontier_ms));
        self.committer.submit(records);
        self.last_commit = Instant::now();
        self.under_way = Some(UnderWay {
            final_until_ms: frontier_ms,
            ends_ms,
        });
    }

    /// The record of an outcome; a mark is taken in instead.
    fn record(&mut self, outcome: Outcome) -> Option<NewRecord> {
        let topics = &self.start.topics;
        match outcome {
            Outcome::Final(room, json) => Some(keyed(topics.windows(), &room, json)),
            Outcome::Totals(room, json) => Some(keyed(topics.totals(), &room, json)),
            Outcome::Rejected(rejected) => {
                let reason = [rejected.reason.as_str()];
                self.start.metrics.rejected.with_label_values(&reason).inc();
                Some(rejection(topics, rejected))
            }
            Outcome::Mark(mark) => {
                self.partitions.insert(mark.partition, mark);
                None
            }
        }
    }

    fn progress(&self, final_until_ms: u64) -> NewRecord {
        let progress = Progress {
            format: FORMAT,
            settings: self.start.settings.clone(),
            final_until_ms,
            partitions: self.partitions.values().copied().collect(),
        };
        NewRecord {
            topic: self.start.topics.progress(),
            partition: Some(0),
            time_ms: None,
            key: Some(Bytes::from_static(PROGRESS_KEY)),
            value: json(&progress).into(),
            headers: Vec::new(),
        }
    }
}

fn keyed(topic: String, room: &Room, json: Vec<u8>) -> NewRecord {
    NewRecord {
        topic,
        partition: None,
        time_ms: None,
        key: Some(Bytes::copy_from_slice(room.as_str().as_bytes())),
        value: json.into(),
        headers: Vec::new(),
    }
}

/// The record as it came, with where it came from and why it was rejected as headers.
fn rejection(topics: &Topics, rejected: Rejected) -> NewRecord {
    let header = |name: &str, value: String| Header {
        name: name.to_owned(),
        value: value.into(),
    };
    NewRecord {
        topic: topics.rejected(),
        partition: None,
        time_ms: Some(rejected.time_ms),
        key: rejected.key.map(Bytes::from),
        value: rejected.value.into(),
        headers: vec![
            header("reason", rejected.reason),
            header("topic", topics.reactions()),
            header("partition", rejected.partition.to_string()),
            header("offset", rejected.offset.to_string()),
        ],
    }
}
