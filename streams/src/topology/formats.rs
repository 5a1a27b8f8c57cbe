//! The formats of results. Each encodes a result as a record, and decodes the records that a run reads when it starts.

use crate::{
    aggregate::key::{Item, Key},
    operators::{records::ValueFormat, top::TopChange, totals::KeyTotals, tumbling::ClosedWindow},
    recovery::restore::{StoredCounts, StoredTop},
    topics::FinalSummary,
};

/// The format of final results.
pub trait FinalFormat<K: Key, I: Item>: ValueFormat<ClosedWindow<K, I>> + Clone {
    /// Returns the summary of the final result in a record's value; `None` if the value is not a final result. Before a
    /// run begins, it compares the newest final results with the stored progress. Without this check, a run whose
    /// progress was lost would write final results a second time.
    fn summary(value: &[u8]) -> Option<FinalSummary>;

    /// Decodes a final result. Tables are restored from final results, so a topology with a table needs a format with
    /// this function.
    const COUNTS: Option<DecodeCounts<K, I>> = None;
}

/// Returns the counts in the value of a totals record; `None` if the value cannot be decoded.
pub type DecodeCounts<K, I> = fn(&[u8]) -> Option<StoredCounts<K, I>>;

/// The format of a table of totals.
pub trait TotalsFormat<K: Key, I: Item>: ValueFormat<KeyTotals<K, I>> + Clone {
    /// Returns the approximate size in bytes of the value of a record with `items` items.
    fn record_bytes(items: usize) -> usize;

    /// Returns the key with this text in a record; `None` if the text is not a key.
    fn key(text: &str) -> Option<K>;

    /// Decodes a record of the table.
    fn counts(value: &[u8]) -> Option<StoredCounts<K, I>>;
}

/// The format of a table of tops.
pub trait TopFormat<K: Key, I: Item>: ValueFormat<TopChange<K, I>> + Clone {
    /// Decodes a record of the table. Returns `None` for the record with the top over all keys.
    fn top(value: &[u8]) -> Option<StoredTop<K, I>>;
}
