//! The formats of results: each encodes a result, and decodes what a start of a run reads again.

use crate::{
    aggregate::key::{Item, Key},
    operators::{records::ValueFormat, top::TopChange, totals::KeyTotals, tumbling::ClosedWindow},
    recovery::restore::{StoredCounts, StoredTop},
    topics::FinalSummary,
};

/// The format of finals.
pub trait FinalFormat<K: Key, I: Item>: ValueFormat<ClosedWindow<K, I>> + Clone {
    /// Returns the summary of the final in a record's value; `None` if the value is not a final. A run compares the
    /// newest finals with the progress before it begins: if progress was lost, the run would write finals a second
    /// time.
    fn summary(value: &[u8]) -> Option<FinalSummary>;

    /// Decodes a final. The tables are restored from finals, so a topology with a table needs finals with this function.
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
    /// Decodes a record of the table. Returns `None` for the top over all keys.
    fn top(value: &[u8]) -> Option<StoredTop<K, I>>;
}
