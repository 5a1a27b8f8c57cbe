//! The trait of the format of the source topic: it decodes records into events.

use emostream_log::Record;

use crate::aggregate::{
    key::{Item, Key},
    pre_aggregator::{Event, InternedKeys},
};

/// The format of the records of the source topic.
///
/// The events of a record must depend only on its bytes, its time and the format, since a restart decodes the record
/// again and must get the same events.
pub trait Format: Clone + Send + Sync + 'static {
    /// The key that events are grouped by.
    type Key: Key;
    /// The item that is counted for each key.
    type Item: Item;
    /// The reason with which an event is rejected if this build does not know its item.
    const UNKNOWN_ITEM: &'static str = "unknown_item";

    /// Decodes a record: appends its events to `events`. Returns `None` if the record is malformed.
    fn decode(
        &self,
        record: Record<'_>,
        keys: &mut InternedKeys<Self::Key>,
        events: &mut Vec<Event<Self::Item>>,
    ) -> Option<RecordTimes>;

    /// Encodes a value for each rejected part of a record that [`Format::decode`] has decoded. A part is a list of the
    /// indices of its events. If one part contains all events of the record, this function is not called, and the part
    /// gets the value of the record.
    ///
    /// By default, the last part gets the whole value of the record and the other parts get an empty value, so that the
    /// value of the record is written only once.
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
    /// The time of the record itself. A record without events has this time, too.
    pub base_ms: u64,
    /// The time of the record or the time of its latest event, whichever is later.
    pub newest_ms: u64,
}

impl RecordTimes {
    /// Returns the times of a record whose events all have the time of the record.
    pub fn of(record: &Record<'_>) -> RecordTimes {
        RecordTimes {
            base_ms: record.time_ms,
            newest_ms: record.time_ms,
        }
    }
}
