//! The clock of event times.
//!
//! ```text
//!  host clock      ──▶ ┐                        forward:  as the host clock
//!                      ├─▶ EventClock ─▶ now    backward: continues at the rate of the monotonic clock
//!  monotonic clock ──▶ ┘
//! ```
//!
//! A process that both writes events and closes windows by time (`emostream up`) needs one clock for both, and this
//! clock must not go back. Otherwise, after the host clock has stepped back (NTP, an administrator, a resumed machine),
//! the records of the process could be in the future: the log would refuse them, and no window would close.

#![allow(clippy::disallowed_methods, reason = "this module provides the clock")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The clock of event times, as time since the Unix epoch. Clones are cheap and share their state.
///
/// ```
/// use emostream_log::EventClock;
///
/// let clock = EventClock::monotonic();
/// let first = clock.unix_time();
/// assert!(clock.unix_time() >= first);
/// ```
#[derive(Debug, Clone)]
pub struct EventClock(Source);

#[derive(Debug, Clone)]
enum Source {
    Host,
    Monotonic(Arc<Steady>),
}

/// State of a monotonic clock.
#[derive(Debug)]
struct Steady {
    started: Instant,
    lead: Lead,
}

/// Greatest difference so far between the host clock and the monotonic clock, in microseconds. The event time is the
/// monotonic time plus this difference. A step forward of the host clock increases the difference. A step back does not
/// decrease it, so that the event time does not go back.
#[derive(Debug)]
struct Lead(AtomicI64);

impl Lead {
    fn new() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }

    /// Returns the event time for a reading of both clocks. The caller has to read the host clock first: if the process
    /// pauses between the two readings, the lead is too small, and the next reading corrects it. In the other order the
    /// lead would be too large, and it never decreases.
    fn time_of(&self, host: Duration, monotonic: Duration) -> Duration {
        let monotonic = micros(monotonic);
        let lead = micros(host).saturating_sub(monotonic);
        let greatest = self.0.fetch_max(lead, Ordering::Relaxed).max(lead);
        let time = monotonic.saturating_add(greatest);
        Duration::from_micros(u64::try_from(time).unwrap_or(0))
    }
}

impl EventClock {
    /// Returns the host clock, which may go back.
    pub fn host() -> Self {
        Self(Source::Host)
    }

    /// Returns a clock that starts at the time of the host clock and does not go back.
    pub fn monotonic() -> Self {
        Self(Source::Monotonic(Arc::new(Steady {
            started: Instant::now(),
            lead: Lead::new(),
        })))
    }

    /// Returns the time since the Unix epoch.
    pub fn unix_time(&self) -> Duration {
        let host = host_time();
        match &self.0 {
            Source::Host => host,
            Source::Monotonic(steady) => steady.lead.time_of(host, steady.started.elapsed()),
        }
    }

    /// Returns the time since the Unix epoch in milliseconds.
    pub fn unix_ms(&self) -> u64 {
        u64::try_from(self.unix_time().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns how far this clock is ahead of the host clock: zero unless the host clock has stepped back.
    pub fn ahead_of_host(&self) -> Duration {
        match &self.0 {
            Source::Host => Duration::ZERO,
            // This clock is read before the host clock: in the other order, the time between the two readings would
            // count as a lead.
            Source::Monotonic(_) => self.unix_time().saturating_sub(host_time()),
        }
    }
}

impl Default for EventClock {
    fn default() -> Self {
        Self::host()
    }
}

fn host_time() -> Duration {
    // A host clock that shows a time before 1970 is treated as 1970.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Returns the event times of readings of the host clock and the monotonic clock.
    fn shown(readings: &[(Duration, Duration)]) -> Vec<Duration> {
        let lead = Lead::new();
        let shown = readings
            .iter()
            .map(|(host, mono)| lead.time_of(*host, *mono));
        shown.collect()
    }

    #[test]
    fn a_step_forward_of_the_host_clock_is_followed() {
        let times = shown(&[(s(1000), s(1)), (s(1001), s(2)), (s(4602), s(3))]);
        assert_eq!(times, [s(1000), s(1001), s(4602)]);
    }

    #[test]
    fn after_a_step_back_time_continues_at_the_monotonic_rate() {
        let times = shown(&[(s(5000), s(1)), (s(1400), s(2)), (s(1410), s(12))]);
        assert_eq!(times, [s(5000), s(5001), s(5011)]);
    }

    #[test]
    fn the_host_clock_is_followed_again_once_it_has_caught_up() {
        let times = shown(&[
            (s(100), s(0)),
            (s(90), s(5)),
            (s(107), s(6)),
            (s(108), s(7)),
        ]);
        assert_eq!(times, [s(100), s(105), s(107), s(108)]);
    }

    #[test]
    fn a_pause_between_the_two_readings_leaves_no_lasting_lead() {
        // The process was stopped for 12 s after it had read the host clock.
        let times = shown(&[(s(100), s(0)), (s(101), s(13)), (s(114), s(14))]);
        assert_eq!(times, [s(100), s(113), s(114)]);
    }

    #[test]
    fn a_machine_that_was_suspended_follows_the_host_clock() {
        // The monotonic clock does not advance while the machine is suspended.
        let times = shown(&[(s(100), s(10)), (s(3700), s(11))]);
        assert_eq!(times, [s(100), s(3700)]);
    }

    #[test]
    fn clones_share_their_time() {
        let clock = EventClock::monotonic();
        let Source::Monotonic(steady) = &clock.0 else {
            panic!("not monotonic")
        };
        // Sets the state that the clock has after the host clock stepped back by an hour.
        steady
            .lead
            .time_of(host_time() + s(3600), steady.started.elapsed());
        let ahead = clock.clone().ahead_of_host();
        assert!(ahead > s(3500) && ahead < s(3700), "{ahead:?}");
        assert_eq!(EventClock::host().ahead_of_host(), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn time_never_goes_back_nor_slower_than_the_monotonic_clock_nor_behind_the_host(
            steps in proptest::collection::vec((0_u64..5_000, -4_000_000_i64..4_000_000), 1..200),
        ) {
            let lead = Lead::new();
            let (mut monotonic, mut host, mut last) = (0_u64, 1_764_000_000_000_i64, None);
            for (passed_ms, step_ms) in steps {
                monotonic += passed_ms;
                host = (host + passed_ms as i64 + step_ms).max(0);
                let host = Duration::from_millis(host as u64);
                let time = lead.time_of(host, Duration::from_millis(monotonic));
                prop_assert!(time >= host);
                if let Some(last) = last {
                    prop_assert!(time >= last + Duration::from_millis(passed_ms));
                }
                last = Some(time);
            }
        }
    }
}
