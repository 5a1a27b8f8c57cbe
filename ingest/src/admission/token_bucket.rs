//! Token buckets, one a key, for a bounded number of keys.
//!
//! ```text
//!  reactions ──cost──▶ bucket of the key ──enough──▶ taken      refilled at the rate, up to the burst
//!                             └──too little──▶ how long to wait
//!
//!  young: keys of this turn ──turn──▶ old: those not seen since ──turn──▶ forgotten, a full bucket again
//! ```
//!
//! A turn comes when a bucket that was last drawn from in the turn before is full for certain: forgetting
//! it then changes nothing. It comes earlier when a generation is full of keys, as under a flood of invented
//! ones. Then those not seen for longest get a full bucket too early. The alternative, refusing whoever is
//! new, would lock out a crowd for the sake of one sender; and who goes on sending is never forgotten.
//!
//! Invariants: in any span of time a key is given at most the burst and what the rate makes of the span,
//! unless it was forgotten. Two generations of [`GENERATION_KEYS`] are all that is ever kept. Nobody is
//! refused who kept to the rate.

use std::{collections::HashMap, hash::BuildHasher, mem, time::Duration};

/// The most keys of a generation: the crowd of a stadium. About 34 bytes each: 4.5 MB.
pub(crate) const GENERATION_KEYS: usize = 1 << 17;

/// What was not sent for so long may be sent at once.
///
/// A rate is a promise about every second: whoever sends three times as fast is told within the first one.
/// Longer bursts were kinder to those who come back from a dead spot, but our own client copes: it sends
/// less at once when it is told that it is too fast.
const BURST: Duration = Duration::from_secs(1);

/// A reaction in 36 years: slower ones would overflow the arithmetic.
const SLOWEST_NS: u64 = 1 << 60;

/// How much one key may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    per_second: f64,
}

impl RateLimit {
    /// So many reactions a second; `None` unless that is above zero.
    pub fn per_second(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second.is_finite()).then_some(Self { per_second })
    }

    /// How long one reaction takes to be refilled.
    fn interval_ns(self) -> u64 {
        ((1e9 / self.per_second).round() as u64).clamp(1, SLOWEST_NS)
    }

    /// How long an empty bucket takes to be full.
    fn burst_ns(self) -> u64 {
        // At the slowest rates a bucket still holds one.
        self.interval_ns().max(BURST.as_nanos() as u64)
    }

    /// The most reactions that are taken at once.
    pub(crate) fn burst(self) -> u64 {
        self.burst_ns() / self.interval_ns()
    }
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

/// There is too little in a bucket now, and how long that will be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    /// `None` if the bucket can never hold so much.
    pub(crate) wait: Option<Duration>,
}

/// The buckets. Times are nanoseconds since any beginning.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: RateLimit,
    generation_keys: usize,
    turn_at_ns: u64,
    /// When each bucket is full again, by its key's hash. The hash is seeded: nobody can make two keys
    /// meet.
    young: HashMap<u64, u64>,
    old: HashMap<u64, u64>,
}

