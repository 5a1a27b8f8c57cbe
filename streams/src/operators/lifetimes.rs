//! The lifetimes of keys: when the totals of a key begin at 0, and when a key is removed.
//!
//! ```text
//!  finals of a key    ──c───c──────────────────── retention ───────────────|──── c
//!                           └ its last final                               │     └ begins at 0
//!                                                                          └ removed with the close of a later window
//! ```
//!
//! The totals of a key begin at 0 with a final result in two cases: the key has no earlier final result, or the window
//! of its previous final result began more than the retention before the window of this one. The rule does not depend
//! on whether the key was removed in between. So removals do not change results, although each close of a window
//! removes only a limited number of keys. All times are the starts of windows.
//!
//! The rules are pure functions. The cost of a check for expired keys does not depend on the number of keys. Each key
//! is in a queue, at the time at which it expires if it has no further final result. When that time comes, a key that
//! has had further final results is queued again.

use std::collections::BTreeMap;

use super::key_numbers::KeyNumber;

/// Whether `start_ms` is later than `last_ms` by more than the retention. `last_ms` is the start of the window of a
/// key's last final result. If this function returns true, the totals of the key begin at 0 with the final result of
/// the window that starts at `start_ms`.
pub fn exceeds_retention(last_ms: u64, start_ms: u64, retention_ms: u64) -> bool {
    last_ms.saturating_add(retention_ms) < start_ms
}

/// For each key of a worker, the time of its last final result.
pub struct Lifetimes {
    /// If a key has no final result for longer than this, its totals begin at 0 and the key is removed. Milliseconds.
    retention_ms: u64,
    /// For each key number, the lifetime of its key; `None` if the number is not in use. The index is
    /// [`KeyNumber::index`].
    keys: Vec<Option<Lifetime>>,
    /// For each time, the keys that may expire at this time.
    queue: BTreeMap<u64, Vec<KeyNumber>>,
}

#[derive(Debug, Clone, Copy)]
struct Lifetime {
    last_ms: u64,
    /// The time of the key's valid entry in the queue. Entries of the same number at other times are ignored: an
    /// earlier key had the number when they were made, or they were made before a backward reset.
    queued_ms: u64,
}

impl Lifetimes {
    /// Creates an empty set of lifetimes. The retention must not be shorter than a sliding span, since the span could
    /// otherwise contain counts of a key that is removed.
    pub fn new(retention_ms: u64) -> Lifetimes {
        Lifetimes {
            retention_ms,
            keys: Vec::new(),
            queue: BTreeMap::new(),
        }
    }

    /// Returns the start of the window of a key's last final result, if the key is known.
    fn last_ms(&self, key: KeyNumber) -> Option<u64> {
        let lifetime = self.keys.get(key.index())?.as_ref();
        lifetime.map(|lifetime| lifetime.last_ms)
    }

    /// Whether the totals of a key begin at 0 with a final result of the window that begins at `start_ms`.
    pub fn begins(&self, key: KeyNumber, start_ms: u64) -> bool {
        let last_ms = self.last_ms(key);
        last_ms.is_none_or(|last_ms| exceeds_retention(last_ms, start_ms, self.retention_ms))
    }

    /// Notes that a key has another final result, in the window that begins at `start_ms`.
    pub fn extend(&mut self, key: KeyNumber, start_ms: u64) {
        if self.keys.len() <= key.index() {
            self.keys.resize(key.index() + 1, None);
        }
        let expires_ms = start_ms.saturating_add(self.retention_ms);
        match &mut self.keys[key.index()] {
            Some(known) => {
                known.last_ms = start_ms;
                if expires_ms < known.queued_ms {
                    // After a backward reset, the key's entry in the queue may be at a time that is years ahead, so the
                    // key gets an earlier entry.
                    known.queued_ms = expires_ms;
                    self.queue.entry(expires_ms).or_default().push(key);
                }
            }
            new => {
                *new = Some(Lifetime {
                    last_ms: start_ms,
                    queued_ms: expires_ms,
                });
                self.queue.entry(expires_ms).or_default().push(key);
            }
        }
    }

    /// Sets the earliest removal of a key: [`Lifetimes::expire`] removes the key only if its `start_ms` is later than
    /// `until_ms`.
    pub fn postpone(&mut self, key: KeyNumber, until_ms: u64) {
        if let Some(Some(known)) = self.keys.get_mut(key.index())
            && known.queued_ms < until_ms
        {
            known.queued_ms = until_ms;
            self.queue.entry(until_ms).or_default().push(key);
        }
    }

