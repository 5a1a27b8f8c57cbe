//! The clock that sets the time of receipt of each reaction.

use std::sync::atomic::{AtomicU64, Ordering};

use emostream_log::EventClock;

/// Maximum time by which the time of receipt may be ahead of the event clock, after the event clock was set back. The
/// log accepts records that are ahead of its clock by at most this time. It would refuse records that are further
/// ahead, until its clock has reached their time.
const MAX_STANDSTILL_MS: u64 = 5_000;

/// A clock that returns the time of the event clock, but does not go back with it. If the event clock is set back a
/// little, this clock returns its latest time again until the event clock has reached that time. Otherwise reactions
/// could get earlier times than records that the log already has, and would be late.
#[derive(Debug)]
pub(crate) struct Clock {
    events: EventClock,
    latest_ms: AtomicU64,
}

impl Clock {
    pub(crate) fn new(events: EventClock) -> Self {
        let latest_ms = AtomicU64::new(0);
        Self { events, latest_ms }
    }

    /// Returns the current time in Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.not_before_latest(self.events.unix_ms())
    }

    fn not_before_latest(&self, now_ms: u64) -> u64 {
        let latest_ms = self.latest_ms.fetch_max(now_ms, Ordering::Relaxed);
        if latest_ms.saturating_sub(now_ms) > MAX_STANDSTILL_MS {
            self.latest_ms.store(now_ms, Ordering::Relaxed);
            return now_ms;
        }
        latest_ms.max(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen<const N: usize>(readings: [u64; N]) -> [u64; N] {
        let clock = Clock::new(EventClock::host());
        readings.map(|now_ms| clock.not_before_latest(now_ms))
    }

    #[test]
    fn time_stands_still_while_the_clock_is_a_little_behind() {
        assert_eq!(seen([5, 9, 3, 8, 10]), [5, 9, 9, 9, 10]);
    }

    #[test]
    fn a_clock_that_was_far_ahead_is_followed_when_it_is_corrected() {
        // If the clock returned its latest time until then, the log would refuse all records for an hour.
        let hour = 3_600_000;
        assert_eq!(seen([hour + 9, 10, 9, 12]), [hour + 9, 10, 10, 12]);
    }
}
