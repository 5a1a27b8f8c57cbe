//! When requests are due: at a constant rate, whatever the server does.

use std::time::Duration;

/// Evenly spread requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    per_second: f64,
    posts: u64,
}

impl Schedule {
    /// `per_second` of them for `duration`, one at least.
    pub(super) fn new(per_second: f64, duration: Duration) -> Self {
        let posts = (per_second * duration.as_secs_f64()).round().max(1.0) as u64;
        Self { per_second, posts }
    }

    /// How many in all.
    pub(super) fn posts(&self) -> u64 {
        self.posts
    }

    /// When the nth is due, after the start.
    pub(super) fn due(&self, nth: u64) -> Duration {
        Duration::from_secs_f64(nth as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_evenly_and_as_many_as_asked_for() {
        let schedule = Schedule::new(2000.0, Duration::from_secs(3));
        assert_eq!(schedule.posts(), 6000);
        assert_eq!(schedule.due(0), Duration::ZERO);
        assert_eq!(schedule.due(2000), Duration::from_secs(1));
        assert!(schedule.due(5999) < Duration::from_secs(3));
        assert_eq!(Schedule::new(0.01, Duration::from_secs(1)).posts(), 1);
    }
}
