//! How much each user and each address may send.
//!
//! Invariant: a request is taken whole or not at all, and one that is not costs nobody anything.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use emostream_model::ParsedReaction;

use crate::admission::token_bucket::{Buckets, GENERATION_KEYS, RateLimit, Short};

/// Users and addresses, each with their own buckets; nothing for what is not limited.
#[derive(Debug)]
pub(crate) struct Limiter {
    start: Instant,
    is_off: bool,
    buckets: Mutex<Both>,
}

#[derive(Debug)]
struct Both {
    users: Option<Buckets>,
    addresses: Option<Buckets>,
}

/// Who sends too fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    User,
    Address,
}

/// A request that would be too much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TooFast {
    pub(crate) who: Who,
    pub(crate) rate: RateLimit,
    /// When it would no longer be, `None` for never.
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
            buckets: Mutex::new(Both {
                users: buckets(per_user),
                addresses: buckets(per_address),
            }),
        }
    }

    /// Takes a request's reactions out of its address's bucket and its users'.
    pub(crate) fn take(
        &self,
        address: IpAddr,
        reactions: &[(usize, ParsedReaction<'_>)],
        now: Instant,
    ) -> Result<(), TooFast> {
        if self.is_off {
            return Ok(());
        }
        let now_ns = now.saturating_duration_since(self.start).as_nanos() as u64;
        let mut both = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut drawn = Vec::new();
        if let Some(users) = &mut both.users {
            for (user, count) in users_of(reactions) {
                let key = users.key(user);
                check(users, Who::User, (key, count), now_ns)?;
                drawn.push((key, count));
            }
        }
        if let Some(addresses) = &mut both.addresses
            && !reactions.is_empty()
        {
            let all = (addresses.key(network(address)), reactions.len() as u64);
            check(addresses, Who::Address, all, now_ns)?;
            addresses.take(all.0, all.1, now_ns);
        }
        if let Some(users) = &mut both.users {
            for (key, count) in drawn {
                users.take(key, count, now_ns);
            }
        }
        Ok(())
    }
}

fn check(
    buckets: &mut Buckets,
    who: Who,
    (key, count): (u64, u64),
    now_ns: u64,
) -> Result<(), TooFast> {
    let rate = buckets.rate();
    let checked = buckets.check(key, count, now_ns);
    checked.map_err(|Short { wait }| TooFast { who, rate, wait })
}

/// The users of a request, and how many reactions each sends.
fn users_of<'a>(reactions: &'a [(usize, ParsedReaction<'_>)]) -> HashMap<&'a str, u64> {
    let mut users = HashMap::new();
    for (_, reaction) in reactions {
        *users.entry(&*reaction.user).or_insert(0) += 1;
    }
    users
}

/// What counts as one address: of IPv6 the network of 64 bits, since every home has one for itself.
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
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

    fn who(refused: Result<(), TooFast>) -> Option<Who> {
        refused.err().map(|too_fast| too_fast.who)
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn one_who_sends_too_fast_stops_the_whole_request_and_costs_the_others_nothing() {
        let limiter = limiter(10.0, 100.0);
        let now = limiter.start;
        let take = |users: &[&str]| who(limiter.take(HERE, &reactions(users), now));
        assert_eq!(take(&["a"; 10]), None);
        for _ in 0..200 {
            assert_eq!(take(&["b", "a"]), Some(Who::User));
        }
        assert_eq!(take(&["b"; 10]), None, "its bucket is still full");
        let other = reactions(&["a"]);
        assert!(
            limiter
                .take(HERE, &other, now + Duration::from_millis(99))
                .is_err()
        );
        assert!(
            limiter
                .take(HERE, &other, now + Duration::from_millis(100))
                .is_ok()
        );
        assert_eq!(take(&[]), None);
    }

    #[test]
    fn an_address_that_sends_too_fast_costs_its_users_nothing() {
        let limiter = limiter(10.0, 20.0);
        let now = limiter.start;
        let take = |address, users: &[&str]| who(limiter.take(address, &reactions(users), now));
        assert_eq!(take(HERE, &["a", "b"].repeat(10)), None);
        assert_eq!(take(HERE, &["c"; 10]), Some(Who::Address));
        let there = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(take(there, &["c"; 10]), None, "c has all of its own");
        assert_eq!(
            take(there, &["a"]),
            Some(Who::User),
            "wherever it sends from"
        );
    }

    #[test]
    fn what_is_not_limited_is_not_counted() {
        let limiter = limiter(0.0, 0.0);
        for _ in 0..100 {
            let all = reactions(&["a"; 1000]);
            assert_eq!(limiter.take(HERE, &all, limiter.start), Ok(()));
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
