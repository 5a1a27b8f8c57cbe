//! Counts of the finals of a key that are later than the key's record in a table. The totals do not depend on the order
//! in which partitions are read.
//!
//! ```text
//!  [finals]  partition 0:  · · · 4 2 │                              record ─▶ base
//!            partition 3:            │ 1 begins·7 5                 fold: base + (4 2), dropped by begins, (7 5)
//! ```
//!
//! After partitions were added to the topic, the finals of a key may be in two partitions. A restore may read the new
//! partition first, and the totals may begin at 0 with a final in it. Then the finals of the old partition, which are
//! read later, must not be added. So the counts of each partition are kept separately, and [`LaterFinals::fold`] adds
//! them in the order of their finals.

use crate::ResultOrder;

/// Counts of the finals of a key that are later than the key's record in a table.
///
/// ```
/// # use emostream_protocol::{LaterFinals, ResultOrder};
/// let order = |start_ms| ResultOrder { resets: 0, start_ms };
/// let mut later = LaterFinals::<u64>::default();
/// // The new partition is read first. Its second final begins the totals at 0.
/// *later.counts(3, order(6000), false) += 1;
/// *later.counts(3, order(8000), true) += 7;
/// *later.counts(3, order(10_000), false) += 5;
/// *later.counts(0, order(4000), false) += 2;
/// assert_eq!(later.fold(100, |total, more| *total += more), 12);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaterFinals<C> {
    /// One part for each partition. Usually there is only one, since a key seldom moves to another partition.
    parts: Vec<Part<C>>,
}

/// The counts of the finals in one partition. If the totals begin at 0 with a final, the part contains only the last
/// such final and the finals after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part<C> {
    partition: u32,
    /// The order of the first final in the part.
    first: ResultOrder,
    /// Whether the totals begin at 0 with the first final.
    begins: bool,
    counts: C,
}

impl<C> Default for LaterFinals<C> {
    fn default() -> LaterFinals<C> {
        LaterFinals { parts: Vec::new() }
    }
}

impl<C: Default> LaterFinals<C> {
    /// Returns whether there are no later finals.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns the counts to which the caller must add the counts of the final that has this order. If `begins` is set,
    /// the totals begin at 0 with this final, so the counts of the finals before it in its partition are dropped.
    ///
    /// The finals of a partition must be added in their order. Of two partitions, all finals of one must be earlier
    /// than all finals of the other; which one is read first does not matter.
    pub fn counts(&mut self, partition: u32, order: ResultOrder, begins: bool) -> &mut C {
        let known = self
            .parts
            .iter()
            .position(|part| part.partition == partition);
        let at = known.unwrap_or(self.parts.len());
        if begins || known.is_none() {
            let part = Part {
                partition,
                first: order,
                begins,
                counts: C::default(),
            };
            match self.parts.get_mut(at) {
                Some(known) => *known = part,
                None => self.parts.push(part),
            }
        }
        &mut self.parts[at].counts
    }

    /// Returns the totals of the key. `base` has the counts of the key's record, and `merge` adds the counts of each
    /// partition in order. If the totals begin at 0 with a final, all counts before that final are dropped, also those
    /// of `base`.
    pub fn fold(self, base: C, mut merge: impl FnMut(&mut C, C)) -> C {
        let mut parts = self.parts;
        parts.sort_unstable_by_key(|part| part.first);
        parts.into_iter().fold(base, |mut totals, part| {
            if part.begins {
                return part.counts;
            }
            merge(&mut totals, part.counts);
            totals
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A final of a test: whether the key moves to a new partition with this final, whether the totals begin at 0 with
    /// it, and its count.
    type Step = (bool, bool, u64);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (
            proptest::bool::weighted(0.2),
            proptest::bool::weighted(0.2),
            1..9_u64,
        );
        proptest::collection::vec(step, 0..20)
    }

    proptest! {
        #[test]
        fn the_totals_are_those_of_all_finals_in_order_whichever_partition_is_read_first(
            steps in steps(), base in 0..99_u64, seed in any::<u64>(),
        ) {
            // The oracle counts all finals in their order.
            let mut expected = base;
            let mut partitions: Vec<Vec<(ResultOrder, bool, u64)>> = vec![Vec::new()];
            for (nth, (moves, begins, count)) in (0..).zip(steps) {
                expected = if begins { count } else { expected + count };
                if moves {
                    partitions.push(Vec::new());
                }
                // After every ten finals there is a backward reset: the next windows begin at an earlier time.
                let order = ResultOrder { resets: nth / 10, start_ms: 2000 * (nth % 10) };
                partitions.last_mut().into_iter().for_each(|it| it.push((order, begins, count)));
            }
            let mut order: Vec<usize> = (0..partitions.len()).collect();
            order.sort_by_key(|at| (*at as u64 + 1).wrapping_mul(seed | 1));
            let mut later = LaterFinals::<u64>::default();
            for at in order {
                for (order, begins, count) in &partitions[at] {
                    *later.counts(at as u32, *order, *begins) += count;
                }
            }
            prop_assert_eq!(later.fold(base, |totals, more| *totals += more), expected);
        }
    }
}
