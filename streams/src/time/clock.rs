//! Event time: the watermarks of partitions, and the frontier of a worker.
//!
//! ```text
//!  record times ─▶ PartitionClock ─▶ PartitionStatus ─┐
//!                             updates of the others ──┼─▶ GroupClock ─▶ the worker's frontier
//!                                  this host's clock ─┘
//! ```
//!
//! The rules are pure functions: times are passed in, and no clock is read.
//!
//! Invariants:
//! - A partition's watermark is a function of its log alone.
//! - A frontier is the start of a window; every window that ends at or before it is closed.
//! - The frontier does not pass the watermark of a partition that is not quiet. The frontier passes over a quiet
//!   partition only as far as [`crate::time::idleness`] allows. The worker that reads the partition checks this.
//! - The host's clock can only hold the frontier back. It has no effect on the contents of a window.

use std::collections::BTreeMap;

use emostream_protocol::WindowSize;
use serde::{Deserialize, Serialize};

use crate::topics::MAX_AHEAD_MS;

/// The event time of one partition. Its watermark is the greatest time that was read minus the lateness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionClock {
    lateness_ms: u64,
    /// The greatest time that was read; 0 before the first record.
    newest_ms: u64,
}

impl PartitionClock {
    /// Creates a clock with the watermark `watermark_ms`, which is 0 before the first record.
    pub fn resumed(watermark_ms: u64, lateness_ms: u64) -> PartitionClock {
        let newest_ms = match watermark_ms {
            0 => 0,
            _ => watermark_ms.saturating_add(lateness_ms),
        };
        PartitionClock {
            lateness_ms,
            newest_ms,
        }
    }

    /// Advances the clock to the time of a record that was read, if that time is greater.
    pub fn observe(&mut self, time_ms: u64) {
        self.newest_ms = self.newest_ms.max(time_ms);
    }

    /// Returns the watermark: events are late if their window ends at or before it.
    pub fn watermark_ms(&self) -> u64 {
        self.newest_ms.saturating_sub(self.lateness_ms)
    }

    /// Returns the greatest time that was read; 0 before the first record.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms
    }
}

/// The status of a partition, as all workers know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The watermark of the partition.
    pub watermark_ms: u64,
    /// The greatest time that was read from the partition.
    pub newest_ms: u64,
    /// Whether the partition has had no new record within the idle timeout.
    pub quiet: bool,
    /// Whether the partition holds the frontier back although it is quiet.
    pub held: bool,
}

/// A new status of a partition, which the worker that reads it sends to all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionUpdate {
    /// The number of the partition.
    pub partition: u32,
    /// The new status of the partition.
    pub status: PartitionStatus,
}

/// The statuses of all partitions, as one worker knows them.
#[derive(Debug, Clone)]
pub struct GroupClock {
    size: WindowSize,
    lateness_ms: u64,
    own: Vec<u32>,
    statuses: BTreeMap<u32, PartitionStatus>,
}

impl GroupClock {
    /// Creates the clock of a worker that reads the partitions `own`. `watermarks` are those of all partitions.
    pub fn new(
        size: WindowSize,
        lateness_ms: u64,
        own: Vec<u32>,
        watermarks: impl IntoIterator<Item = (u32, u64)>,
    ) -> GroupClock {
        let status = |watermark_ms| PartitionStatus {
            watermark_ms,
            newest_ms: watermark_ms,
            ..PartitionStatus::default()
        };
        let statuses = watermarks
            .into_iter()
            .map(|(partition, watermark_ms)| (partition, status(watermark_ms)))
            .collect();
        GroupClock {
            size,
            lateness_ms,
            own,
            statuses,
        }
    }

    /// Applies an update. Returns whether the status has changed.
    pub fn apply(&mut self, update: PartitionUpdate) -> bool {
        let known = self.statuses.insert(update.partition, update.status);
        known != Some(update.status)
    }

    /// Returns the frontier of this worker when this host's clock shows `now_ms`. The frontier passes over the quiet
    /// partitions that this worker reads, so the caller must check that this is allowed.
    ///
    /// The worker's own partitions that are not quiet limit the frontier. If all of them are quiet, the partitions of
    /// other workers limit the frontier, except for those that are quiet and not held. If no partition limits the
    /// frontier, each window that has records closes once its end and the lateness have passed on this host's clock.
    ///
    /// The frontier is at most [`MAX_AHEAD_MS`] ahead of this host's clock.
    pub fn frontier_ms(&self, now_ms: u64) -> u64 {
        self.frontier(now_ms, |status| status.held)
    }

    /// Returns the value that [`GroupClock::frontier_ms`] would have if no quiet partition of another worker were held.
    pub fn frontier_without_holds_ms(&self, now_ms: u64) -> u64 {
        self.frontier(now_ms, |_| false)
    }

    fn frontier(&self, now_ms: u64, holds: impl Fn(&PartitionStatus) -> bool) -> u64 {
        let limit = |of_own: bool| {
            let statuses = self.statuses.iter();
            let of = statuses.filter(|(partition, _)| self.own.contains(partition) == of_own);
            let limiting = of.filter(|(_, status)| !status.quiet || (holds(status) && !of_own));
            limiting.map(|(_, status)| status.watermark_ms).min()
        };
        let slowest_ms = limit(true).or_else(|| limit(false));
        let until_ms = slowest_ms.unwrap_or_else(|| {
            let closed_ms = self.size.floor(now_ms.saturating_sub(self.lateness_ms));
            closed_ms.min(self.end_of_all())
        });
        let cap_ms = now_ms.saturating_add(MAX_AHEAD_MS);
        self.size.floor(until_ms.min(cap_ms))
    }

