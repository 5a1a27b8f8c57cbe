//! The trait of the format of the source topic: it decodes records into events.

use emostream_log::Record;

use crate::aggregate::{
    key::{Item, Key},
    pre_aggregator::{Event, InternedKeys},
};

/// The format of the records of the source topic.
///
/// The events of a record must depend only on its bytes, its time and the format, since a restart decodes it again.
pub trait Format: Clone + Send + Sync + 'static {
    /// The key that events are grouped by.
    type Key: Key;
    /// The item that is counted for each key.
    type Item: Item;
    /// The reason for which events are rejected whose item this build does not know.
    const UNKNOWN_ITEM: &'static str = "unknown_item";

    /// Decodes a record: appends its events to `events`. Returns `None` if the record is malformed.
    fn decode(
        &self,
        record: Record<'_>,
        keys: &mut InternedKeys<Self::Key>,
        events: &mut Vec<Event<Self::Item>>,
    ) -> Option<RecordTimes>;

    /// Encodes the values of the rejections of parts of a record, which [`Format::decode`] has decoded. A part is a
    /// list of the indices of its events. The value of a part with all events is the record's own value.
    ///
    /// Unless an application defines it, the last part gets the whole value, so that it is written only once.
    fn parts(&self, record: Record<'_>, parts: &[Vec<usize>]) -> Vec<Vec<u8>> {
        let mut values = vec![Vec::new(); parts.len()];
        if let Some(last) = values.last_mut() {
            *last = record.value.to_vec();
        }
        values
    }
}

/// The times of a record, Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordTimes {
    /// The time of the record itself, which a record without events has, too.
    pub base_ms: u64,
    /// The latest of the record's time and those of its events.
    pub newest_ms: u64,
}

impl RecordTimes {
    /// The times of a record whose events all have its own time.
    pub fn of(record: &Record<'_>) -> RecordTimes {
        RecordTimes {
            base_ms: record.time_ms,
            newest_ms: record.time_ms,
        }
    }
}
