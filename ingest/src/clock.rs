//! The time of receipt.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

/// The host's clock, except that it stands still where that one steps back: a reaction dated before
/// what the log has already seen would be late.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    latest_ms: AtomicU64,
}

impl Clock {
    /// Now, Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        self.not_before_latest(host_ms())
    }

    fn not_before_latest(&self, now_ms: u64) -> u64 {
        let latest_ms = self.latest_ms.fetch_max(now_ms, Ordering::Relaxed);
        latest_ms.max(now_ms)
    }
}

fn host_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_while_the_host_s_clock_is_behind() {
        let clock = Clock::default();
        let seen = [5, 9, 3, 8, 10].map(|now_ms| clock.not_before_latest(now_ms));
        assert_eq!(seen, [5, 9, 9, 9, 10]);
    }
}
