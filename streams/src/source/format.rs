//! How the records of the source topic become events.

use emostream_log::Record;

use crate::aggregate::{
    key::{Item, Key},
    pre_aggregator::{InternedKey, InternedKeys},
};

/// How the records of the source topic become events.
///
/// What a record holds may depend on nothing but its bytes, its time and the format: a restart decodes it again.
pub trait Format: Clone + Send + Sync + 'static {
    /// What events are grouped by.
    type Key: Key;
    /// What is counted of a key.
    type Item: Item;
    /// The reason with which an event is rejected whose item this build does not know.
    const UNKNOWN_ITEM: &'static str;

    /// Decodes a record: appends its events to `events`. `None` if it is malformed.
    fn decode(
        &self,
        record: Record<'_>,
        keys: &mut InternedKeys<Self::Key>,
        events: &mut Vec<Event<Self::Item>>,
    ) -> Option<RecordTimes>;

    /// The values of the rejections of parts of a record, which [`Format::decode`] has decoded. A part is the indices of
    /// its events. The value of a part that holds all events is the record's own.
    fn parts(&self, record: Record<'_>, parts: &[Vec<usize>]) -> Vec<Vec<u8>>;
}

/// An event of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<I> {
    /// Its time, Unix milliseconds.
    pub at_ms: u64,
    /// Its key; `None` for one that is not counted.
    pub key: Option<InternedKey>,
    /// What is counted; `None` if this build does not know it.
    pub item: Option<I>,
}

/// The times of a record, Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordTimes {
    /// The time of the record itself, which it has also without an event.
    pub base_ms: u64,
    /// The newest of its times.
    pub newest_ms: u64,
}
