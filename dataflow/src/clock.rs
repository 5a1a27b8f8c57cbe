//! Event time: watermarks of partitions, and how far a worker may let time advance.
//!
//! ```text
//!  record times ─▶ PartitionClock ─▶ Standing ─┐
//!                                   gossip of ─┼─▶ GroupClock ─▶ the worker's frontier
//!                                   the others ┘
//! ```
//!
//! Pure rules: time comes in as values, no clock is read.
//!
//! Invariants:
//! - A partition's watermark is a function of its log alone.
//! - A frontier is the beginning of a window; every window that ends at or before it is closed.
//! - A partition that is not idle holds the frontier back to its own watermark.

use std::collections::BTreeMap;

use emostream_model::WindowSize;
use serde::{Deserialize, Serialize};

/// The time of one partition: the greatest time seen, less the lateness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionClock {
    lateness_ms: u64,
    /// 0 while nothing was seen.
    newest_ms: u64,
}

impl PartitionClock {
    /// A clock that stands at `watermark_ms` (0: nothing was seen yet).
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

    /// A record of `time_ms` was seen.
    pub fn observe(&mut self, time_ms: u64) {
        self.newest_ms = self.newest_ms.max(time_ms);
    }

    /// No record before this is expected any more.
    pub fn watermark_ms(&self) -> u64 {
        self.newest_ms.saturating_sub(self.lateness_ms)
    }

    /// The greatest time seen; 0 while nothing was.
    pub fn newest_ms(&self) -> u64 {
        self.newest_ms
    }
}

/// What the group knows of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its watermark.
    pub watermark_ms: u64,
    /// The greatest time seen in it.
    pub newest_ms: u64,
    /// Whether it has had nothing for the idle timeout, at its end.
    pub idle: bool,
}

/// A standing on its way from the worker that reads the partition to all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gossip {
    /// Which partition.
    pub partition: u32,
    /// How it stands.
    pub standing: Standing,
}

/// What one worker knows of the time of every partition.
#[derive(Debug, Clone)]
pub struct GroupClock {
    size: WindowSize,
    own: Vec<u32>,
    standings: BTreeMap<u32, Standing>,
}

impl GroupClock {
    /// The clock of a worker that reads the partitions `own`; `watermarks` are all partitions'.
    pub fn new(
        size: WindowSize,
        own: Vec<u32>,
        watermarks: impl IntoIterator<Item = (u32, u64)>,
    ) -> GroupClock {
        let standing = |watermark_ms| Standing {
            watermark_ms,
            newest_ms: watermark_ms,
            idle: false,
        };
        let standings = watermarks
            .into_iter()
            .map(|(partition, watermark_ms)| (partition, standing(watermark_ms)))
            .collect();
        GroupClock {
            size,
            own,
            standings,
        }
    }

    /// Takes a standing in; whether it is news.
    pub fn learn(&mut self, gossip: Gossip) -> bool {
        let known = self.standings.insert(gossip.partition, gossip.standing);
        known != Some(gossip.standing)
    }

    /// How far this worker lets time advance.
    ///
    /// Its own partitions that are not idle hold it; if all of them are idle it follows the other
    /// partitions; if every partition of the group is idle nothing more is expected, and every
    /// window that has been seen closes.
    pub fn frontier_ms(&self) -> u64 {
        let slowest = |standings: &mut dyn Iterator<Item = &Standing>| {
            let active = standings.filter(|standing| !standing.idle);
            active.map(|standing| standing.watermark_ms).min()
        };
        let mut own = self.own.iter().filter_map(|p| self.standings.get(p));
        slowest(&mut own)
            .or_else(|| slowest(&mut self.standings.values()))
            .map_or_else(|| self.end_of_all(), |slowest| self.size.floor(slowest))
    }

    fn end_of_all(&self) -> u64 {
        let newest_ms = self.standings.values().map(|s| s.newest_ms).max();
        match newest_ms.unwrap_or(0) {
            0 => 0,
            newest_ms => self.size.window_of(newest_ms).end,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use proptest::prelude::*;

    fn size() -> WindowSize {
        WindowSize::from_ms(2000).unwrap()
    }

    fn standing(watermark_ms: u64, idle: bool) -> Standing {
        Standing {
            watermark_ms,
            newest_ms: watermark_ms + 750,
            idle,
        }
    }

    fn group(own: &[u32], standings: &[Standing]) -> GroupClock {
        let all = (0..).zip(standings);
        let mut clock = GroupClock::new(size(), own.to_vec(), all.clone().map(|(p, _)| (p, 0)));
        for (partition, standing) in all {
            let standing = *standing;
            clock.learn(Gossip {
                partition,
                standing,
            });
        }
        clock
    }

    #[test]
    fn the_slowest_own_partition_holds_the_frontier() {
        let standings = [
            standing(9_000, false),
            standing(5_999, false),
            standing(1_000, false),
        ];
        assert_eq!(group(&[0, 1], &standings).frontier_ms(), 4_000);
    }

    #[test]
    fn an_idle_partition_holds_nothing_back() {
        let standings = [standing(9_000, false), standing(10, true)];
        assert_eq!(group(&[0, 1], &standings).frontier_ms(), 8_000);
    }

    #[test]
    fn a_worker_whose_partitions_are_idle_follows_the_others() {
        let standings = [standing(9_000, false), standing(10, true)];
        assert_eq!(group(&[1], &standings).frontier_ms(), 8_000);
        assert_eq!(group(&[], &standings).frontier_ms(), 8_000);
    }

    #[test]
    fn when_all_are_idle_every_window_seen_closes() {
        let standings = [standing(9_300, true), standing(10, true)];
        assert_eq!(group(&[1], &standings).frontier_ms(), 12_000);
        assert_eq!(group(&[0], &[]).frontier_ms(), 0);
    }

    #[test]
    fn a_clock_that_saw_nothing_stands_at_zero() {
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
        fn no_active_own_partition_is_ever_overtaken(
            standings in proptest::collection::vec((0_u64..100_000, any::<bool>()), 1..6), own in 0_usize..6,
        ) {
            let standings: Vec<Standing> = standings.iter().map(|(w, idle)| standing(*w, *idle)).collect();
            let own: Vec<u32> = (0..own.min(standings.len()) as u32).collect();
            let frontier = group(&own, &standings).frontier_ms();
            prop_assert_eq!(frontier % 2000, 0);
            for p in own {
                let standing = standings[p as usize];
                prop_assert!(standing.idle || frontier <= standing.watermark_ms);
            }
        }
    }
}
