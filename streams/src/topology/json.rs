//! Final results as JSON.

use serde::{Deserialize, Serialize};

use super::formats::FinalFormat;
use crate::{
    aggregate::key::{Item, Key},
    operators::{records::ValueFormat, tumbling::ClosedWindow},
    topics::FinalSummary,
};

/// Approximate bytes of a value without its key.
const VALUE_BYTES: usize = 80;

/// The format of final results with one number for each key, as JSON:
/// `{"key":"to","start":1764000000000,"end":1764000002000,"count":2}`.
#[derive(Debug, Clone, Copy)]
pub enum JsonFinals {
    /// `count` is the number of events of the key in the window.
    Events,
    /// `count` is the number of different items of the key in the window.
    DistinctItems,
}

#[derive(Serialize, Deserialize)]
struct JsonFinal<T> {
    key: T,
    start: u64,
    end: u64,
    count: u64,
}

impl<K: Key, I: Item> ValueFormat<ClosedWindow<K, I>> for JsonFinals {
    fn bytes(&self, closed: &ClosedWindow<K, I>) -> usize {
        let key: &str = closed.key.borrow();
        key.len() + VALUE_BYTES
    }

    fn encode(&self, closed: &ClosedWindow<K, I>) -> Vec<u8> {
        let key: &str = closed.key.borrow();
        let counts = &closed.counts;
        let json = JsonFinal {
            key,
            start: closed.window.start,
            end: closed.window.end,
            count: match self {
                JsonFinals::Events => counts.iter().map(|(_, count)| count).sum(),
                JsonFinals::DistinctItems => counts.len() as u64,
            },
        };
        serde_json::to_vec(&json).expect("strings and numbers can always be encoded as JSON")
    }
}

impl<K: Key, I: Item> FinalFormat<K, I> for JsonFinals {
    fn summary(value: &[u8]) -> Option<FinalSummary> {
        let json: JsonFinal<String> = serde_json::from_slice(value).ok()?;
        Some(FinalSummary {
            end_ms: json.end,
            key: json.key,
            events: json.count,
        })
    }
}
