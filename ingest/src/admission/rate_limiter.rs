//! Rate limits of each user and each address.
//!
//! Invariant: a request is admitted whole or not at all, and a rejected request consumes no tokens of any key.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use emostream_model::ParsedReaction;

use crate::admission::token_bucket::{Buckets, GENERATION_KEYS, Insufficient, RateLimit};

/// Limits the rates of users and of addresses, with a token bucket for each of them.
#[derive(Debug)]
pub(crate) struct Limiter {
    start: Instant,
    is_off: bool,
    buckets: Mutex<Limits>,
}

#[derive(Debug)]
struct Limits {
    users: Option<Buckets>,
    addresses: Option<Buckets>,
}

/// The kind of key whose rate is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitedKey {
    User,
    Address,
}

/// The error for a request that exceeds a rate limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RateExceeded {
    pub(crate) limited: LimitedKey,
    pub(crate) rate: RateLimit,
    /// Time until the request could be admitted; `None` if it has more reactions than the burst, so that it is never
    /// admitted.
    pub(crate) wait: Option<Duration>,
}

impl Limiter {
    pub(crate) fn new(
        per_user: Option<RateLimit>,
        per_address: Option<RateLimit>,
        start: Instant,
    ) -> Self {
        let buckets =
            |rate: Option<RateLimit>| rate.map(|rate| Buckets::new(rate, GENERATION_KEYS));
        Self {
            start,
            is_off: per_user.is_none() && per_address.is_none(),
            buckets: Mutex::new(Limits {
                users: buckets(per_user),
                addresses: buckets(per_address),
            }),
        }
    }

    /// Consumes a token for each reaction from the bucket of the address, and from the bucket of the reaction's user.
    /// If a bucket has too few tokens, consumes none and returns an error.
    pub(crate) fn try_acquire(
        &self,
        address: IpAddr,
        reactions: &[(usize, ParsedReaction<'_>)],
        now: Instant,
    ) -> Result<(), RateExceeded> {
        if self.is_off {
            return Ok(());
        }
        let now_ns = now.saturating_duration_since(self.start).as_nanos() as u64;
        let mut limits = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut user_costs = Vec::new();
        if let Some(users) = &mut limits.users {
            for (user, count) in users_of(reactions) {
                let key = users.key(user);
                check(users, LimitedKey::User, (key, count), now_ns)?;
                user_costs.push((key, count));
            }
        }
        if let Some(addresses) = &mut limits.addresses
            && !reactions.is_empty()
        {
            let all = (addresses.key(network(address)), reactions.len() as u64);
            check(addresses, LimitedKey::Address, all, now_ns)?;
            addresses.consume(all.0, all.1, now_ns);
        }
        if let Some(users) = &mut limits.users {
            for (key, count) in user_costs {
                users.consume(key, count, now_ns);
            }
        }
        Ok(())
    }
}

fn check(
    buckets: &mut Buckets,
    limited: LimitedKey,
    (key, count): (u64, u64),
    now_ns: u64,
) -> Result<(), RateExceeded> {
    let rate = buckets.rate();
    let checked = buckets.check(key, count, now_ns);
    checked.map_err(|Insufficient { wait }| RateExceeded {
        limited,
        rate,
        wait,
    })
}

/// Returns the users of a request with the number of their reactions.
fn users_of<'a>(reactions: &'a [(usize, ParsedReaction<'_>)]) -> HashMap<&'a str, u64> {
    let mut users = HashMap::new();
    for (_, reaction) in reactions {
        *users.entry(&*reaction.user).or_insert(0) += 1;
    }
    users
}

/// Returns the key of an address. All IPv6 addresses of a /64 network have the same key, since a provider assigns at
/// least such a network to each customer.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_model::Emoji;

    fn reactions<'a>(users: &[&'a str]) -> Vec<(usize, ParsedReaction<'a>)> {
        let one = |user: &&'a str| ParsedReaction {
            user: (*user).into(),
            emoji: Emoji::from_text("🔥").unwrap(),
            room: "default".into(),
            claimed_ms: None,
        };
        users.iter().map(one).enumerate().collect()
    }

    fn limiter(per_user: f64, per_address: f64) -> Limiter {
        let rate = RateLimit::per_second;
        Limiter::new(rate(per_user), rate(per_address), Instant::now())
    }

    fn limited(refused: Result<(), RateExceeded>) -> Option<LimitedKey> {
        refused.err().map(|exceeded| exceeded.limited)
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_user_above_the_rate_rejects_the_whole_request_and_other_users_lose_no_tokens() {
        let limiter = limiter(10.0, 100.0);
        let now = limiter.start;
        let take = |users: &[&str]| limited(limiter.try_acquire(HERE, &reactions(users), now));
        assert_eq!(take(&["a"; 10]), None);
        for _ in 0..200 {
            assert_eq!(take(&["b", "a"]), Some(LimitedKey::User));
        }
        assert_eq!(take(&["b"; 10]), None, "its bucket is still full");
        let other = reactions(&["a"]);
        assert!(
            limiter
                .try_acquire(HERE, &other, now + Duration::from_millis(99))
                .is_err()
        );
        assert!(
            limiter
                .try_acquire(HERE, &other, now + Duration::from_millis(100))
                .is_ok()
        );
        assert_eq!(take(&[]), None);
    }

    #[test]
    fn an_address_above_the_rate_costs_its_users_no_tokens() {
        let limiter = limiter(10.0, 20.0);
        let now = limiter.start;
        let take =
            |address, users: &[&str]| limited(limiter.try_acquire(address, &reactions(users), now));
        assert_eq!(take(HERE, &["a", "b"].repeat(10)), None);
        assert_eq!(take(HERE, &["c"; 10]), Some(LimitedKey::Address));
        let there = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(take(there, &["c"; 10]), None, "the bucket of c is full");
        assert_eq!(
            take(there, &["a"]),
            Some(LimitedKey::User),
            "a user has one bucket for all addresses"
        );
    }

    #[test]
    fn without_limits_every_request_is_admitted() {
        let limiter = limiter(0.0, 0.0);
        for _ in 0..100 {
            let all = reactions(&["a"; 1000]);
            assert_eq!(limiter.try_acquire(HERE, &all, limiter.start), Ok(()));
        }
    }

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_address() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
        ] {
            let of = |text: &str| network(text.parse().unwrap());
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }
}