impl Buckets {
    pub(crate) fn new(rate: RateLimit, generation_keys: usize) -> Self {
        Self {
            rate,
            generation_keys,
            turn_at_ns: rate.burst_ns(),
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    pub(crate) fn rate(&self) -> RateLimit {
        self.rate
    }

    /// What a key is known by here.
    pub(crate) fn key(&self, key: impl std::hash::Hash) -> u64 {
        self.young.hasher().hash_one(key)
    }

    /// Whether there is enough in a key's bucket at `now_ns`.
    pub(crate) fn check(&mut self, key: u64, cost: u64, now_ns: u64) -> Result<(), Short> {
        self.turn_if_due(now_ns);
        let full_at_ns = self.full_at_ns(key).unwrap_or(0).max(now_ns);
        let behind_ns = self.after(full_at_ns, cost) - now_ns;
        match behind_ns.checked_sub(self.rate.burst_ns()) {
            None | Some(0) => Ok(()),
            Some(_) if cost > self.rate.burst() => Err(Short { wait: None }),
            Some(wait_ns) => Err(Short {
                wait: Some(Duration::from_nanos(wait_ns)),
            }),
        }
    }

    /// Takes what was found to be there.
    pub(crate) fn take(&mut self, key: u64, cost: u64, now_ns: u64) {
        let full_at_ns = self.full_at_ns(key).unwrap_or(0).max(now_ns);
        let full_at_ns = self.after(full_at_ns, cost);
        self.keep(key, full_at_ns);
    }

    fn after(&self, full_at_ns: u64, cost: u64) -> u64 {
        full_at_ns.saturating_add(cost.saturating_mul(self.rate.interval_ns()))
    }

    /// When the key's bucket is full again; the key counts as seen.
    fn full_at_ns(&mut self, key: u64) -> Option<u64> {
        if let Some(full_at_ns) = self.young.get(&key) {
            return Some(*full_at_ns);
        }
        let full_at_ns = self.old.remove(&key)?;
        self.keep(key, full_at_ns);
        Some(full_at_ns)
    }

    fn keep(&mut self, key: u64, full_at_ns: u64) {
        if self.young.len() >= self.generation_keys && !self.young.contains_key(&key) {
            self.turn();
        }
        self.young.insert(key, full_at_ns);
    }

    fn turn_if_due(&mut self, now_ns: u64) {
        if now_ns >= self.turn_at_ns {
            self.turn_at_ns = now_ns.saturating_add(self.rate.burst_ns());
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.old = mem::take(&mut self.young);
    }

    #[cfg(test)]
    fn keys(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    const MS: u64 = 1_000_000;

    fn rate(per_second: f64) -> RateLimit {
        RateLimit::per_second(per_second).unwrap()
    }

    fn asks(buckets: &mut Buckets, key: u64, cost: u64, now_ns: u64) -> bool {
        let enough = buckets.check(key, cost, now_ns).is_ok();
        if enough {
            buckets.take(key, cost, now_ns);
        }
        enough
    }

    /// What was given to a key, and when. It asks the definition itself: in every span that ends now, no
    /// more than the burst and what the rate makes of the span.
    #[derive(Default)]
    struct Given(Vec<(u64, u64)>);

    impl Given {
        fn permits(&self, rate: RateLimit, cost: u64, now_ns: u64) -> bool {
            let ns = |cost: u64| u128::from(cost) * u128::from(rate.interval_ns());
            let mut sum = ns(cost);
            let burst = u128::from(rate.burst_ns());
            let within = |sum, since_ns| sum <= burst + u128::from(now_ns - since_ns);
            within(sum, now_ns)
                && self.0.iter().rev().all(|(at_ns, cost)| {
                    sum += ns(*cost);
                    within(sum, *at_ns)
                })
        }
    }

    /// Steps of time, keys, costs.
    fn requests() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        let cost = prop_oneof![8 => 1_u64..30, 1 => 100_u64..1001];
        let step_ms = prop_oneof![8 => 0_u64..400, 1 => 1000_u64..30_000];
        proptest::collection::vec((step_ms, 0_u64..4, cost), 1..200)
    }

    fn rates() -> impl Strategy<Value = RateLimit> {
        prop::sample::select(vec![0.05, 0.7, 3.0, 20.0, 200.0]).prop_map(rate)
    }

    proptest! {
        #[test]
        fn a_key_is_given_what_the_definition_permits_and_told_when(
            rate in rates(), requests in requests(),
        ) {
            let mut buckets = Buckets::new(rate, 1000);
            let mut given: HashMap<u64, Given> = HashMap::new();
            let mut now_ns = 0;
            for (step_ms, key, cost) in requests {
                now_ns += step_ms * MS;
                let given = given.entry(key).or_default();
                let permitted = given.permits(rate, cost, now_ns);
                let answer = buckets.check(key, cost, now_ns);
                prop_assert_eq!(answer.is_ok(), permitted, "{} of {} at {}", cost, key, now_ns);
                match answer {
                    Ok(()) => {
                        buckets.take(key, cost, now_ns);
                        given.0.push((now_ns, cost));
                    }
                    Err(Short { wait: None }) => prop_assert!(cost > rate.burst()),
                    Err(Short { wait: Some(wait) }) => {
                        let then_ns = now_ns + wait.as_nanos() as u64;
                        prop_assert!(given.permits(rate, cost, then_ns));
                        prop_assert!(!given.permits(rate, cost, then_ns - 1));
                    }
                }
            }
        }

        #[test]
        fn too_many_keys_make_it_give_more_but_never_refuse_more(
            rate in rates(), requests in requests(), generation_keys in 1_usize..4,
        ) {
            let mut buckets = Buckets::new(rate, generation_keys);
            let mut given: HashMap<u64, Given> = HashMap::new();
            let mut now_ns = 0;
            for (step_ms, key, cost) in requests {
                now_ns += step_ms * MS;
                let given = given.entry(key).or_default();
                let permitted = given.permits(rate, cost, now_ns);
                let taken = asks(&mut buckets, key, cost, now_ns);
                prop_assert!(taken || !permitted, "{} of {} at {}", cost, key, now_ns);
                prop_assert!(buckets.keys() <= 2 * generation_keys);
                if taken {
                    given.0.push((now_ns, cost));
                }
            }
        }
    }

    #[test]
    fn a_flood_of_invented_keys_stays_bounded_locks_nobody_out_and_frees_no_one_who_goes_on() {
        let mut random = StdRng::seed_from_u64(7);
        let mut buckets = Buckets::new(rate(20.0), GENERATION_KEYS);
        let (calm, greedy) = (1, 2);
        let mut greedy_taken = 0;
        let seconds = 20;
        for now_ms in 0..seconds * 1000 {
            let now_ns = now_ms * MS;
            for _ in 0..100 {
                assert!(asks(&mut buckets, random.random(), 1, now_ns));
            }
            greedy_taken += u64::from(asks(&mut buckets, greedy, 1, now_ns));
            if now_ms % 50 == 0 {
                assert!(asks(&mut buckets, calm, 1, now_ns), "20/s is allowed");
            }
            assert!(buckets.keys() <= 2 * GENERATION_KEYS);
        }
        assert!(buckets.keys() > GENERATION_KEYS, "the flood filled it");
        assert_eq!(greedy_taken, rate(20.0).burst() + 20 * seconds - 1);
    }

    #[test]
    fn quiet_keys_are_forgotten() {
        let mut buckets = Buckets::new(rate(20.0), 1000);
        for key in 0..500 {
            assert!(asks(&mut buckets, key, 20, 0));
        }
        let turn_ns = rate(20.0).burst_ns();
        for turn in 1..=2 {
            assert!(asks(&mut buckets, 1000, 1, turn * turn_ns));
        }
        assert_eq!(buckets.keys(), 1);
    }

    #[test]
    fn extreme_rates_have_buckets_too() {
        for (per_second, burst) in [
            (1e-30, 1),
            (0.001, 1),
            (0.5, 1),
            (20.0, 20),
            (1e7, 10_000_000),
        ] {
            let mut buckets = Buckets::new(rate(per_second), 10);
            assert_eq!(rate(per_second).burst(), burst);
            assert!(asks(&mut buckets, 1, burst, 5));
            assert!(!asks(&mut buckets, 1, 1, 5));
            assert!(!asks(&mut buckets, 2, u64::MAX, 5));
        }
        for none in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(RateLimit::per_second(none), None);
        }
    }
}
