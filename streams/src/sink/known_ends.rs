//! End offsets of the topic of final results as of some commits, from which a restart finds the final results that it
//! needs.
//!
//! ```text
//!  commits        F1 ─────────── F2 ─────────── F3
//!  end offsets       requested      requested         finals of windows from F2 on are at or after these
//! ```
//!
//! A transaction does not report the offsets of its records. But an end offset that was requested after one commit and
//! before the next one is a lower bound: later commits write at that offset or after it. One request every few seconds
//! is enough, since a restart may read a few more final results than it needs.

use std::collections::VecDeque;

use emostream_protocol::{FinalsFrom, ResultOrder};

/// Maximum number of entries. With one entry every five seconds, the list covers more than the two minutes within which
/// tables are usually complete. If a pause in event time delays the tables, every other entry is dropped, and the
/// bounds become less exact.
const MAX_ENDS: usize = 64;

/// End offsets as of some commits, the oldest first.
#[derive(Debug, Default)]
pub struct KnownEnds(VecDeque<FinalsFrom>);

impl KnownEnds {
    /// Creates the list from the end offsets in stored progress.
    pub fn new(stored: Option<FinalsFrom>) -> KnownEnds {
        KnownEnds(stored.into_iter().collect())
    }

    /// Adds end offsets: all final results of `since` or later are at `offsets` or after them.
    pub fn add(&mut self, since: ResultOrder, offsets: Vec<(u32, u64)>) {
        let ends = FinalsFrom { since, offsets };
        for known in &mut self.0 {
            // An end offset that is lower than before shows that the topic was recreated. New final results are written
            // at the lower offset and after it, so the older entries get this offset, too.
            for (partition, offset) in &mut known.offsets {
                *offset = ends.offset(*partition).min(*offset);
            }
        }
        self.0.push_back(ends);
        if self.0.len() > MAX_ENDS {
            // The first entry is never dropped, since only this entry bounds the oldest final results.
            let mut index = 0_usize;
            self.0.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
    }

    /// Returns the newest entry whose end offsets are lower bounds for all final results of `since` or later; `None` if
    /// there is no such entry.
    pub fn before(&self, since: ResultOrder) -> Option<&FinalsFrom> {
        self.0.iter().rev().find(|ends| ends.since <= since)
    }

    /// Drops the entries that are older than the one that [`KnownEnds::before`] returns for `since`.
    pub fn forget(&mut self, since: ResultOrder) {
        while self.0.get(1).is_some_and(|next| next.since <= since) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn order(start_ms: u64) -> ResultOrder {
        ResultOrder {
            resets: 0,
            start_ms,
        }
    }

    proptest! {
        /// The log is a list of the windows of its final results. Each commit writes some final results, and sometimes
        /// the end offset is requested before the next commit.
        #[test]
        fn all_finals_from_a_time_on_are_at_the_end_offsets_or_after_them(
            commits in vec((1_u64..4, 0_usize..4, any::<bool>()), 1..300), needed in 0_u64..600,
        ) {
            let (mut log, mut until) = (Vec::new(), 0);
            let mut known = KnownEnds::default();
            known.add(order(0), vec![(0, 0)]);
            for (windows, finals, is_requested) in commits {
                log.extend((0..finals).map(|nth| until + nth as u64 % windows));
                until += windows;
                if is_requested {
                    known.add(order(until), vec![(0, log.len() as u64)]);
                }
            }
            let ends = known.before(order(needed)).unwrap().clone();
            let first = log.iter().position(|start| *start >= needed).unwrap_or(log.len());
            prop_assert!(ends.offset(0) <= first as u64, "{ends:?} {first}");
            prop_assert!(known.0.len() <= MAX_ENDS);
            known.forget(order(needed));
            prop_assert_eq!(known.before(order(needed)), Some(&ends));
            prop_assert_eq!(known.0.front(), Some(&ends));
        }
    }

    #[test]
    fn a_topic_that_was_recreated_is_read_from_its_new_beginning() {
        let mut known = KnownEnds::default();
        known.add(order(10), vec![(0, 400), (1, 300)]);
        known.add(order(20), vec![(0, 2), (1, 350)]);
        let ends = known.before(order(15)).map(|ends| ends.offsets.clone());
        assert_eq!(ends, Some(vec![(0, 2), (1, 300)]));
        assert_eq!(known.before(order(9)), None);
    }
}
