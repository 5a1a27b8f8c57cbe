//! Counts events on the worker that reads them, so that workers exchange partial counts instead of events.
//!
//! The pre-aggregator is part of the source operator. If workers exchanged every event, counting would be several times
//! slower.

use std::{collections::BTreeMap, mem};

use emostream_protocol::Window;
use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};

use super::key::{Item, Key};

/// If the table has more interned keys than this, the next drain clears the table, so that it does not fill with keys
/// that are no longer used. The number is large enough for the keys of a burst of events.
const INTERNED_KEYS: usize = 100_000;

/// The number of a key, valid until the next [`PreAggregator::drain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InternedKey(u32);

/// The counts of one window: for each key and item, the number of events.
pub type Counts<I> = HashMap<(InternedKey, I), u64>;

/// The interned keys, and the number of each key.
#[derive(Debug)]
pub struct InternedKeys<K> {
    keys: Vec<K>,
    numbers: HashMap<K, InternedKey>,
}

impl<K: Key> InternedKeys<K> {
    /// Returns the number of the key that has this name in a record. If the name has no number yet, `key` parses the
    /// name, and its key gets the next number. Returns `None` if `key` returns `None`.
    pub fn number(
        &mut self,
        name: &str,
        key: impl FnOnce(&str) -> Option<K>,
    ) -> Option<InternedKey> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        let key = key(name)?;
        let number = InternedKey(u32::try_from(self.keys.len()).ok()?);
        self.keys.push(key.clone());
        self.numbers.insert(key, number);
        Some(number)
    }
}

/// The number of events of one key, item and window that one worker has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialCount<K, I> {
    /// The last instant of the window, Unix milliseconds.
    pub time_ms: u64,
    /// The key.
    pub key: K,
    /// The item that is counted.
    pub item: I,
    /// The number of events.
    pub count: u64,
}

/// An event of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<I> {
    /// The time of the event, Unix milliseconds.
    pub at_ms: u64,
    /// The key of the event; `None` if the event is not counted.
    pub key: Option<InternedKey>,
    /// The item of the event; `None` if this build does not know the item.
    pub item: Option<I>,
}

/// Counts of events that were read and are not sent yet.
#[derive(Debug)]
pub struct PreAggregator<K, I> {
    /// For each window, its counts. The key is the last instant of the window.
    windows: BTreeMap<u64, Counts<I>>,
    /// The keys of the counts.
    pub keys: InternedKeys<K>,
    /// The events of the record that is being read. The list is cleared and used again for the next record, so that it
    /// is allocated only once.
    pub events: Vec<Event<I>>,
}

impl<K, I> Default for PreAggregator<K, I> {
    fn default() -> PreAggregator<K, I> {
        PreAggregator {
            windows: BTreeMap::new(),
            keys: InternedKeys {
                keys: Vec::new(),
                numbers: HashMap::new(),
            },
            events: Vec::new(),
        }
    }
}

impl<K: Key, I: Item> PreAggregator<K, I> {
    /// Returns the counts of a window.
    pub fn window(&mut self, window: Window) -> &mut Counts<I> {
        self.windows.entry(window.last_ms()).or_default()
    }

    /// Removes all counts. Calls `each` with the last instant of each window and its counts, the earliest window first.
    pub fn drain(&mut self, mut each: impl FnMut(u64, &mut dyn Iterator<Item = (K, I, u64)>)) {
        for (time_ms, counts) in mem::take(&mut self.windows) {
            let key = |number: InternedKey| self.keys.keys[number.0 as usize].clone();
            let mut counts = counts
                .into_iter()
                .map(|((number, item), count)| (key(number), item, count));
            each(time_ms, &mut counts);
        }
        if self.keys.keys.len() > INTERNED_KEYS {
            self.keys.keys.clear();
            self.keys.numbers = HashMap::new();
        }
    }
}
