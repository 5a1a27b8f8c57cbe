//! One token bucket for each key, for a bounded number of keys.
//!
//! ```text
//!  reactions ──cost──▶ bucket of the key ──enough tokens──▶ consumed     refilled at the rate, up to the burst
//!                             └──insufficient──▶ time to wait
//!
//!  current generation ──rotate──▶ previous: keys not seen since ──rotate──▶ evicted: a full bucket again
//! ```
//!
//! Generations rotate when every bucket that was last used in the previous generation is full again. A new bucket is
//! full too, so the eviction of such a bucket changes nothing. Generations rotate earlier if the current one has its
//! maximum number of keys, for example under a flood of invented keys. Then the keys that were unused for the longest
//! time get a full bucket too early. The alternative is to refuse new keys, but then one sender could lock out all new
//! clients. A key that keeps sending is never evicted.
//!
//! Invariants: in any interval of time in which a key is not evicted, it consumes at most the burst plus the rate times
//! the interval. At most two generations of [`GENERATION_KEYS`] are stored. A key within its rate is never refused.

use std::{collections::HashMap, hash::BuildHasher, mem, time::Duration};

/// Maximum number of keys in a generation: enough for the spectators of a stadium. A key takes about 34 bytes, so a
/// generation takes at most 4.5 MB.
pub(crate) const GENERATION_KEYS: usize = 1 << 17;

/// Time in which an empty bucket becomes full. The burst is therefore the number of reactions that the rate allows in
/// this time.
///
/// The time is one second, so that a client that sends at three times the rate is refused within its first second. A
/// longer burst would help clients that were offline and then send many reactions at once. Our own client does not need
/// it, since it sends fewer reactions at once after a 429.
const BURST: Duration = Duration::from_secs(1);

/// Maximum time per token, 36 years: a slower rate would overflow the arithmetic.
const MAX_INTERVAL_NS: u64 = 1 << 60;

/// Maximum reactions per second of one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    per_second: f64,
}

impl RateLimit {
    /// Returns a limit of `per_second` reactions per second; `None` if the number is not finite or not above zero.
    pub fn per_second(per_second: f64) -> Option<Self> {
        (per_second > 0.0 && per_second.is_finite()).then_some(Self { per_second })
    }

    /// Returns the time in which one token is refilled.
    fn interval_ns(self) -> u64 {
        ((1e9 / self.per_second).round() as u64).clamp(1, MAX_INTERVAL_NS)
    }

    /// Returns the time in which an empty bucket is full.
    fn burst_ns(self) -> u64 {
        // A bucket holds at least one token, even at a rate below one per second.
        self.interval_ns().max(BURST.as_nanos() as u64)
    }

    /// Returns the maximum tokens of a bucket.
    pub(crate) fn burst(self) -> u64 {
        self.burst_ns() / self.interval_ns()
    }
}

impl std::fmt::Display for RateLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/s", self.per_second)
    }
}

/// The error if a bucket has too few tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Insufficient {
    /// Time until the bucket has enough tokens; `None` if the cost exceeds the burst.
    pub(crate) wait: Option<Duration>,
}

/// The buckets of all keys. Times are nanoseconds since an arbitrary start.
#[derive(Debug)]
pub(crate) struct Buckets {
    rate: RateLimit,
    generation_keys: usize,
    rotate_at_ns: u64,
    /// For each bucket, the time at which it is full again. The map's key is the hash of the bucket's key. The hash is
    /// seeded, so a client cannot construct keys that collide.
    current: HashMap<u64, u64>,
    previous: HashMap<u64, u64>,
}

impl Buckets {
    pub(crate) fn new(rate: RateLimit, generation_keys: usize) -> Self {
        Self {
            rate,
            generation_keys,
            rotate_at_ns: rate.burst_ns(),
            current: HashMap::new(),
            previous: HashMap::new(),
        }
    }

    pub(crate) fn rate(&self) -> RateLimit {
        self.rate
    }

    /// Returns the hash that identifies a key in all other functions.
    pub(crate) fn key(&self, key: impl std::hash::Hash) -> u64 {
        self.current.hasher().hash_one(key)
    }

    /// Returns whether the key's bucket has `cost` tokens at `now_ns`.
    pub(crate) fn check(&mut self, key: u64, cost: u64, now_ns: u64) -> Result<(), Insufficient> {
        self.rotate_if_due(now_ns);
        let full_at_ns = self.full_at_ns(key).unwrap_or(0).max(now_ns);
        let until_full_ns = self.full_after(full_at_ns, cost) - now_ns;
        match until_full_ns.checked_sub(self.rate.burst_ns()) {
            None | Some(0) => Ok(()),
            Some(_) if cost > self.rate.burst() => Err(Insufficient { wait: None }),
            Some(wait_ns) => Err(Insufficient {
                wait: Some(Duration::from_nanos(wait_ns)),
            }),
        }
    }

    /// Consumes `cost` tokens. The caller must first call [`Buckets::check`], which reports whether the bucket has
    /// enough tokens.
    pub(crate) fn consume(&mut self, key: u64, cost: u64, now_ns: u64) {
        let full_at_ns = self.full_at_ns(key).unwrap_or(0).max(now_ns);
        let full_at_ns = self.full_after(full_at_ns, cost);
        self.insert(key, full_at_ns);
    }

    fn full_after(&self, full_at_ns: u64, cost: u64) -> u64 {
        full_at_ns.saturating_add(cost.saturating_mul(self.rate.interval_ns()))
    }

