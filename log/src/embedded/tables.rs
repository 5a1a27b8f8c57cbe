//! The tables of the log in redb, and their columns.
//!
//! ```text
//! TOPICS      name                     → id, partitions, cleanup, maximum time ahead
//! PARTITIONS  id, partition            → first stored offset, next offset, stored bytes, newest time
//! RECORDS     id, partition, offset    → time, key, value, headers
//! TIMES       id, partition, time      → offset of the first record of that time or a later one
//! NEWEST      id, partition, key       → offset of the key's newest record (compacted topics)
//! TOMBSTONES  id, partition, time of the append, offset → nothing; a record without a value (compacted topics)
//! FENCES      transactor's id          → its newest epoch
//! ```
//!
//! Invariants: no entry of PARTITIONS is deleted, so offsets continue even after all records were deleted. TIMES has an
//! entry for a record only if the time of the record exceeds the times of all earlier records, so in TIMES both the
//! times and the offsets rise. TOMBSTONES has an entry for each tombstone in RECORDS, and may have entries for
//! tombstones that a newer record of the key has replaced.
//!
//! Files of earlier builds have this layout version but no TOMBSTONES, since these builds wrote no tombstones. The next
//! write creates the table.

use redb::TableDefinition;

use crate::{Cleanup, Header, LogError, TopicSpec};

/// Id of a topic, and number of a partition.
pub(super) type PartitionId = (u32, u32);

/// Columns of TOPICS: id, partitions, maximum age in ms (`None`: compacted), maximum bytes, maximum time of a record
/// ahead of the clock in ms.
pub(super) type TopicRow = (u32, u32, Option<u64>, Option<u64>, Option<u64>);
/// Columns of PARTITIONS: first stored offset, next offset, stored bytes, newest time.
pub(super) type PartitionRow = (u64, u64, u64, Option<u64>);
/// Columns of RECORDS: time, key, value, headers (empty if there are none).
pub(super) type RecordRow<'a> = (u64, Option<&'a [u8]>, &'a [u8], &'a [u8]);

pub(super) const FORMAT: TableDefinition<'static, &str, u32> = TableDefinition::new("format");
pub(super) const TOPICS: TableDefinition<'static, &str, TopicRow> = TableDefinition::new("topics");
pub(super) const PARTITIONS: TableDefinition<'static, PartitionId, PartitionRow> =
    TableDefinition::new("partitions");
pub(super) const RECORDS: TableDefinition<'static, (u32, u32, u64), RecordRow<'static>> =
    TableDefinition::new("records");
pub(super) const TIMES: TableDefinition<'static, (u32, u32, u64), u64> =
    TableDefinition::new("times");
pub(super) const NEWEST: TableDefinition<'static, (u32, u32, &[u8]), u64> =
    TableDefinition::new("newest");
pub(super) const TOMBSTONES: TableDefinition<'static, (u32, u32, u64, u64), ()> =
    TableDefinition::new("tombstones");
pub(super) const FENCES: TableDefinition<'static, &str, u64> = TableDefinition::new("fences");

/// The only key of [`FORMAT`].
pub(super) const FORMAT_KEY: &str = "emostream-log";
/// Version of the layout above. A file with another version is refused.
pub(super) const FORMAT_VERSION: u32 = 1;

/// Maximum bytes of a record, including key and headers: about the default of a Kafka broker's `message.max.bytes`, so
/// that both logs accept the same records.
pub(super) const MAX_RECORD_BYTES: usize = 1024 * 1024;

/// Approximate bytes of a record besides its data: its offset, time, lengths and index entry.
pub(super) const RECORD_OVERHEAD_BYTES: u64 = 48;

/// Returns the bytes of a record that count towards its partition's size.
pub(super) fn size_bytes(row: &RecordRow<'_>) -> u64 {
    let (_, key, value, headers) = row;
    (key.map_or(0, <[u8]>::len) + value.len() + headers.len()) as u64 + RECORD_OVERHEAD_BYTES
}

/// Returns the row of a topic.
pub(super) fn topic_row(id: u32, spec: &TopicSpec) -> TopicRow {
    let (after_ms, kept_bytes) = match spec.cleanup {
        Cleanup::Delete { after, bytes } => (Some(millis(after)), bytes),
        Cleanup::Compact => (None, None),
    };
    (
        id,
        spec.partitions,
        after_ms,
        kept_bytes,
        spec.max_ahead.map(millis),
    )
}

/// Returns a duration in milliseconds, as the tables store it.
pub(super) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Encodes headers. Returns no bytes if there are no headers, which is the usual case.
pub(super) fn encode_headers(headers: &[Header]) -> Result<Vec<u8>, LogError> {
    if headers.is_empty() {
        return Ok(Vec::new());
    }
    let pairs: Vec<(&str, &[u8])> = headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.as_ref()))
        .collect();
    bincode::encode_to_vec(pairs, bincode::config::standard())
        .map_err(|error| LogError::Refused(format!("headers cannot be stored: {error}")))
}

/// Decodes headers of [`encode_headers`]; `None` if the bytes are invalid.
pub(super) fn decode_headers(stored: &[u8]) -> Option<Vec<Header>> {
    if stored.is_empty() {
        return Some(Vec::new());
    }
    let config = bincode::config::standard().with_limit::<MAX_RECORD_BYTES>();
    let (pairs, read): (Vec<(String, Vec<u8>)>, usize) =
        bincode::decode_from_slice(stored, config).ok()?;
    (read == stored.len()).then(|| {
        pairs
            .into_iter()
            .map(|(name, value)| Header {
                name,
                value: value.into(),
            })
            .collect()
    })
}
