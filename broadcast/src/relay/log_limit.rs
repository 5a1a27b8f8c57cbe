//! What the log is told of those who come to the relays' port: line by line, and of a flood its number.
//!
//! Invariant: however many come, and whatever they do, [`LINES`] and one more are written in a [`SPAN`].

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The most lines in a span: a tree's relays, all of which come back at one moment, mostly have one each.
pub(super) const LINES: u32 = 50;

/// How long a span is. Who reads along learns soon that there were more.
pub(super) const SPAN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Count>);

/// Of this span.
#[derive(Debug, Default)]
struct Count {
    told: u32,
    untold: u64,
}

impl Lines {
    /// Whether there is a line left for one more thing to tell; if not, it is counted.
    pub(super) fn has_one(&self) -> bool {
        let mut count = self.count();
        match count.told < LINES {
            true => count.told += 1,
            false => count.untold += 1,
        }
        count.untold == 0
    }

    /// Another span begins; how much was not told in the last one.
    pub(super) fn turn(&self) -> u64 {
        std::mem::take(&mut *self.count()).untold
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn of_a_flood_some_lines_and_the_number_of_the_others_are_told(
            spans in proptest::collection::vec(0_u64..200, 1..10),
        ) {
            let lines = Lines::default();
            for came in spans {
                let told = (0..came).filter(|_| lines.has_one()).count() as u64;
                prop_assert_eq!(told, came.min(u64::from(LINES)));
                prop_assert_eq!(lines.turn(), came - told);
            }
        }
    }
}
