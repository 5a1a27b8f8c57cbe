//! From the buffer to the log: one record to every partition, every half second or when it is full.
//!
//! Architecture invariant: nothing here waits for the log. What it acknowledges comes back through the
//! [`Flight`].

use std::{
    iter::repeat_n,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use emostream_log::{Appender, LogError, NewRecord};
use emostream_model::{Batch, Reaction};
use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval},
};

use crate::{
    buffer::{Buffer, Cargo, Stored},
    flight::Flight,
    health::Health,
    metrics::Metrics,
};

/// The most reactions of a record. At the longest users and rooms it has 240 bytes a reaction, and
/// Kafka takes records of 1,000,000 bytes unless told otherwise.
const RECORD_REACTIONS: usize = 4000;

/// Why a drain did not store everything.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DrainError {
    /// The log refused the last flush.
    #[error("the log refused the last flush, and what was in it is lost: {0}")]
    Refused(LogError),
    /// The log did not acknowledge in time.
    #[error("the log has not acknowledged {reactions} reactions in time; they may be lost")]
    Unacknowledged {
        /// How many.
        reactions: usize,
    },
}

/// Writes what the buffer holds.
pub(crate) struct Flusher {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) appender: Box<dyn Appender>,
    pub(crate) topic: String,
    pub(crate) partitions: Arc<AtomicU32>,
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Flusher {
    /// Flushes every `period`, and when there is enough, until it is told to stop; then once more, and
    /// tells when that is stored.
    pub(crate) async fn run(self, period: Duration, mut stop: oneshot::Receiver<Stored>) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        let mut dealt = 0;
        let last = loop {
            tokio::select! {
                last = &mut stop => break last,
                _ = ticks.tick() => {}
                () = self.buffer.full_flush() => ticks.reset(),
            }
            let (cargo, now_ms) = self.buffer.take();
            dealt += cargo.reactions.len();
            self.flush(number, dealt, cargo, now_ms);
            number += 1;
        };
        self.buffer.close();
        let (mut cargo, now_ms) = self.buffer.take();
        // Without a sender the service was dropped: nobody wants to know.
        cargo.waiting.extend(last);
        self.flush(number, dealt, cargo, now_ms);
        let appender = self.appender;
        // Closing a log may wait for it.
        tokio::task::spawn_blocking(move || drop(appender));
    }

    fn flush(&self, number: u64, turn: usize, cargo: Cargo, now_ms: u64) {
        let partitions = self.partitions.load(Ordering::Relaxed);
        let Cargo {
            reactions,
            places,
            waiting,
        } = cargo;
        let (health, metrics) = (self.health.clone(), self.metrics.clone());
        let flight = Flight::leave(number, places, waiting, health, metrics);
        for (partition, share) in deal(reactions.len(), partitions, turn) {
            let share = &reactions[share];
            let record = NewRecord {
                topic: self.topic.clone(),
                partition: Some(partition),
                time_ms: Some(now_ms),
                key: None,
                value: batch(share, now_ms),
                headers: Vec::new(),
            };
            let under_way = flight.record(share.len());
            if let Err(error) = self.appender.append(record, under_way.done()) {
                // Its `done` was dropped, which counts it as lost; this names the reason.
                flight.fail(error);
            }
        }
    }
}

/// A batch none of whose reactions is before its base; a heartbeat if it has none.
fn batch(reactions: &[Reaction], now_ms: u64) -> Bytes {
    let base_ms = reactions.first().map_or(now_ms, |first| first.at_ms);
    Batch::encode(base_ms, reactions).into()
}

/// Deals `count` reactions evenly: for every partition at least one range of them, empty if there are
/// too few; ranges of at most [`RECORD_REACTIONS`]. The partitions that get one more change with `turn`.
fn deal(count: usize, partitions: u32, turn: usize) -> impl Iterator<Item = (u32, Range<usize>)> {
    let all = partitions.max(1);
    let (share, extra) = (count / all as usize, count % all as usize);
    let first = (turn % all as usize) as u32;
    let order = (0..all).map(move |step| (first + step) % all);
    let sizes = repeat_n(share + 1, extra).chain(repeat_n(share, all as usize - extra));
    let mut start = 0;
    let shares = sizes.map(move |size| {
        let range = start..start + size;
        start = range.end;
        range
    });
    order.zip(shares).flat_map(|(partition, share)| {
        let records = share.len().div_ceil(RECORD_REACTIONS).max(1);
        (0..records).map(move |record| {
            let start = share.start + record * RECORD_REACTIONS;
            (partition, start..share.end.min(start + RECORD_REACTIONS))
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Emoji, Room, UserId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_reaction_is_dealt_once_and_every_partition_gets_its_share(
            count in 0_usize..50_000, partitions in 1_u32..70, turn in 0_usize..1000,
        ) {
            let dealt: Vec<_> = deal(count, partitions, turn).collect();
            let mut next = 0;
            let mut shares = vec![None; partitions as usize];
            for (partition, range) in &dealt {
                prop_assert_eq!(range.start, next);
                prop_assert!(range.len() <= RECORD_REACTIONS);
                next = range.end;
                *shares[*partition as usize].get_or_insert(0) += range.len();
            }
            prop_assert_eq!(next, count);
            let shares: Vec<usize> = shares.into_iter().map(Option::unwrap).collect();
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
            if count <= RECORD_REACTIONS {
                prop_assert_eq!(dealt.len(), partitions as usize, "one record a partition");
            }
        }
    }

    #[test]
    fn single_reactions_go_round_all_partitions() {
        let taken = |turn| {
            deal(1, 4, turn)
                .find(|(_, share)| !share.is_empty())
                .unwrap()
                .0
        };
        assert_eq!(
            (1..=8).map(taken).collect::<Vec<_>>(),
            [1, 2, 3, 0, 1, 2, 3, 0]
        );
    }

    #[test]
    fn the_largest_record_is_one_that_kafka_takes_by_default() {
        let emojis: Vec<Emoji> = Emoji::all().collect();
        let reaction = |at: usize| Reaction {
            user: UserId::new(&"u".repeat(128)).unwrap(),
            emoji: emojis[at % emojis.len()],
            room: Room::new(&format!("{at:r>64}")).unwrap(),
            at_ms: at as u64,
        };
        let reactions: Vec<Reaction> = (0..RECORD_REACTIONS).map(reaction).collect();
        let bytes = batch(&reactions, 0).len();
        assert!(bytes < 990_000, "{bytes}");
    }
}
