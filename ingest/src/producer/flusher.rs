//! From the buffer to the log: one record to every partition, every half second or when it is full.
//!
//! ```text
//!           accepted (202) ──reaction by reaction──▶ ┐
//!  Cargo ─▶                                          ├─▶ one appender, as long as the process lives
//!           parcels (wait) ──request by request────▶ ┘
//! ```
//!
//! What was accepted was promised; its sender is gone, so the log gets all the time it needs. One appender
//! for all: what another one brought later would be late, for time in a partition has moved on.
//!
//! Architecture invariant: nothing here waits for the log. What it acknowledges comes back through the
//! [`Flight`].

#![allow(clippy::disallowed_methods, reason = "times flushes")]

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
    buffer::{Buffer, Cargo, Parcel},
    metrics::Metrics,
    producer::in_flight::{Aboard, Flight, Record},
    producer::partition_health::Health,
};

/// The most reactions of a record. At the longest users and rooms it has [`REACTION_BYTES`] a reaction, and
/// Kafka takes records of 1,000,000 bytes unless told otherwise.
const RECORD_REACTIONS: usize = 4000;

/// The most bytes of a reaction in a batch, with the longest user and a room of its own.
const REACTION_BYTES: u64 = 247;

/// What Kafka, the header with the process's name, and the batch add to the reactions of a record that is sent by
/// itself: 200 bytes at most.
const OVERHEAD_BYTES: u64 = 256;

/// What a topic takes as one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordLimit {
    /// The most reactions, so that they fit whatever they are.
    reactions: usize,
    /// The most bytes of the batch itself.
    bytes: u64,
}

impl RecordLimit {
    /// Of a topic that takes so many bytes; `None` if not even one reaction fits always.
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
    /// What a topic accepts with the default limits of Kafka.
    fn default() -> Self {
        Self {
            reactions: RECORD_REACTIONS,
            bytes: RECORD_REACTIONS as u64 * REACTION_BYTES,
        }
    }
}

/// Writes what the buffer holds.
pub(crate) struct Flusher {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) appender: Box<dyn Appender>,
    pub(crate) topic: String,
    pub(crate) limit: RecordLimit,
    pub(crate) partitions: Arc<AtomicU32>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    /// Names this process in every record.
    pub(crate) instance: Header,
}

/// Where the records of a flush go.
struct Round {
    open: Vec<u32>,
    now_ms: u64,
}

impl Round {
    /// The open partition at that place of the round.
    fn partition(&self, at: usize) -> u32 {
        self.open[at % self.open.len()]
    }
}

