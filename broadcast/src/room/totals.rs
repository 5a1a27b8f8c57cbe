//! Cumulative counts of a room as of each of its final results, calculated from one totals record.
//!
//! ```text
//!  finals    ·  ·  begins  ·  ·  ·  ·
//!  ring            [             ────────────▶
//!  record               as of ▲
//!                       later finals add, earlier ones of the ring subtract
//! ```
//!
//! The base is a totals record, which has the counts as of one window. The counts of later final results are added to
//! it, and those of earlier final results are subtracted. So the frames of a publisher do not depend on when it was
//! started, and a publisher reads only one totals record for each room.
//!
//! A record contains the counts since the totals last began at 0. Suppose that they began with a final result that is
//! in the ring and in the record. Then the counts before the ring are not known, and the totals of the final results
//! before that final result count only the final results in the ring. The frames of these final results differ from
//! those of a publisher that ran all the time. The frames of the final result with which the totals begin, and of all
//! later final results, do not differ.

use std::collections::BTreeMap;

use emostream_model::{Count, Emoji, RelayFinal, ResultOrder, sort_counts};

/// Cumulative counts of one room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RoomTotals {
    counts: BTreeMap<Emoji, u64>,
    /// The position up to which all final results are counted or were removed. `None`: no final result was counted.
    as_of: Option<ResultOrder>,
}

impl RoomTotals {
    /// Returns the totals just before the first of `finals`. `finals` are all final results of the room since some
    /// time, oldest first. `base` are the room's totals as of any final result.
    ///
    /// If the totals begin with one of the final results that `base` contains, the totals before the first final result
    /// are not known. Then the result is empty.
    pub(crate) fn before(mut base: Self, finals: &[RelayFinal]) -> Self {
        let Some(first) = finals.first() else {
            return base;
        };
        let as_of = base.as_of;
        let counted = finals.iter().filter(|closed| Some(closed.order()) <= as_of);
        for tally in counted.flat_map(|closed| &closed.record.counts) {
            // The subtraction saturates: if the totals begin with one of these final results, `base` does not contain
            // the final results before it.
            let count = base.counts.entry(tally.emoji).or_default();
            *count = count.saturating_sub(tally.count);
        }
        base.counts.retain(|_, count| *count > 0);
        base.as_of = as_of.filter(|as_of| *as_of < first.order());
        base
    }

    /// Returns totals that another process has counted, as of the final result at this position.
    pub(crate) fn of(counts: &[Count], as_of: Option<ResultOrder>) -> Self {
        Self {
            counts: counts.iter().map(|c| (c.emoji, c.count)).collect(),
            as_of,
        }
    }

    /// Returns the totals of a room whose final results before this position were removed. They contain no counts.
    pub(crate) fn removed(before: ResultOrder) -> Self {
        Self {
            counts: BTreeMap::new(),
            as_of: Some(before.just_before()),
        }
    }

    /// Adds the counts of later final results.
    pub(crate) fn merge(&mut self, later: Self) {
        for (emoji, more) in later.counts {
            let count = self.counts.entry(emoji).or_default();
            *count = count.saturating_add(more);
        }
        self.as_of = self.as_of.max(later.as_of);
    }

    /// Adds the counts of the next final result. If the totals begin with it, the earlier counts are dropped.
    pub(crate) fn add(&mut self, closed: &RelayFinal) {
        if closed.begins {
            self.counts.clear();
        }
        for tally in &closed.record.counts {
            // The addition saturates, since another program may have written any number.
            let count = self.counts.entry(tally.emoji).or_default();
            *count = count.saturating_add(tally.count);
        }
        self.as_of = self.as_of.max(Some(closed.order()));
    }

    /// Returns the position up to which final results are counted, or `None` if no final result was counted.
    pub(crate) fn as_of(&self) -> Option<ResultOrder> {
        self.as_of
    }

    /// Returns all counts, the greatest first.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let count = |(emoji, count): (&Emoji, &u64)| Count {
            emoji: *emoji,
            count: *count,
        };
        let mut counts: Vec<Count> = self.counts.iter().map(count).collect();
        sort_counts(&mut counts, |count| (count.count, count.emoji));
        counts
    }

    /// Returns the sum of all counts.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().copied().fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::room::testing::closed;
    use emostream_model::{ResultId, Room, WindowRecord, WindowSize, compress};
    use proptest::prelude::*;

    /// A final result: whether the totals begin with it, and its counts.
    type Step = (bool, Vec<(usize, u64)>);

    fn finals(steps: &[Step]) -> Vec<RelayFinal> {
        let size = WindowSize::from_ms(10).unwrap();
        let each = |(at, (begins, counts)): (u64, &Step)| {
            let merged: BTreeMap<usize, u64> = counts.iter().copied().collect();
            let tally = |(e, n): (usize, u64)| compress(Emoji::all().nth(e).unwrap(), n, 1000);
            let record = WindowRecord {
                room: Room::default(),
                window: size.window_of(10 * at),
                emitted_at: None,
                total: merged.values().sum(),
                counts: merged.into_iter().map(tally).collect(),
            };
            let id = ResultId {
                partition: 0,
                offset: at,
            };
            RelayFinal {
                begins: *begins,
                ..closed(id, at, record)
            }
        };
        (0..).zip(steps).map(each).collect()
    }

    proptest! {
        #[test]
        fn totals_of_a_final_do_not_depend_on_when_the_publisher_was_started(
            steps in proptest::collection::vec(
                (proptest::bool::weighted(0.2), proptest::collection::vec((0_usize..5, 1_u64..9), 1..4)), 1..20),
            base in any::<proptest::sample::Index>(), ring in any::<proptest::sample::Index>(),
        ) {
            let finals = finals(&steps);
            // The oracle applies all final results from the beginning.
            let mut all = RoomTotals::default();
            let expected: Vec<RoomTotals> = finals.iter().map(|f| { all.add(f); all.clone() }).collect();
            let (base, ring) = (base.index(finals.len()), ring.index(finals.len()));
            // No final result may be missing between the base and the ring, so the ring begins at the final result
            // after the base, or earlier.
            let ring = ring.min(base + 1).min(finals.len() - 1);
            let as_of = RoomTotals::of(&expected[base].counts(), Some(finals[base].order()));
            let mut totals = RoomTotals::before(as_of, &finals[ring..]);
            // If the totals begin with a final result in the ring, the base does not contain the counts from before
            // this final result. So the totals of the final results before it count only the final results in the ring.
            let known = (ring..=base).rev().find(|at| finals[*at].begins).unwrap_or(ring);
            let mut of_ring = RoomTotals::default();
            for at in ring..finals.len() {
                totals.add(&finals[at]);
                of_ring.add(&finals[at]);
                prop_assert_eq!(&totals, if at < known { &of_ring } else { &expected[at] });
            }
        }
    }

    #[test]
    fn finals_after_the_removal_of_a_room_count_from_0() {
        let finals = finals(&[
            (true, vec![(0, 5)]),
            (false, vec![(0, 2)]),
            (true, vec![(0, 3)]),
        ]);
        let mut totals = RoomTotals::removed(finals[2].order());
        assert!(totals.as_of() > Some(finals[1].order()));
        totals.add(&finals[2]);
        assert_eq!(
            (totals.total(), totals.as_of()),
            (3, Some(finals[2].order()))
        );
    }
}
