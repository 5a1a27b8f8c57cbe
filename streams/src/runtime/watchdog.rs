//! Detects a worker that is stuck.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Time without a step after which a worker counts as stuck. A step usually takes milliseconds. Differential's merge of
/// a very large window takes longer, but less than this time.
pub const WORKER_TIMEOUT: Duration = Duration::from_secs(8);

/// Interval of the checks. It is short compared with [`WORKER_TIMEOUT`], and long enough to avoid needless wake-ups.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum time that one check adds to the time without a step. While the process is frozen, or the machine is
/// suspended, no worker can take a step, so a longer time since the last check proves nothing.
const MAX_PER_CHECK: Duration = Duration::from_secs(1);

/// The number of steps that each worker of this process has taken. Clones share the counters.
#[derive(Debug, Clone)]
pub struct WorkerHeartbeats(Arc<Vec<AtomicU64>>);

impl WorkerHeartbeats {
    /// Creates the counters of `workers` workers.
    pub fn new(workers: usize) -> WorkerHeartbeats {
        WorkerHeartbeats(Arc::new((0..workers).map(|_| AtomicU64::new(0)).collect()))
    }

    /// Notes that a worker takes a step.
    pub fn record_step(&self, worker: usize) {
        if let Some(steps) = self.0.get(worker) {
            steps.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Detects stuck workers by comparing the number of steps at each check with that at the check before.
#[derive(Debug)]
pub struct Watchdog {
    steps: WorkerHeartbeats,
    /// For each worker, the number of steps at the last check, and the time for which this number has not changed.
    seen: Vec<(u64, Duration)>,
    last_check: Instant,
}

impl Watchdog {
    /// Creates a watchdog whose time begins at `now`.
    pub fn new(steps: WorkerHeartbeats, now: Instant) -> Watchdog {
        Watchdog {
            seen: vec![(0, Duration::ZERO); steps.0.len()],
            steps,
            last_check: now,
        }
    }

    /// Returns a worker that is stuck. A worker that has not taken its first step is still being built, and not stuck.
    pub fn stalled_worker(&mut self, now: Instant) -> Option<usize> {
        let passed = (now - self.last_check).min(MAX_PER_CHECK);
        self.last_check = now;
        for ((count, still), steps) in self.seen.iter_mut().zip(self.steps.0.iter()) {
            let steps = steps.load(Ordering::Relaxed);
            *still = match steps == *count && steps > 0 {
                true => *still + passed,
                false => Duration::ZERO,
            };
            *count = steps;
        }
        self.seen
            .iter()
            .position(|(_, still)| *still > WORKER_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    /// Makes up to `checks` checks. Returns the worker that was found, and the number of checks.
    fn check(watchdog: &mut Watchdog, now: &mut Instant, checks: u32) -> Option<(usize, u32)> {
        (1..=checks).find_map(|check| {
            *now += INTERVAL;
            watchdog.stalled_worker(*now).map(|worker| (worker, check))
        })
    }

    #[test]
    fn a_worker_without_a_step_within_the_timeout_is_stuck() {
        let (steps, mut now) = (WorkerHeartbeats::new(2), Instant::now());
        let mut watchdog = Watchdog::new(steps.clone(), now);
        steps.record_step(0);
        steps.record_step(1);
        for _ in 0..200 {
            steps.record_step(1);
            if let Some(found) = check(&mut watchdog, &mut now, 1) {
                assert_eq!(found.0, 0);
                return;
            }
        }
        panic!("not found");
    }

    #[test]
    fn a_frozen_process_or_one_that_is_being_built_is_not_stuck() {
        let (steps, mut now) = (WorkerHeartbeats::new(1), Instant::now());
        let mut watchdog = Watchdog::new(steps.clone(), now);
        assert_eq!(check(&mut watchdog, &mut now, 200), None);
        steps.record_step(0);
        for _ in 0..7 {
            now += Duration::from_secs(3600);
            assert_eq!(watchdog.stalled_worker(now), None);
        }
    }
}