impl Flusher {
    /// Flushes every `period`, and when there is enough, until it is told to stop; then once more.
    pub(crate) async fn run(self, period: Duration, mut stop: oneshot::Receiver<()>) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut turn, mut flushed) = (0, Packed::default());
        loop {
            let stopping = tokio::select! {
                _ = &mut stop => true,
                _ = ticks.tick() => false,
                () = self.buffer.full_flush() => {
                    ticks.reset();
                    false
                }
            };
            if stopping {
                self.buffer.close();
            }
            let (cargo, now_ms) = self.buffer.take(flushed);
            turn += cargo.count;
            flushed = self.flush(turn, cargo, now_ms);
            if stopping {
                break;
            }
        }
        // Closing a log may wait for it.
        spawn_blocking(move || drop(self));
    }

    /// Hands a flush to the log; what was accepted is then in its records.
    fn flush(&self, turn: usize, cargo: Cargo, now_ms: u64) -> Packed {
        let Cargo {
            accepted,
            mut places,
            parcels,
            ..
        } = cargo;
        let partitions = self.partitions.load(Ordering::Relaxed);
        let choice = self.health.choose(partitions, Instant::now());
        let round = Round {
            open: choice.open,
            now_ms,
        };
        let mut rest = accepted.iter();
        let most = self.limit.reactions;
        let flight = Flight::leave(self.health.clone(), self.metrics.clone());
        let mut beat = choice.beat;
        for (at, share) in deal(accepted.len(), round.open.len(), turn, most) {
            beat.retain(|partition| *partition != round.partition(at));
            let aboard = Aboard {
                places: places.as_mut().and_then(|held| held.split(share)),
                waiting: Vec::new(),
            };
            let record = flight.record(share, aboard);
            self.send(
                &record,
                &round,
                at,
                batch(rest.by_ref().take(share), now_ms),
            );
        }
        for (at, reactions, aboard) in load(parcels, round.open.len(), turn, most) {
            beat.retain(|partition| *partition != round.partition(at));
            let record = flight.record(reactions.len(), aboard);
            self.send(&record, &round, at, batch(reactions.iter(), now_ms));
        }
        for partition in beat {
            let record = flight.record(0, Aboard::default());
            let heartbeat = self.record(partition, Batch::heartbeat(now_ms).into(), now_ms);
            if let Err(error) = offer(&*self.appender, &record, heartbeat) {
                record.lands(Err(error));
            }
        }
        drop(rest);
        accepted
    }

    /// Sends a record to the open partition at that place; if the log refuses it there at once, to the
    /// next.
    fn send(&self, record: &Arc<Record>, round: &Round, at: usize, batch: Bytes) {
        let bytes = batch.len() as u64;
        if bytes > self.limit.bytes {
            // One request that waits: it is stored whole or not at all, and nothing else is in its record.
            return record.lands(Err(LogError::TooLarge {
                topic: self.topic.clone(),
                bytes,
                most: self.limit.bytes,
            }));
        }
        let mut refusal = None;
        for next in at..at + round.open.len() {
            let new = self.record(round.partition(next), batch.clone(), round.now_ms);
            match offer(&*self.appender, record, new) {
                Ok(()) => return,
                Err(error) => refusal = Some(error),
            }
        }
        record.lands(refusal.map_or(Ok(()), Err));
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

/// Offers a record to the log; an error if it is not even queued.
fn offer(appender: &dyn Appender, record: &Arc<Record>, new: NewRecord) -> Result<(), LogError> {
    let partition = new.partition.unwrap_or_default();
    let (ticket, done) = record.leaves(partition);
    appender.append(new, done).inspect_err(|error| {
        record.heard(partition, ticket, Some(error));
    })
}

/// A batch none of whose reactions, in the order of their times, is before its base, nor after `now_ms`: a clock
/// that was corrected meanwhile dated them in the future, and the dataflow would reject the whole batch.
fn batch<'a>(reactions: impl Iterator<Item = ReactionRef<'a>>, now_ms: u64) -> Bytes {
    let dated = |reaction: ReactionRef<'a>| ReactionRef {
        at_ms: reaction.at_ms.min(now_ms),
        ..reaction
    };
    let mut reactions = reactions.map(dated).peekable();
    let base_ms = reactions.peek().map_or(now_ms, |first| first.at_ms);
    Batch::encode(base_ms, reactions).into()
}

/// Deals `count` reactions evenly to so many places, in shares of at most `most`. The places that get one more
/// change with `turn`.
fn deal(
    count: usize,
    places: usize,
    turn: usize,
    most: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let (share, extra) = (count / places, count % places);
    let order = (0..places).map(move |step| (turn + step) % places);
    let sizes = repeat_n(share + 1, extra).chain(repeat_n(share, places - extra));
    order.zip(sizes).flat_map(move |(place, size)| {
        let records = size.div_ceil(most);
        (0..records).map(move |record| {
            let left = size - record * most;
            (place, left.min(most))
        })
    })
}

