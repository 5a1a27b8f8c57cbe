//! The records of final results and tables. The application encodes the values, and the engine adds topic, key and
//! headers.

use std::{borrow::Borrow, fmt::Debug};

use bytes::Bytes;
use emostream_log::{Header, NewRecord};
use emostream_protocol::{REMOVED_HEADER, RESETS_HEADER, TOTALS_BEGIN_HEADER};
use serde::{Deserialize, Serialize};
use timely::dataflow::{
    StreamVec,
    operators::{Concat, vec::Map},
};

use super::{
    top::{ALL_KEYS, TopChange},
    totals::KeyTotals,
    tumbling::ClosedWindow,
};
use crate::{
    aggregate::key::{Item, Key},
    sink::result::ResultEncoder,
};

/// Approximate bytes of the headers of a record.
const HEADER_BYTES: usize = 40;

/// Encodes the values of the records of a topic.
pub trait ValueFormat<T>: Debug + Send + Sync + 'static {
    /// Returns the approximate size of the value of a result, bytes.
    fn bytes(&self, result: &T) -> usize;

    /// Returns the value of a result.
    fn encode(&self, result: &T) -> Vec<u8>;
}

/// A change of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableChange<K, T> {
    /// A row has changed.
    Row(T),
    /// A key is removed, since its totals have expired. The number is the start of the window at whose close the key is
    /// removed, Unix milliseconds.
    Removed(K, u64),
}

/// Returns the changes of a table: its rows, and the removals of keys.
pub fn table<'scope, K: Key, T: Clone + 'static>(
    rows: StreamVec<'scope, u64, T>,
    removed: StreamVec<'scope, u64, (K, u64)>,
) -> StreamVec<'scope, u64, TableChange<K, T>> {
    let removed = removed.map(|(key, start_ms)| TableChange::Removed(key, start_ms));
    rows.map(TableChange::Row).concat(removed)
}

/// A row of a table.
pub trait Row {
    /// Returns the key of the row's record.
    fn key(&self) -> &str;

    /// Returns the number of backward resets before this row; 0 if its record does not contain the number.
    fn resets(&self) -> u64;
}

/// Encodes the records of a topic.
#[derive(Debug)]
pub struct Records<F> {
    topic: String,
    resets: u64,
    format: F,
}

impl<F> Records<F> {
    /// Creates the encoder of the records of a topic. `format` encodes the values, and `resets` is the number of
    /// backward resets before this run.
    pub fn new(topic: impl Into<String>, resets: u64, format: F) -> Records<F> {
        Records {
            topic: topic.into(),
            resets,
            format,
        }
    }

    fn record(&self, key: &str, value: Vec<u8>, headers: Vec<Header>) -> NewRecord {
        NewRecord {
            topic: self.topic.clone(),
            partition: None,
            time_ms: None,
            key: Some(Bytes::copy_from_slice(key.as_bytes())),
            value: value.into(),
            headers,
        }
    }
}

impl<K: Key, I: Item, F: ValueFormat<ClosedWindow<K, I>>> ResultEncoder<ClosedWindow<K, I>>
    for Records<F>
{
    const IS_FINAL: bool = true;

    fn bytes(&self, closed: &ClosedWindow<K, I>) -> usize {
        let key: &str = closed.key.borrow();
        key.len() + HEADER_BYTES + self.format.bytes(closed)
    }

    fn encode(&self, closed: &ClosedWindow<K, I>) -> NewRecord {
        let begins = closed
            .begins
            .then(|| header(TOTALS_BEGIN_HEADER, String::new()));
        let headers = begins.into_iter().chain(resets_header(self.resets));
        let value = self.format.encode(closed);
        self.record(closed.key.borrow(), value, headers.collect())
    }
}

impl<K: Key, T: Row, F: ValueFormat<T>> ResultEncoder<TableChange<K, T>> for Records<F> {
    const IS_FINAL: bool = false;

    fn bytes(&self, change: &TableChange<K, T>) -> usize {
        match change {
            TableChange::Row(row) => row.key().len() + HEADER_BYTES + self.format.bytes(row),
            TableChange::Removed(key, _) => Borrow::<str>::borrow(key).len() + HEADER_BYTES,
        }
    }

    fn encode(&self, change: &TableChange<K, T>) -> NewRecord {
        match change {
            TableChange::Row(row) => {
                let headers = resets_header(row.resets()).into_iter().collect();
                self.record(row.key(), self.format.encode(row), headers)
            }
            TableChange::Removed(key, start_ms) => {
                let removed = header(REMOVED_HEADER, start_ms.to_string());
                let headers = [removed].into_iter().chain(resets_header(self.resets));
                self.record(key.borrow(), Vec::new(), headers.collect())
            }
        }
    }
}

impl<K: Key, I: Item> Row for KeyTotals<K, I> {
    fn key(&self) -> &str {
        self.key.borrow()
    }

    fn resets(&self) -> u64 {
        self.resets
    }
}

impl<K: Key, I: Item> Row for TopChange<K, I> {
    fn key(&self) -> &str {
        match self {
            TopChange::Key { key, .. } => key.borrow(),
            TopChange::AllKeys { .. } => ALL_KEYS,
        }
    }

    /// Returns 0, so that the record of a top has no number of resets. A top depends only on the final results, so the
    /// last record of each key in the topic is always the valid one.
    fn resets(&self) -> u64 {
        0
    }
}

/// Returns the header with the number of backward resets; `None` if there were none. After a backward reset, results
/// are ordered first by this number, and then by their windows.
fn resets_header(resets: u64) -> Option<Header> {
    (resets > 0).then(|| header(RESETS_HEADER, resets.to_string()))
}

fn header(name: &str, value: String) -> Header {
    Header {
        name: name.to_owned(),
        value: value.into(),
    }
}