    /// Drops the lifetime of a key whose number will be retired next. Returns whether the key had a lifetime.
    pub fn forget(&mut self, key: KeyNumber) -> bool {
        let lifetime = self.keys.get_mut(key.index());
        lifetime.is_some_and(|lifetime| lifetime.take().is_some())
    }

    /// Drops and returns up to `max_keys` keys that have expired: their last final result is older than `start_ms` by
    /// more than the retention, so their totals begin at 0 with their next final result. Checks at most `max_checks`
    /// keys.
    pub fn expire(&mut self, start_ms: u64, max_keys: usize, max_checks: usize) -> Vec<KeyNumber> {
        let mut expired = Vec::new();
        for _ in 0..max_checks {
            let first = self.queue.first_entry();
            let Some(mut first) =
                first.filter(|it| expired.len() < max_keys && *it.key() < start_ms)
            else {
                break;
            };
            let queued_ms = *first.key();
            let key = first.get_mut().pop();
            if first.get().is_empty() {
                first.remove();
            }
            let known = key.and_then(|key| Some((key, self.keys[key.index()].as_mut()?)));
            let Some((key, known)) = known.filter(|(_, it)| it.queued_ms == queued_ms) else {
                continue;
            };
            let expires_ms = known.last_ms.saturating_add(self.retention_ms);
            if expires_ms < start_ms {
                self.keys[key.index()] = None;
                expired.push(key);
            } else {
                known.queued_ms = expires_ms;
                self.queue.entry(expires_ms).or_default().push(key);
            }
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const RETENTION_MS: u64 = 10;

    proptest! {
        /// The oracle stores the last final result of each key, and checks all keys at every window.
        #[test]
        fn keys_expire_once_their_next_final_would_begin_at_0(
            finals in vec((0_u64..6, 0_u32..5), 0..60), max_keys in 1_usize..3, max_checks in 1_usize..4,
        ) {
            let mut lifetimes = Lifetimes::new(RETENTION_MS);
            let mut oracle: BTreeMap<u32, u64> = BTreeMap::new();
            let mut start_ms = 0;
            let mut windows: Vec<(u64, Option<u32>)> = Vec::new();
            for (pause, key) in finals {
                windows.extend((0..pause).map(|nth| (start_ms + nth, None)));
                start_ms += pause;
                windows.push((start_ms, Some(key)));
            }
            // The test has enough windows for each key to be checked again, and to expire.
            windows.extend((1..200).map(|nth| (start_ms + nth, None)));
            for (start_ms, key) in windows {
                if let Some(key) = key {
                    let number = KeyNumber(key);
                    prop_assert_eq!(lifetimes.last_ms(number), oracle.get(&key).copied());
                    lifetimes.extend(number, start_ms);
                    oracle.insert(key, start_ms);
                }
                let expired = lifetimes.expire(start_ms, max_keys, max_checks);
                prop_assert!(expired.len() <= max_keys);
                for number in expired {
                    let last_ms = oracle.remove(&number.0);
                    prop_assert!(last_ms.is_some_and(|it| it + RETENTION_MS < start_ms), "{number:?}");
                }
            }
            prop_assert!(oracle.is_empty() && lifetimes.queue.is_empty());
        }
    }

    #[test]
    fn a_final_continues_the_totals_up_to_the_retention_and_not_beyond() {
        let begin = [15, 16, 4].map(|start_ms| exceeds_retention(5, start_ms, RETENTION_MS));
        // The third window is earlier than the last final result, as after a backward reset.
        assert_eq!(begin, [false, true, false]);
        assert!(!exceeds_retention(1, u64::MAX, u64::MAX));
        assert!(
            Lifetimes::new(u64::MAX).begins(KeyNumber(0), 0),
            "a new key"
        );
    }

    #[test]
    fn a_number_that_another_key_got_expires_with_that_key() {
        let mut lifetimes = Lifetimes::new(RETENTION_MS);
        let number = KeyNumber(3);
        lifetimes.extend(number, 0);
        assert!(lifetimes.forget(number) && !lifetimes.forget(number));
        lifetimes.extend(number, 8);
        assert_eq!(lifetimes.expire(18, 9, 9), []);
        assert_eq!(lifetimes.expire(19, 9, 9), [number]);
    }

    #[test]
    fn after_a_backward_reset_a_key_expires_by_its_new_time() {
        let mut lifetimes = Lifetimes::new(RETENTION_MS);
        let key = KeyNumber(0);
        lifetimes.extend(key, 1_000_000);
        lifetimes.extend(key, 5);
        assert_eq!(lifetimes.expire(15, 9, 9), []);
        assert_eq!(lifetimes.expire(16, 9, 9), [key]);
        assert_eq!(lifetimes.expire(2_000_000, 9, 9), []);
    }
}