    /// Returns the time when the key's bucket is full again, and moves the key to the current generation.
    fn full_at_ns(&mut self, key: u64) -> Option<u64> {
        if let Some(full_at_ns) = self.current.get(&key) {
            return Some(*full_at_ns);
        }
        let full_at_ns = self.previous.remove(&key)?;
        self.insert(key, full_at_ns);
        Some(full_at_ns)
    }

    fn insert(&mut self, key: u64, full_at_ns: u64) {
        if self.current.len() >= self.generation_keys && !self.current.contains_key(&key) {
            self.rotate();
        }
        self.current.insert(key, full_at_ns);
    }

    fn rotate_if_due(&mut self, now_ns: u64) {
        if now_ns >= self.rotate_at_ns {
            self.rotate_at_ns = now_ns.saturating_add(self.rate.burst_ns());
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        self.previous = mem::take(&mut self.current);
    }

    #[cfg(test)]
    fn keys(&self) -> usize {
        self.current.len() + self.previous.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    const MS: u64 = 1_000_000;

    fn rate(per_second: f64) -> RateLimit {
        RateLimit::per_second(per_second).unwrap()
    }

    fn try_consume(buckets: &mut Buckets, key: u64, cost: u64, now_ns: u64) -> bool {
        let enough = buckets.check(key, cost, now_ns).is_ok();
        if enough {
            buckets.consume(key, cost, now_ns);
        }
        enough
    }

    /// An oracle for tests: the costs that a key has consumed, with their times. It checks the definition of the limit:
    /// in every interval that ends now, the key consumes at most the burst plus the rate times the interval.
    #[derive(Default)]
    struct Consumed(Vec<(u64, u64)>);

    impl Consumed {
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

    /// Requests: the milliseconds since the previous request, a key, and a cost.
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
        fn a_key_consumes_what_the_definition_permits_and_the_wait_is_exact(
            rate in rates(), requests in requests(),
        ) {
            let mut buckets = Buckets::new(rate, 1000);
            let mut consumed: HashMap<u64, Consumed> = HashMap::new();
            let mut now_ns = 0;
            for (step_ms, key, cost) in requests {
                now_ns += step_ms * MS;
                let consumed = consumed.entry(key).or_default();
                let permitted = consumed.permits(rate, cost, now_ns);
                let checked = buckets.check(key, cost, now_ns);
                prop_assert_eq!(checked.is_ok(), permitted, "{} of {} at {}", cost, key, now_ns);
                match checked {
                    Ok(()) => {
                        buckets.consume(key, cost, now_ns);
                        consumed.0.push((now_ns, cost));
                    }
                    Err(Insufficient { wait: None }) => prop_assert!(cost > rate.burst()),
                    Err(Insufficient { wait: Some(wait) }) => {
                        let then_ns = now_ns + wait.as_nanos() as u64;
                        prop_assert!(consumed.permits(rate, cost, then_ns));
                        prop_assert!(!consumed.permits(rate, cost, then_ns - 1));
                    }
                }
            }
        }

        #[test]
        fn evictions_permit_more_but_never_refuse_more(
            rate in rates(), requests in requests(), generation_keys in 1_usize..4,
        ) {
            let mut buckets = Buckets::new(rate, generation_keys);
            let mut consumed: HashMap<u64, Consumed> = HashMap::new();
            let mut now_ns = 0;
            for (step_ms, key, cost) in requests {
                now_ns += step_ms * MS;
                let consumed = consumed.entry(key).or_default();
                let permitted = consumed.permits(rate, cost, now_ns);
                let taken = try_consume(&mut buckets, key, cost, now_ns);
                prop_assert!(taken || !permitted, "{} of {} at {}", cost, key, now_ns);
                prop_assert!(buckets.keys() <= 2 * generation_keys);
                if taken {
                    consumed.0.push((now_ns, cost));
                }
            }
        }
    }

    #[test]
    fn under_a_flood_of_invented_keys_memory_is_bounded_and_active_keys_keep_their_buckets() {
        let mut random = StdRng::seed_from_u64(7);
        let mut buckets = Buckets::new(rate(20.0), GENERATION_KEYS);
        let (calm, greedy) = (1, 2);
        let mut greedy_consumed = 0;
        let seconds = 20;
        for now_ms in 0..seconds * 1000 {
            let now_ns = now_ms * MS;
            for _ in 0..100 {
                assert!(try_consume(&mut buckets, random.random(), 1, now_ns));
            }
            greedy_consumed += u64::from(try_consume(&mut buckets, greedy, 1, now_ns));
            if now_ms % 50 == 0 {
                assert!(
                    try_consume(&mut buckets, calm, 1, now_ns),
                    "20/s is allowed"
                );
            }
            assert!(buckets.keys() <= 2 * GENERATION_KEYS);
        }
        assert!(buckets.keys() > GENERATION_KEYS, "the flood filled it");
        assert_eq!(greedy_consumed, rate(20.0).burst() + 20 * seconds - 1);
    }

    #[test]
    fn idle_keys_are_evicted() {
        let mut buckets = Buckets::new(rate(20.0), 1000);
        for key in 0..500 {
            assert!(try_consume(&mut buckets, key, 20, 0));
        }
        let generation_ns = rate(20.0).burst_ns();
        for generation in 1..=2 {
            assert!(try_consume(
                &mut buckets,
                1000,
                1,
                generation * generation_ns
            ));
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
            assert!(try_consume(&mut buckets, 1, burst, 5));
            assert!(!try_consume(&mut buckets, 1, 1, 5));
            assert!(!try_consume(&mut buckets, 2, u64::MAX, 5));
        }
        for none in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(RateLimit::per_second(none), None);
        }
    }
}
