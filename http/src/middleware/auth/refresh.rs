//! Decides when a key set is fetched: regularly, again after a failure, and at once when a token needs a key that the
//! set does not contain.
//!
//! ```text
//!             ┌───────────── due: max-age, or a growing pause after a failure ─────────────┐
//!             ▼                                                                            │
//!  idle ── started ──▶ fetching ── succeeded │ failed ──▶ idle ── unknown key, at most ────┤
//!                          ▲                                      once in 10 s: due now    │
//!                          └───────────────────────────────────────────────────────────────┘
//! ```
//!
//! This module does no IO and does not read the clock: the caller passes the time in.

use std::time::{Duration, Instant};

/// Age at which a set is fetched again if its response has no `max-age`. Issuers usually publish a key for longer than
/// this before they sign with it.
const DEFAULT_AGE: Duration = Duration::from_secs(300);

/// Minimum age at which a set is fetched again regularly, even if `max-age` is shorter. More fetches would be a load
/// for the endpoint of the issuer, which serves many clients.
const MIN_AGE: Duration = Duration::from_secs(30);

/// Maximum age at which a set is fetched again, even if `max-age` is longer. While fetches succeed, a key that the
/// issuer has withdrawn is accepted for at most this time.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Minimum time between two fetches that are caused by unknown keys. The limit is for all clients together, since any
/// client can invent a `kid`.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(10);

/// Pause after a first failure, and maximum pause. Each further failure in a row doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// State machine that decides when a key set is fetched.
#[derive(Debug)]
pub(super) struct Refresh {
    due: Instant,
    /// Whether a fetch is in progress, or is due now because of an unknown key.
    in_progress: bool,
    /// Number of failures since the last success.
    failures: u32,
    /// The last time when an unknown key made a fetch due.
    for_unknown_key: Option<Instant>,
}

/// The action for a token whose key is not in the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnknownKey {
    /// The request waits for the fetch that is in progress.
    Wait,
    /// The request wakes up the task that fetches the set, and waits for that fetch.
    Fetch,
    /// The token is refused without a fetch.
    Refuse,
}

impl Refresh {
    /// Creates the state machine. The first fetch is due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            in_progress: false,
            failures: 0,
            for_unknown_key: None,
        }
    }

    /// Returns the time at which the next fetch begins.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Notes that a fetch begins.
    pub(super) fn started(&mut self) {
        self.in_progress = true;
    }

    /// Notes that a set was fetched. `max_age` is the time for which the set is fresh, if the response contains this
    /// time.
    pub(super) fn succeeded(&mut self, max_age: Option<Duration>, now: Instant) {
        self.in_progress = false;
        self.failures = 0;
        // `max-age=0` requests that caches do not reuse the set. The default age is used instead, since each request
        // would otherwise cause a fetch.
        let age = max_age.filter(|age| !age.is_zero());
        self.due = now + age.map_or(DEFAULT_AGE, |age| age.clamp(MIN_AGE, MAX_AGE));
    }

    /// Notes that a fetch has failed. `jitter`, a number from 0 to 1, shortens the pause by up to a half, so that the
    /// processes of a deployment do not retry at the same time.
    pub(super) fn failed(&mut self, jitter: f64, now: Instant) {
        self.in_progress = false;
        let doublings = self.failures.min(MAX_PAUSE.as_secs().ilog2() + 1);
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings)).min(MAX_PAUSE);
        self.due = now + pause.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0);
        self.failures += 1;
    }

    /// Decides what to do with a token whose key is not in the set.
    pub(super) fn unknown_key(&mut self, now: Instant) -> UnknownKey {
        if self.in_progress {
            return UnknownKey::Wait;
        }
        // After a failure the next fetch is due soon in any case, so an unknown key causes no additional fetch.
        if self.failures > 0 {
            return UnknownKey::Refuse;
        }
        if self
            .for_unknown_key
            .is_some_and(|last| now.saturating_duration_since(last) < UNKNOWN_KEY_INTERVAL)
        {
            return UnknownKey::Refuse;
        }
        self.for_unknown_key = Some(now);
        self.due = now;
        self.in_progress = true;
        UnknownKey::Fetch
    }
}

