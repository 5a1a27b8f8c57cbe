//! Detects from the dataflow's progress records whether the dataflow counts.
//!
//! A dataflow commits its progress at least once per interval, also if no reactions arrive. So if commits are missing,
//! the dataflow has stopped. If only results are missing, all rooms may be quiet.

use std::time::{Duration, Instant};

use serde::Deserialize;

/// After this number of intervals without a commit, the publisher reports that the dataflow does not count. With the
/// default interval of 2 s, this is the time after which a standby takes over. A restart is mostly faster, so
/// subscribers are not notified of a restart.
const MISSED_INTERVALS: u32 = 5;

/// The last commit of the dataflow.
pub(super) struct Commits {
    last: Instant,
    /// The maximum time between two commits. `None` if this time is not known, since no dataflow has run yet, or its
    /// version is too old.
    interval: Option<Duration>,
}

/// The part of a progress record that describes how often the dataflow commits.
#[derive(Deserialize)]
struct Interval {
    heartbeat_ms: Option<u64>,
}

impl Commits {
    /// Returns the state when a publisher starts. The time since the last commit is not known, so it counts as 0.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            interval: None,
        }
    }

    /// Applies a progress record that was read at `now`.
    pub(super) fn observe(&mut self, record: &[u8], now: Instant) {
        // A record that cannot be parsed was written by another version, whose interval is not known.
        let interval = serde_json::from_slice(record).ok();
        let interval_ms = interval.and_then(|Interval { heartbeat_ms }| heartbeat_ms);
        self.interval = interval_ms.map(Duration::from_millis);
        self.last = now;
    }

    /// Returns whether the dataflow counts at `now`, as far as it is known.
    pub(super) fn is_counting(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last);
        self.interval
            .is_none_or(|interval| passed < interval.saturating_mul(MISSED_INTERVALS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataflow_has_stopped_after_five_intervals_without_a_commit() {
        let now = Instant::now();
        let seconds = |seconds| now + Duration::from_secs(seconds);
        let mut commits = Commits::new(now);
        assert!(commits.is_counting(seconds(100)), "none has run yet");
        commits.observe(br#"{"format":1,"heartbeat_ms":2000}"#, seconds(100));
        assert!(commits.is_counting(seconds(109)));
        assert!(!commits.is_counting(seconds(110)));
        commits.observe(br#"{"format":1,"heartbeat_ms":2000}"#, seconds(120));
        assert!(commits.is_counting(seconds(121)));
    }

    #[test]
    fn a_dataflow_whose_interval_is_not_known_is_not_said_to_have_stopped() {
        let now = Instant::now();
        for record in [&br#"{"format":1}"#[..], b"", b"\x01\x02"] {
            let mut commits = Commits::new(now);
            commits.observe(record, now);
            assert!(commits.is_counting(now + Duration::from_secs(3600)));
        }
    }
}
