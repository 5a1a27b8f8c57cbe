//! Writes the buffer to the log. A flush happens every half second, or earlier if enough reactions are pending. It
//! writes at least one record to each available partition. The first request after an interval without reactions does
//! not wait: it is flushed at once, in one record to one partition.
//!
//! ```text
//!                  accepted (202) ──split evenly────────▶ ┐
//!  PendingBatch ─▶                                        ├─▶ one appender for the life of the process
//!                  awaited ──whole requests─────────────▶ ┘
//! ```
//!
//! Clients already have the response for accepted reactions and do not send them again, so the log gets as much time as
//! it needs to store them. All records use one appender, which keeps them in order. Records of a second appender could
//! be stored after newer records, and would be late for the watermark of their partition.
//!
//! Architecture invariant: the flusher does not wait for the log. Acknowledgements arrive through [`InFlightFlush`].

#![allow(
    clippy::disallowed_methods,
    reason = "this module measures the duration of flushes"
)]

use std::{
    iter::repeat_n,
    mem::take,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_log::{Appender, Header, LogError, NewRecord};
use emostream_model::{Batch, ReactionRef};
use tokio::{
    sync::oneshot,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{
    buffer::packed::Packed,
    buffer::{AwaitedBatch, Buffer, Drained, PendingBatch},
    metrics::Metrics,
    producer::in_flight::{InFlightFlush, Record, RecordCompletion},
    producer::partition_health::PartitionHealth,
};

/// Maximum number of reactions in a record. This number times [`REACTION_BYTES`] is less than Kafka's default maximum
/// for a record, which is 1,000,000 bytes.
const RECORD_REACTIONS: usize = 4000;

/// Maximum bytes of a reaction in a batch: it has the longest user id, and a room that no other reaction has.
const REACTION_BYTES: u64 = 247;

/// Maximum bytes of a record that is sent alone, besides its reactions: Kafka's framing, the header with the process's
/// id, and the other fields of the batch. Together they take at most 200 bytes; the constant is rounded up.
const OVERHEAD_BYTES: u64 = 256;

/// Limits of a topic's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordLimit {
    /// Maximum number of reactions in a record. A batch with this number of reactions never exceeds `bytes`, whatever
    /// the sizes of the reactions are.
    reactions: usize,
    /// Maximum bytes of a batch.
    bytes: u64,
}

impl RecordLimit {
    /// Returns the maximum number of reactions in a record.
    pub(crate) fn reactions(self) -> usize {
        self.reactions
    }

    /// Returns the limits of a topic that accepts records of `topic_bytes`; `None` if a record cannot contain a
    /// reaction of maximum size.
    pub(crate) fn of(topic_bytes: u64) -> Option<Self> {
        let bytes = topic_bytes.saturating_sub(OVERHEAD_BYTES);
        let reactions = usize::try_from(bytes / REACTION_BYTES).unwrap_or(usize::MAX);
        (reactions > 0).then(|| Self {
            reactions: reactions.min(RECORD_REACTIONS),
            bytes,
        })
    }
}

impl Default for RecordLimit {
    /// Returns the limits of a topic with Kafka's default maximum.
    fn default() -> Self {
        Self {
            reactions: RECORD_REACTIONS,
            bytes: RECORD_REACTIONS as u64 * REACTION_BYTES,
        }
    }
}

/// Writes the reactions of the buffer to the log.
pub(crate) struct Flusher {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) appender: Box<dyn Appender>,
    pub(crate) topic: String,
    pub(crate) limit: RecordLimit,
    pub(crate) partitions: Arc<AtomicU32>,
    pub(crate) health: Arc<PartitionHealth>,
    pub(crate) metrics: Arc<Metrics>,
    /// Header with the id of this process, for every record.
    pub(crate) instance: Header,
}

/// The partitions that get records from a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All available partitions, so that their watermarks advance together.
    All,
    /// One partition, for the first request after a quiet interval. The flushes at the ends of intervals continue to
    /// write to all partitions, so this flush delays no watermark.
    One,
}

/// The partitions and the time of the records of a flush.
struct FlushPlan {
    writable: Vec<u32>,
    now_ms: u64,
}

