//! A token bucket. It limits new connections per second, and log lines per second.
//!
//! The crate governor is not used: it would replace only 30 lines, and add nine crates and a second version of
//! hashbrown.

use std::time::Instant;

/// A token bucket. It holds at most the tokens of one second. If the rate is below one token per second, it holds at
/// most one token.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl RateLimiter {
    /// Returns a full bucket. `per_second` has to be above zero.
    pub(crate) fn new(per_second: f64, now: Instant) -> Self {
        Self {
            per_second,
            left: per_second.max(1.0),
            at: now,
        }
    }

    /// Removes a token from the bucket. Returns `false` if there is none. `now` must not be earlier than in the
    /// previous call.
    pub(crate) fn try_acquire(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let full = self.per_second.max(1.0);
        self.left = (self.left + passed * self.per_second).min(full);
        self.at = now;
        let acquired = self.left >= 1.0;
        if acquired {
            self.left -= 1.0;
        }
        acquired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_burst_of_one_second_is_admitted_and_then_the_rate() {
        let start = Instant::now();
        let mut limiter = RateLimiter::new(5.0, start);
        let mut admitted = |ms| {
            let at = start + Duration::from_millis(ms);
            (0..100).filter(|_| limiter.try_acquire(at)).count()
        };
        assert_eq!(
            [0, 100, 210, 1210, 9000].map(&mut admitted),
            [5, 0, 1, 5, 5]
        );
    }

    proptest! {
        /// The number of tokens acquired in an interval is at most what a full bucket holds, plus the rate times the
        /// interval.
        #[test]
        fn no_interval_admits_more(
            per_second in 0.2_f64..200.0,
            gaps_ms in proptest::collection::vec(0_u64..3000, 1..200),
        ) {
            let start = Instant::now();
            let mut limiter = RateLimiter::new(per_second, start);
            let mut at_ms = 0;
            let mut admitted = Vec::new();
            for gap_ms in gaps_ms {
                at_ms += gap_ms;
                if limiter.try_acquire(start + Duration::from_millis(at_ms)) {
                    admitted.push(at_ms);
                }
            }
            for (i, from) in admitted.iter().enumerate() {
                for (j, to) in admitted.iter().enumerate().skip(i) {
                    let most = per_second.max(1.0) + (to - from) as f64 / 1000.0 * per_second;
                    prop_assert!((j - i + 1) as f64 <= most + 1e-6);
                }
            }
        }
    }
}
