//! Limits the number of log lines about connections to the relays' port. Only the number of dropped lines is logged.
//!
//! The crate governor is not used. It allows twice as many lines in a span (a full burst, then its refill), and does
//! not count the lines that it refuses. It would also add nine crates and a second version of hashbrown.
//!
//! Invariant: for any number of connections, at most [`LINES`] lines, and one line with the number of dropped lines,
//! are logged in a [`SPAN`].

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Maximum number of lines in a span. After an outage all relays of a tree reconnect at once, each with one line.
pub(super) const LINES: u32 = 50;

/// Length of a span, after which the number of dropped lines is logged.
pub(super) const SPAN: Duration = Duration::from_secs(10);

/// Counts log lines, and limits their number.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit(Mutex<Count>);

/// The counts of this span.
#[derive(Debug, Default)]
struct Count {
    logged: u32,
    dropped: u64,
}

impl LogRateLimit {
    /// Returns whether one more line may be logged. If not, it counts as dropped.
    pub(super) fn try_acquire(&self) -> bool {
        let mut count = self.count();
        match count.logged < LINES {
            true => count.logged += 1,
            false => count.dropped += 1,
        }
        count.dropped == 0
    }

    /// Starts a span, and returns the number of lines that were dropped in the last one.
    pub(super) fn rotate(&self) -> u64 {
        std::mem::take(&mut *self.count()).dropped
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
        fn some_lines_and_the_number_of_the_others_are_logged(
            spans in proptest::collection::vec(0_u64..200, 1..10),
        ) {
            let lines = LogRateLimit::default();
            for attempts in spans {
                let logged = (0..attempts).filter(|_| lines.try_acquire()).count() as u64;
                prop_assert_eq!(logged, attempts.min(u64::from(LINES)));
                prop_assert_eq!(lines.rotate(), attempts - logged);
            }
        }
    }
}