    /// Returns the lowest watermark of the partitions that hold back the frontier; `u64::MAX` if there are none.
    pub fn lowest_watermark_ms(&self) -> u64 {
        let waited_for = self.statuses.values().filter(|it| !it.quiet || it.held);
        let lowest = waited_for.map(|status| status.watermark_ms).min();
        lowest.unwrap_or(u64::MAX)
    }

    /// Whether a partition is held.
    pub fn is_holding(&self) -> bool {
        self.statuses.values().any(|status| status.held)
    }

    fn end_of_all(&self) -> u64 {
        let newest_ms = self.statuses.values().map(|s| s.newest_ms).max();
        match newest_ms.unwrap_or(0) {
            0 => 0,
            newest_ms => self.size.window_of(newest_ms).end,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    /// A time long after every window of these tests.
    const NOW_MS: u64 = 1_000_000;

    fn size() -> WindowSize {
        WindowSize::from_ms(2000).unwrap()
    }

    fn status(watermark_ms: u64, quiet: bool) -> PartitionStatus {
        PartitionStatus {
            watermark_ms,
            newest_ms: watermark_ms + 750,
            quiet,
            held: false,
        }
    }

    fn group(own: &[u32], statuses: &[PartitionStatus]) -> GroupClock {
        let all = (0..).zip(statuses);
        let watermarks = all.clone().map(|(p, _)| (p, 0));
        let mut clock = GroupClock::new(size(), 750, own.to_vec(), watermarks);
        for (partition, status) in all {
            let status = *status;
            clock.apply(PartitionUpdate { partition, status });
        }
        clock
    }

    #[test]
    fn the_slowest_own_partition_limits_the_frontier() {
        let statuses = [
            status(9_000, false),
            status(5_999, false),
            status(1_000, false),
        ];
        assert_eq!(group(&[0, 1], &statuses).frontier_ms(NOW_MS), 4_000);
    }

    #[test]
    fn a_quiet_partition_does_not_limit_its_own_worker() {
        let statuses = [status(9_000, false), status(10, true)];
        assert_eq!(group(&[0, 1], &statuses).frontier_ms(NOW_MS), 8_000);
    }

    #[test]
    fn a_worker_whose_partitions_are_quiet_follows_the_others() {
        let statuses = [status(9_000, false), status(10, true)];
        assert_eq!(group(&[1], &statuses).frontier_ms(NOW_MS), 8_000);
        assert_eq!(group(&[], &statuses).frontier_ms(NOW_MS), 8_000);
    }

    #[test]
    fn a_held_partition_of_another_worker_is_waited_for() {
        let held = PartitionStatus {
            held: true,
            ..status(3_000, true)
        };
        let statuses = [status(9_000, true), held];
        assert_eq!(group(&[0], &statuses).frontier_ms(NOW_MS), 2_000);
        assert_eq!(group(&[0], &statuses).lowest_watermark_ms(), 3_000);
        assert_eq!(
            group(&[0], &statuses).frontier_without_holds_ms(NOW_MS),
            10_000
        );
    }

    #[test]
    fn when_all_are_quiet_every_window_seen_closes_at_its_end_and_the_lateness() {
        let statuses = [status(9_300, true), status(10, true)];
        let clock = group(&[1], &statuses);
        assert_eq!(clock.frontier_ms(12_749), 10_000);
        assert_eq!(clock.frontier_ms(12_750), 12_000);
        assert_eq!(clock.frontier_ms(NOW_MS), 12_000);
        assert_eq!(group(&[0], &[]).frontier_ms(NOW_MS), 0);
    }

    #[test]
    fn time_is_never_further_ahead_of_the_host_than_records_may_be() {
        let statuses = [status(900_000, false)];
        assert_eq!(group(&[0], &statuses).frontier_ms(100_000), 104_000);
    }

    #[test]
    fn a_clock_without_records_has_the_watermark_0() {
        let mut clock = PartitionClock::resumed(0, 750);
        assert_eq!(clock.watermark_ms(), 0);
        clock.observe(700);
        assert_eq!(clock.watermark_ms(), 0);
        clock.observe(5_000);
        assert_eq!(clock.watermark_ms(), 4_250);
    }

    proptest! {
        #[test]
        fn a_watermark_is_the_newest_time_less_the_lateness_and_survives_a_restart(
            times in proptest::collection::vec(1_u64..1 << 42, 1..50), lateness in 0_u64..5_000,
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut whole = PartitionClock::resumed(0, lateness);
            for time in &times {
                whole.observe(*time);
            }
            let newest = times.iter().max().unwrap();
            prop_assert_eq!(whole.watermark_ms(), newest.saturating_sub(lateness));

            let (before, after) = times.split_at(cut.index(times.len()));
            let mut first = PartitionClock::resumed(0, lateness);
            before.iter().for_each(|time| first.observe(*time));
            let mut second = PartitionClock::resumed(first.watermark_ms(), lateness);
            after.iter().for_each(|time| second.observe(*time));
            prop_assert_eq!(second.watermark_ms(), whole.watermark_ms());
        }

        #[test]
        fn no_own_partition_that_is_not_quiet_is_ever_overtaken(
            statuses in proptest::collection::vec((0_u64..100_000, any::<bool>()), 1..6), own in 0_usize..6,
        ) {
            let statuses: Vec<PartitionStatus> = statuses.iter().map(|(w, quiet)| status(*w, *quiet)).collect();
            let own: Vec<u32> = (0..own.min(statuses.len()) as u32).collect();
            let frontier = group(&own, &statuses).frontier_ms(NOW_MS);
            prop_assert_eq!(frontier % 2000, 0);
            for p in own {
                let status = statuses[p as usize];
                prop_assert!(status.quiet || frontier <= status.watermark_ms);
            }
        }
    }
}
