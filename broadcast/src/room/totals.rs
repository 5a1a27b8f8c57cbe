//! A room's cumulative counts as of each of its finals, from one totals record.
//!
//! The record of a window is the base: later finals add, earlier ones subtract. So a publisher makes
//! the same frames whenever it was started, and one totals record a room is all it needs.

use std::collections::BTreeMap;

use emostream_model::{Count, Emoji, ResultOrder, TotalsRecord, WindowRecord, sort_counts};

/// Cumulative counts of one room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RoomTotals(BTreeMap<Emoji, u64>);

impl RoomTotals {
    /// As of just before the first of `finals`, which are all the room's finals from some moment on,
    /// oldest first.
    pub(crate) fn before<'a>(
        base: Option<(ResultOrder, &TotalsRecord)>,
        finals: impl IntoIterator<Item = (ResultOrder, &'a WindowRecord)>,
    ) -> Self {
        let Some((of_base, base)) = base else {
            return Self::default();
        };
        let mut totals = Self::of(&base.counts.named);
        let counted = |(order, _): &(ResultOrder, _)| *order <= of_base;
        for (_, record) in finals.into_iter().filter(counted) {
            for tally in &record.counts {
                let count = totals.0.entry(tally.emoji).or_default();
                *count = count.saturating_sub(tally.count);
            }
        }
        totals.0.retain(|_, count| *count > 0);
        totals
    }

    /// Totals that another node has counted.
    pub(crate) fn of(counts: &[Count]) -> Self {
        Self(counts.iter().map(|c| (c.emoji, c.count)).collect())
    }

    /// Adds what was counted elsewhere.
    pub(crate) fn merge(&mut self, other: Self) {
        for (emoji, more) in other.0 {
            let count = self.0.entry(emoji).or_default();
            *count = count.saturating_add(more);
        }
    }

    /// Adds the next final.
    pub(crate) fn add(&mut self, record: &WindowRecord) {
        for tally in &record.counts {
            // Saturating: another program may have written any number.
            let count = self.0.entry(tally.emoji).or_default();
            *count = count.saturating_add(tally.count);
        }
    }

    /// All counts, the greatest first.
    pub(crate) fn counts(&self) -> Vec<Count> {
        let count = |(emoji, count): (&Emoji, &u64)| Count {
            emoji: *emoji,
            count: *count,
        };
        let mut counts: Vec<Count> = self.0.iter().map(count).collect();
        sort_counts(&mut counts, |count| (count.count, count.emoji));
        counts
    }

    /// The sum of all counts.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().copied().fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Room, TotalCounts, WindowSize, compress};
    use proptest::prelude::*;

    fn records(counts: &[Vec<(usize, u64)>]) -> Vec<WindowRecord> {
        let size = WindowSize::from_ms(10).unwrap();
        let record = |(at, counts): (usize, &Vec<(usize, u64)>)| {
            let merged: BTreeMap<usize, u64> = counts.iter().copied().collect();
            let tally = |(e, n): (usize, u64)| compress(Emoji::all().nth(e).unwrap(), n, 1000);
            WindowRecord {
                room: Room::default(),
                window: size.window_of(10 * at as u64),
                emitted_at: None,
                total: merged.values().sum(),
                counts: merged.into_iter().map(tally).collect(),
            }
        };
        counts.iter().enumerate().map(record).collect()
    }

    proptest! {
        #[test]
        fn totals_of_a_final_do_not_depend_on_when_the_publisher_was_started(
            counts in proptest::collection::vec(proptest::collection::vec((0_usize..5, 1_u64..9), 1..4), 1..20),
            base in any::<proptest::sample::Index>(), ring in any::<proptest::sample::Index>(),
        ) {
            let finals = records(&counts);
            // The oracle: everything from the beginning.
            let mut all = RoomTotals::default();
            let expected: Vec<RoomTotals> = finals.iter().map(|f| { all.add(f); all.clone() }).collect();
            let (base, ring) = (base.index(finals.len()), ring.index(finals.len()));
            let record = TotalsRecord {
                room: Room::default(),
                window: finals[base].window,
                total: expected[base].total(),
                counts: TotalCounts { named: expected[base].counts(), ..TotalCounts::default() },
            };
            // A ring that begins at or before what follows the base: nothing lies between.
            let ring = ring.min(base + 1).min(finals.len() - 1);
            let order = |record: &WindowRecord| ResultOrder::new(0, record.window);
            let ordered = finals[ring..].iter().map(|record| (order(record), record));
            let base_order = ResultOrder::new(0, record.window);
            let mut totals = RoomTotals::before(Some((base_order, &record)), ordered);
            for at in ring..finals.len() {
                totals.add(&finals[at]);
                prop_assert_eq!(&totals, &expected[at]);
            }
        }
    }
}