impl FlushPlan {
    /// Returns the writable partition at `index`, modulo the number of writable partitions.
    fn partition(&self, index: usize) -> u32 {
        self.writable[index % self.writable.len()]
    }
}

impl Flusher {
    /// Flushes every `period`, and when enough reactions are pending. When `stop` is received, flushes a last time and
    /// returns. Flushes the first request after a quiet interval at once; this flush does not move the ends of the
    /// intervals.
    pub(crate) async fn run(self, period: Duration, mut stop: oneshot::Receiver<()>) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut rotation, mut flushed) = (0, Packed::default());
        loop {
            let stopping = tokio::select! {
                _ = &mut stop => true,
                () = self.buffer.first_due() => {
                    if let Some((first, now_ms)) = self.buffer.drain_first() {
                        self.flush(&mut rotation, first, now_ms, Extent::One);
                    }
                    continue;
                }
                _ = ticks.tick() => false,
                () = self.buffer.flush_due() => {
                    ticks.reset();
                    false
                }
            };
            if stopping {
                self.buffer.close();
            }
            let Drained {
                first,
                batch,
                now_ms,
            } = self.buffer.drain(flushed);
            if let Some(first) = first {
                self.flush(&mut rotation, first, now_ms, Extent::One);
            }
            flushed = self.flush(&mut rotation, batch, now_ms, Extent::All);
            if stopping {
                break;
            }
        }
        // Dropping the appender may block until the log is closed, so it is dropped on a blocking thread.
        spawn_blocking(move || drop(self));
    }

    /// Sends pending reactions to the log. `rotation` is the number of reactions that were sent before, and selects the
    /// partitions. Returns the accepted reactions, so that their memory can be used again; they are already encoded in
    /// batches.
    fn flush(
        &self,
        rotation: &mut usize,
        pending: PendingBatch,
        now_ms: u64,
        extent: Extent,
    ) -> Packed {
        let PendingBatch {
            accepted,
            mut permits,
            awaited,
            count,
        } = pending;
        *rotation += count;
        let rotation = *rotation;
        let partitions = self.partitions.load(Ordering::Relaxed);
        let mut targets = self.health.flush_targets(partitions, Instant::now());
        let mut spread = targets.writable.len();
        if extent == Extent::One {
            // The record is sent to the first writable partition, and to the next ones if the log refuses it.
            targets.writable.rotate_left(rotation % spread);
            targets.heartbeat.clear();
            spread = 1;
        }
        let plan = FlushPlan {
            writable: targets.writable,
            now_ms,
        };
        let mut rest = accepted.iter();
        let max_reactions = self.limit.reactions;
        let in_flight = InFlightFlush::start(self.health.clone(), self.metrics.clone());
        let mut heartbeats = targets.heartbeat;
        for (index, share) in split_evenly(accepted.len(), spread, rotation, max_reactions) {
            heartbeats.retain(|partition| *partition != plan.partition(index));
            let completion = RecordCompletion {
                permits: permits.as_mut().and_then(|held| held.split(share)),
                waiting: Vec::new(),
            };
            let record = in_flight.record(share, completion);
            self.send(
                &record,
                &plan,
                index,
                batch(rest.by_ref().take(share), now_ms),
            );
        }
        for (index, reactions, completion) in
            assign_requests(awaited, spread, rotation, max_reactions)
        {
            heartbeats.retain(|partition| *partition != plan.partition(index));
            let record = in_flight.record(reactions.len(), completion);
            self.send(&record, &plan, index, batch(reactions.iter(), now_ms));
        }
        for partition in heartbeats {
            let record = in_flight.record(0, RecordCompletion::default());
            let heartbeat = self.record(partition, Batch::heartbeat(now_ms).into(), now_ms);
            if let Err(error) = offer(&*self.appender, &record, heartbeat) {
                record.complete(Err(error));
            }
        }
        drop(rest);
        accepted
    }

    /// Sends a record to the writable partition at `index`. If the log refuses to queue the record, tries the next
    /// writable partition.
    fn send(&self, record: &Arc<Record>, plan: &FlushPlan, index: usize, batch: Bytes) {
        let bytes = batch.len() as u64;
        if bytes > self.limit.bytes {
            // Only the reactions of a waiting request can be this large: they must share one record, even if they
            // exceed the maximum number of reactions.
            return record.complete(Err(LogError::TooLarge {
                topic: self.topic.clone(),
                bytes,
                most: self.limit.bytes,
            }));
        }
        let mut refusal = None;
        for next in index..index + plan.writable.len() {
            let new = self.record(plan.partition(next), batch.clone(), plan.now_ms);
            match offer(&*self.appender, record, new) {
                Ok(()) => return,
                Err(error) => refusal = Some(error),
            }
        }
        record.complete(refusal.map_or(Ok(()), Err));
    }

    fn record(&self, partition: u32, value: Bytes, now_ms: u64) -> NewRecord {
        NewRecord {
            topic: self.topic.clone(),
            partition: Some(partition),
            time_ms: Some(now_ms),
            key: None,
            value,
            headers: vec![self.instance.clone()],
        }
    }
}

