//! Calculates the times at which requests are due. The rate is constant except for spikes, and does not depend on the
//! server. All functions are pure.
//!
//! ```text
//!   rate        ┌──────┐
//!   ────────────┘      └──────────────   requests due before a time t: the area to the left of t
//!   piece 0     piece 1  piece 2
//! ```

use std::time::Duration;

use super::spike::Spike;

/// The schedule: the times at which requests are due.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    pieces: Vec<Piece>,
    posts: u64,
}

/// A span of time with a constant rate.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from_s: f64,
    per_second: f64,
    /// The number of requests that are due before this piece. It may have a fraction.
    before: f64,
}

impl Schedule {
    /// Creates a schedule of at least one request. The spikes must be sorted and must not overlap.
    pub(super) fn new(per_second: f64, duration: Duration, spikes: &[Spike]) -> Self {
        let mut changes = vec![(Duration::ZERO, per_second)];
        for spike in spikes {
            changes.push((spike.at, per_second * spike.factor));
            changes.push((spike.end(), per_second));
        }
        changes.push((duration, 0.0));
        let mut pieces = Vec::new();
        let mut before = 0.0;
        for change in changes.windows(2) {
            let [(from, per_second), (to, _)] = [change[0], change[1]];
            let (from, to) = (from.min(duration), to.min(duration));
            if from < to {
                pieces.push(Piece {
                    from_s: from.as_secs_f64(),
                    per_second,
                    before,
                });
                before += (to - from).as_secs_f64() * per_second;
            }
        }
        let posts = before.round().max(1.0) as u64;
        Self { pieces, posts }
    }

    /// Returns the number of requests.
    pub(super) fn posts(&self) -> u64 {
        self.posts
    }

    /// Returns the highest rate.
    pub(super) fn peak_per_second(&self) -> f64 {
        let rates = self.pieces.iter().map(|piece| piece.per_second);
        rates.fold(0.0, f64::max)
    }

    /// Returns the time from the start of the load to the time at which the nth request is due; `nth` counts from 0.
    pub(super) fn due(&self, nth: u64) -> Duration {
        let nth = nth as f64;
        let begun = self.pieces.partition_point(|piece| piece.before <= nth);
        let piece = self.pieces[begun.saturating_sub(1)];
        Duration::from_secs_f64(piece.from_s + (nth - piece.before) / piece.per_second)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::commands::load::spike;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn requests_are_due_evenly_at_the_rate() {
        let schedule = Schedule::new(2000.0, SECOND * 3, &[]);
        assert_eq!(schedule.posts(), 6000);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(2000), SECOND);
        assert!(schedule.due(5999) < SECOND * 3);
        assert_eq!(Schedule::new(0.01, SECOND, &[]).posts(), 1);
    }

    #[test]
    fn a_spike_multiplies_the_rate_while_it_lasts() {
        let spikes = ["10x@2s+1s".parse().unwrap()];
        let schedule = Schedule::new(100.0, SECOND * 5, &spikes);
        assert_eq!(schedule.posts(), 400 + 1000);
        assert_eq!(schedule.peak_per_second(), 1000.0);
        assert_eq!(schedule.due(199), Duration::from_millis(1990));
        assert_eq!(schedule.due(700), Duration::from_millis(2500));
        assert_eq!(schedule.due(1200), SECOND * 3);
    }

    /// Returns the rate at a time, which is calculated directly from the rate and the spikes.
    fn rate_at(per_second: f64, spikes: &[Spike], ms: u64) -> f64 {
        let at = Duration::from_millis(ms);
        let spike = spikes.iter().find(|s| s.at <= at && at < s.end());
        per_second * spike.map_or(1.0, |spike| spike.factor)
    }

    proptest! {
        #[test]
        fn before_every_moment_as_many_are_due_as_the_rate_until_then(
            per_second in 0.5..3000.0f64,
            duration_ms in 1000..20_000u64,
            drawn in prop::collection::vec((0.1..20.0f64, 0..18_000u64, 1..5000u64), 0..4),
        ) {
            let duration = Duration::from_millis(duration_ms);
            let drawn = drawn.into_iter().map(|(factor, at_ms, length_ms)| Spike {
                factor,
                at: Duration::from_millis(at_ms),
                length: Duration::from_millis(length_ms),
            });
            let Ok(spikes) = spike::in_order(drawn.collect(), duration) else {
                return Ok(());
            };
            let schedule = Schedule::new(per_second, duration, &spikes);
            let mut expected = 0.0;
            let mut nth = 0;
            for ms in 0..duration_ms {
                while nth < schedule.posts() && schedule.due(nth) < Duration::from_millis(ms) {
                    nth += 1;
                }
                let off = (nth as f64 - expected).abs();
                prop_assert!(off <= 1.001, "{nth} before {ms} ms, not {expected}");
                expected += rate_at(per_second, &spikes, ms) / 1000.0;
            }
            prop_assert!((schedule.posts() as f64 - expected.max(1.0)).abs() <= 1.001);
        }

        #[test]
        fn no_request_is_due_before_the_one_before_it_or_after_the_end(
            per_second in 0.5..500.0f64, factor in 0.1..20.0f64, at_ms in 0..5000u64
        ) {
            let spike = Spike { factor, at: Duration::from_millis(at_ms), length: SECOND };
            let schedule = Schedule::new(per_second, SECOND * 6, &[spike]);
            let dues: Vec<Duration> = (0..schedule.posts()).map(|n| schedule.due(n)).collect();
            prop_assert!(dues.is_sorted());
            prop_assert!(dues.iter().all(|due| *due <= SECOND * 6));
        }
    }
}