/// Parses `max-age` from the value of a Cache-Control header.
pub(super) fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    directives.find_map(|directive| {
        let (name, seconds) = directive.split_once('=')?;
        let seconds = seconds.trim_matches('"').parse().ok()?;
        let is_max_age = name.eq_ignore_ascii_case("max-age");
        is_max_age.then(|| Duration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_set_is_fetched_at_the_start_and_when_it_is_no_longer_fresh() {
        let now = Instant::now();
        let mut refresh = Refresh::new(now);
        assert_eq!(refresh.due(), now);
        for (max_age, expected) in [
            (None, DEFAULT_AGE),
            (Some(0), DEFAULT_AGE),
            (Some(1), MIN_AGE),
            (Some(600), Duration::from_secs(600)),
            (Some(86_400), MAX_AGE),
            (Some(u64::MAX), MAX_AGE),
        ] {
            refresh.started();
            refresh.succeeded(max_age.map(Duration::from_secs), now);
            assert_eq!(refresh.due() - now, expected, "{max_age:?}");
        }
    }

    #[test]
    fn pauses_after_failures_grow_to_a_limit_and_begin_again_after_a_success() {
        let now = Instant::now();
        let mut refresh = Refresh::new(now);
        let mut pause = |jitter| {
            refresh.started();
            refresh.failed(jitter, now);
            (refresh.due() - now).as_secs_f64()
        };
        assert_eq!(
            [0.0; 7].map(&mut pause),
            [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
        );
        assert_eq!(pause(1.0), 15.0);
        refresh.succeeded(None, now);
        refresh.failed(0.0, now);
        assert_eq!(refresh.due() - now, SECOND);
    }

    #[test]
    fn an_unknown_key_is_fetched_at_once_but_rarely() {
        let now = Instant::now();
        let mut refresh = Refresh::new(now);
        refresh.started();
        assert_eq!(refresh.unknown_key(now), UnknownKey::Wait);
        refresh.succeeded(None, now);
        assert_eq!(refresh.unknown_key(now), UnknownKey::Fetch);
        assert_eq!(refresh.due(), now);
        refresh.started();
        assert_eq!(refresh.unknown_key(now), UnknownKey::Wait);
        refresh.succeeded(None, now);
        for (seconds, expected) in [
            (0, UnknownKey::Refuse),
            (9, UnknownKey::Refuse),
            (10, UnknownKey::Fetch),
            (11, UnknownKey::Refuse),
        ] {
            let at = now + SECOND * seconds;
            assert_eq!(refresh.unknown_key(at), expected, "after {seconds} s");
            if expected == UnknownKey::Fetch {
                assert_eq!(refresh.unknown_key(at), UnknownKey::Wait);
                refresh.succeeded(None, at);
            }
        }
        refresh.started();
        refresh.failed(0.0, now);
        assert_eq!(refresh.unknown_key(now + SECOND * 60), UnknownKey::Refuse);
    }

    #[test]
    fn the_age_is_read_from_the_header() {
        for (header, seconds) in [
            ("max-age=300", Some(300)),
            ("public, Max-Age=300, must-revalidate", Some(300)),
            (r#"max-age="60""#, Some(60)),
            ("s-maxage=5, max-age=7", Some(7)),
            ("no-store", None),
            ("max-age=soon", None),
            ("max-age=-1", None),
            ("", None),
        ] {
            assert_eq!(
                max_age(header),
                seconds.map(Duration::from_secs),
                "{header}"
            );
        }
    }

    proptest! {
        /// A client that invents keys causes at most one fetch in ten seconds.
        #[test]
        fn unknown_keys_cause_few_fetches(pauses in proptest::collection::vec(0_u64..5_000, 1..200)) {
            let start = Instant::now();
            let mut refresh = Refresh::new(start);
            refresh.started();
            refresh.succeeded(Some(MAX_AGE), start);
            let (mut now, mut fetches) = (start, 0);
            for pause in pauses {
                now += Duration::from_millis(pause);
                if refresh.unknown_key(now) == UnknownKey::Fetch {
                    fetches += 1;
                    refresh.started();
                    refresh.succeeded(Some(MAX_AGE), now);
                }
            }
            let most = 1 + (now - start).as_secs() / UNKNOWN_KEY_INTERVAL.as_secs();
            prop_assert!(fetches <= most, "{} of {}", fetches, most);
        }
    }
}