/// Appends a record. Fails if the log does not queue it.
fn offer(appender: &dyn Appender, record: &Arc<Record>, new: NewRecord) -> Result<(), LogError> {
    let partition = new.partition.unwrap_or_default();
    let (ticket, done) = record.on_sent(partition);
    appender.append(new, done).inspect_err(|error| {
        record.on_delivery(partition, ticket, Some(error));
    })
}

/// Encodes a batch of reactions in the order of their times. Times after `now_ms` are set to `now_ms`: the dataflow
/// would reject the whole batch because of one later time. Later times occur if the clock was set back after reactions
/// were received.
fn batch<'a>(reactions: impl Iterator<Item = ReactionRef<'a>>, now_ms: u64) -> Bytes {
    let dated = |reaction: ReactionRef<'a>| ReactionRef {
        at_ms: reaction.at_ms.min(now_ms),
        ..reaction
    };
    let mut reactions = reactions.map(dated).peekable();
    let base_ms = reactions.peek().map_or(now_ms, |first| first.at_ms);
    Batch::encode(base_ms, reactions).into()
}

/// Splits `count` reactions evenly between partitions, in records of at most `max_reactions`. Returns the partition
/// index and the size of each record. `rotation` selects the partitions that get one reaction more than the others.
fn split_evenly(
    count: usize,
    partitions: usize,
    rotation: usize,
    max_reactions: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let (share, extra) = (count / partitions, count % partitions);
    let order = (0..partitions).map(move |step| (rotation + step) % partitions);
    let sizes = repeat_n(share + 1, extra).chain(repeat_n(share, partitions - extra));
    order.zip(sizes).flat_map(move |(index, size)| {
        let records = size.div_ceil(max_reactions);
        (0..records).map(move |record| {
            let remaining = size - record * max_reactions;
            (index, remaining.min(max_reactions))
        })
    })
}