/// Loads parcels into records, whole, in turn for each of so many places. Of several parcels a record holds
/// `most` reactions together.
fn load(
    parcels: Vec<Parcel>,
    places: usize,
    turn: usize,
    most: usize,
) -> Vec<(usize, Packed, Aboard)> {
    let mut full = Vec::new();
    let mut loading: Vec<_> = (0..places)
        .map(|_| (Packed::default(), Aboard::default()))
        .collect();
    for (number, parcel) in parcels.into_iter().enumerate() {
        let place = (turn + number) % places;
        let (reactions, aboard) = &mut loading[place];
        if reactions.len() > 0 && reactions.len() + parcel.reactions.len() > most {
            full.push((place, take(reactions), take(aboard)));
        }
        reactions.append(parcel.reactions);
        aboard.board(parcel.places, parcel.stored);
    }
    let rest = loading.into_iter().enumerate();
    let rest = rest.map(|(place, (reactions, aboard))| (place, reactions, aboard));
    full.extend(rest.filter(|(_, reactions, _)| reactions.len() > 0));
    full
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use crate::buffer::packed::tests::taken;
    use emostream_log::EventClock;
    use emostream_model::{Emoji, Reaction, Room, UserId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_reaction_is_dealt_once_and_every_partition_gets_its_share(
            count in 0_usize..50_000, partitions in 1_usize..70, turn in 0_usize..1000,
            most in 1..=RECORD_REACTIONS,
        ) {
            let dealt: Vec<_> = deal(count, partitions, turn, most).collect();
            let mut shares = vec![0; partitions];
            for (partition, share) in &dealt {
                prop_assert!((1..=most).contains(share));
                shares[*partition] += share;
            }
            prop_assert_eq!(shares.iter().sum::<usize>(), count);
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            if count <= most {
                prop_assert_eq!(dealt.len(), count.min(partitions), "one record a partition");
            }
        }

        #[test]
        fn parcels_travel_whole_and_none_is_left_behind(
            sizes in proptest::collection::vec(1_usize..=1000, 0..60),
            places in 1_usize..9,
            turn in 0_usize..1000,
        ) {
            let buffer = Buffer::new(100_000, usize::MAX, EventClock::host());
            let mut senders = Vec::new();
            for size in &sizes {
                let (stored, outcome) = oneshot::channel();
                let room = buffer.reserve(*size as u32).unwrap();
                buffer.add(taken(*size), room, Some(stored)).unwrap();
                senders.push(outcome);
            }
            let (cargo, _) = buffer.take(Packed::default());
            prop_assert_eq!(cargo.count, sizes.iter().sum::<usize>());
            let records = load(cargo.parcels, places, turn, RECORD_REACTIONS);
            let mut held = 0;
            for (place, reactions, aboard) in &records {
                prop_assert!(*place < places);
                prop_assert!(reactions.len() <= RECORD_REACTIONS && reactions.iter().is_sorted_by_key(|r| r.at_ms));
                prop_assert_eq!(aboard.places.as_ref().unwrap().num_permits(), reactions.len());
                prop_assert!(!aboard.waiting.is_empty());
                held += aboard.waiting.len();
            }
            prop_assert_eq!(held, sizes.len());
            prop_assert_eq!(buffer.fill(), sizes.iter().sum::<usize>());
            if sizes.iter().sum::<usize>() <= RECORD_REACTIONS {
                prop_assert_eq!(records.len(), sizes.len().min(places), "one record a partition");
            }
            drop(records);
            prop_assert_eq!(buffer.fill(), 0);
        }
    }

    #[test]
    fn single_reactions_go_round_all_partitions() {
        let taken = |turn| deal(1, 4, turn, RECORD_REACTIONS).next().unwrap().0;
        assert_eq!(
            (1..=8).map(taken).collect::<Vec<_>>(),
            [1, 2, 3, 0, 1, 2, 3, 0]
        );
    }

    #[test]
    fn the_largest_record_of_each_limit_is_one_that_the_topic_takes() {
        let emojis: Vec<Emoji> = Emoji::all().collect();
        let reaction = |at: usize| Reaction {
            user: UserId::new(&"u".repeat(128)).unwrap(),
            emoji: emojis[at % emojis.len()],
            room: Room::new(&format!("{at:r>64}")).unwrap(),
            at_ms: at as u64,
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
