//! Numbers for the keys of a worker.
//!
//! Numbers are compared and sorted several times as fast as names. Differential dataflow stores the counts of a key's
//! items, which it calls *accumulations*, under the key's number. When a key is removed, or its totals begin at 0
//! again, its number is retired, so that the counts of later final results are stored under another number.
//!
//! ```text
//!  in use ──retire──▶ retired: results that were computed before still find the key ──free_retired──▶ free
//! ```
//!
//! Invariant: a number is free only if its accumulations are 0, and all results that were computed from these
//! accumulations are committed.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use foldhash::HashMap;

use crate::aggregate::key::Key;

/// A key's number on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyNumber(pub u32);

impl KeyNumber {
    /// Returns the number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The table of this worker's keys and their numbers. Clones share the table.
#[derive(Debug, Clone)]
pub struct KeyNumbers<K>(Rc<RefCell<Numbers<K>>>);

#[derive(Debug)]
struct Numbers<K> {
    keys: Vec<K>,
    numbers: HashMap<K, KeyNumber>,
    /// For each retired number, the time at which it was retired.
    retired: HashMap<KeyNumber, u64>,
    /// Retired numbers whose accumulations are 0, each with the time at which they became 0, in the order of these
    /// times.
    empty: VecDeque<(u64, KeyNumber)>,
    free: Vec<KeyNumber>,
}

impl<K> Default for KeyNumbers<K> {
    fn default() -> KeyNumbers<K> {
        KeyNumbers(Rc::new(RefCell::new(Numbers {
            keys: Vec::new(),
            numbers: HashMap::default(),
            retired: HashMap::default(),
            empty: VecDeque::new(),
            free: Vec::new(),
        })))
    }
}

impl<K: Key> KeyNumbers<K> {
    /// Returns the number of `key`. A key without a number gets one.
    pub fn number(&self, key: &K) -> KeyNumber {
        let numbers = &mut *self.0.borrow_mut();
        if let Some(number) = numbers.numbers.get::<K>(key) {
            return *number;
        }
        let number = match numbers.free.pop() {
            Some(number) => {
                numbers.keys[number.index()] = key.clone();
                number
            }
            None => {
                numbers.keys.push(key.clone());
                KeyNumber(numbers.keys.len() as u32 - 1)
            }
        };
        numbers.numbers.insert(key.clone(), number);
        number
    }

    /// Returns the key of a number; for a retired number, the key that it had.
    pub fn key(&self, number: KeyNumber) -> K {
        self.0.borrow().keys[number.index()].clone()
    }

    /// Retires the number of a key at `time_ms`. If the key is used again, it gets another number.
    pub fn retire(&self, number: KeyNumber, time_ms: u64) {
        let numbers = &mut *self.0.borrow_mut();
        let key = &numbers.keys[number.index()];
        if numbers.numbers.get::<K>(key) == Some(&number) {
            numbers.numbers.remove::<K>(key);
        }
        numbers.retired.insert(number, time_ms);
    }

    /// Removes the number from its key and frees it. No operator may still have state under this number.
    pub fn free(&self, number: KeyNumber) {
        let numbers = &mut *self.0.borrow_mut();
        let key = &numbers.keys[number.index()];
        numbers.numbers.remove::<K>(key);
        numbers.free.push(number);
    }

    /// Returns the time at which the number was retired; `None` if the number is in use. Changes of its accumulations
    /// after this time belong to no key.
    pub fn retired_at(&self, number: KeyNumber) -> Option<u64> {
        self.0.borrow().retired.get(&number).copied()
    }

    /// Notes that the accumulations of a retired number became 0 at `time_ms`. The number can be freed once all results
    /// up to `time_ms` are committed. `time_ms` must not decrease from call to call.
    pub fn mark_empty(&self, number: KeyNumber, time_ms: u64) {
        self.0.borrow_mut().empty.push_back((time_ms, number));
    }

    /// Frees the retired numbers whose accumulations became 0 before `durable_until_ms`. Returns them.
    pub fn free_retired(&self, durable_until_ms: u64) -> Vec<KeyNumber> {
        let numbers = &mut *self.0.borrow_mut();
        let empty = &mut numbers.empty;
        let end = empty.partition_point(|(time_ms, _)| *time_ms < durable_until_ms);
        let freed = empty.drain(..end).map(|(_, number)| number);
        let freed: Vec<KeyNumber> = freed.collect();
        for number in &freed {
            numbers.retired.remove(number);
        }
        numbers.free.extend(&freed);
        freed
    }
}