/// Assigns requests to records: round-robin over the partitions, beginning with the partition at `rotation`. A request
/// is never split. A record of several requests contains at most `max_reactions` reactions.
fn assign_requests(
    awaited: Vec<AwaitedBatch>,
    partitions: usize,
    rotation: usize,
    max_reactions: usize,
) -> Vec<(usize, Packed, RecordCompletion)> {
    let mut complete_records = Vec::new();
    let mut current: Vec<_> = (0..partitions)
        .map(|_| (Packed::default(), RecordCompletion::default()))
        .collect();
    for (number, request) in awaited.into_iter().enumerate() {
        let index = (rotation + number) % partitions;
        let (reactions, completion) = &mut current[index];
        if reactions.len() > 0 && reactions.len() + request.reactions.len() > max_reactions {
            complete_records.push((index, take(reactions), take(completion)));
        }
        reactions.append(request.reactions);
        completion.attach(request.permits, request.stored);
    }
    let rest = current.into_iter().enumerate();
    let rest = rest.map(|(index, (reactions, completion))| (index, reactions, completion));
    complete_records.extend(rest.filter(|(_, reactions, _)| reactions.len() > 0));
    complete_records
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::buffer::{EarlyFlush, packed::tests::admitted};
    use emostream_log::EventClock;
    use emostream_model::{Emoji, Reaction, Room, UserId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_reaction_is_sent_once_and_every_partition_gets_its_share(
            count in 0_usize..50_000, partitions in 1_usize..70, rotation in 0_usize..1000,
            max_reactions in 1..=RECORD_REACTIONS,
        ) {
            let assigned: Vec<_> = split_evenly(count, partitions, rotation, max_reactions).collect();
            let mut shares = vec![0; partitions];
            for (partition, share) in &assigned {
                prop_assert!((1..=max_reactions).contains(share));
                shares[*partition] += share;
            }
            prop_assert_eq!(shares.iter().sum::<usize>(), count);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            if count <= max_reactions {
                prop_assert_eq!(assigned.len(), count.min(partitions), "one record a partition");
            }
        }

        #[test]
        fn every_request_is_in_one_record(
            sizes in proptest::collection::vec(1_usize..=1000, 0..60),
            partitions in 1_usize..9,
            rotation in 0_usize..1000,
        ) {
            let early = EarlyFlush::of_count(usize::MAX);
            let buffer = Buffer::new(100_000, early, EventClock::host());
            let mut receivers = Vec::new();
            for size in &sizes {
                let (stored, outcome) = oneshot::channel();
                let room = buffer.reserve(*size as u32).unwrap();
                buffer.add(admitted(*size), room, Some(stored)).unwrap();
                receivers.push(outcome);
            }
            let pending = buffer.drain(Packed::default()).batch;
            prop_assert_eq!(pending.count, sizes.iter().sum::<usize>());
            let records = assign_requests(pending.awaited, partitions, rotation, RECORD_REACTIONS);
            let mut held = 0;
            for (index, reactions, completion) in &records {
                prop_assert!(*index < partitions);
                prop_assert!(reactions.len() <= RECORD_REACTIONS && reactions.iter().is_sorted_by_key(|r| r.at_ms));
                prop_assert_eq!(completion.permits.as_ref().unwrap().num_permits(), reactions.len());
                prop_assert!(!completion.waiting.is_empty());
                held += completion.waiting.len();
            }
            prop_assert_eq!(held, sizes.len());
            prop_assert_eq!(buffer.used(), sizes.iter().sum::<usize>());
            if sizes.iter().sum::<usize>() <= RECORD_REACTIONS {
                prop_assert_eq!(records.len(), sizes.len().min(partitions), "one record a partition");
            }
            drop(records);
            prop_assert_eq!(buffer.used(), 0);
        }
    }

    #[test]
    fn single_reactions_rotate_over_all_partitions() {
        let partition = |rotation| {
            split_evenly(1, 4, rotation, RECORD_REACTIONS)
                .next()
                .unwrap()
                .0
        };
        assert_eq!(
            (1..=8).map(partition).collect::<Vec<_>>(),
            [1, 2, 3, 0, 1, 2, 3, 0]
        );
    }

    #[test]
    fn the_largest_record_of_each_limit_fits_the_topic() {
        let emojis: Vec<Emoji> = Emoji::all().collect();
        let reaction = |index: usize| Reaction {
            user: UserId::new(&"u".repeat(128)).unwrap(),
            emoji: emojis[index % emojis.len()],
            room: Room::new(&format!("{index:r>64}")).unwrap(),
            at_ms: index as u64,
        };
        let reactions: Vec<Reaction> = (0..RECORD_REACTIONS).map(reaction).collect();
        let bytes = |count: usize| {
            batch(
                reactions.iter().take(count).map(Into::into),
                RECORD_REACTIONS as u64,
            )
            .len() as u64
        };
        assert!(bytes(RECORD_REACTIONS) < 990_000);
        for topic_bytes in [
            OVERHEAD_BYTES + REACTION_BYTES,
            1000,
            10_000,
            500_000,
            1_048_588,
        ] {
            let limit = RecordLimit::of(topic_bytes).unwrap();
            assert!(
                bytes(limit.reactions) <= limit.bytes,
                "{topic_bytes}: {limit:?}"
            );
        }
        assert_eq!(RecordLimit::of(OVERHEAD_BYTES + REACTION_BYTES - 1), None);
    }
}
