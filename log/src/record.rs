//! Records that are read, and records to be written.

use bytes::Bytes;

/// A record that a reader returns. It borrows from the log's buffer.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// The partition of the record.
    pub partition: u32,
    /// The offset of the record in its partition.
    pub offset: u64,
    /// The time of the record, Unix milliseconds.
    pub time_ms: u64,
    /// The key, by which records are partitioned and compacted.
    pub key: Option<&'a [u8]>,
    /// The payload. It is empty if the record is a tombstone of a compacted topic.
    pub value: &'a [u8],
    /// The headers.
    pub headers: &'a dyn Headers,
}

/// The headers of a record. They are parsed only when they are read: most readers do not need them, and rdkafka panics
/// if the name of a header, which another producer may have set, is not UTF-8.
pub trait Headers {
    /// Returns all headers, in order.
    fn read(&self) -> Vec<Header>;
}

/// Headers in memory.
impl Headers for Vec<Header> {
    fn read(&self) -> Vec<Header> {
        self.clone()
    }
}

/// Headers of a record that has none.
impl Headers for () {
    fn read(&self) -> Vec<Header> {
        Vec::new()
    }
}

/// A header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The name of the header.
    pub name: String,
    /// The value of the header.
    pub value: Bytes,
}

impl Header {
    /// Returns the name and the value.
    pub fn pair(&self) -> (&str, &[u8]) {
        (&self.name, &self.value)
    }
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// The full name of the topic.
    pub topic: String,
    /// The partition. If it is `None`, the key decides; a record without a key goes to partition 0.
    pub partition: Option<u32>,
    /// The time of the record, Unix milliseconds; `None` for the time of the append.
    pub time_ms: Option<u64>,
    /// The key, by which records are partitioned and compacted.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Bytes,
    /// The headers.
    pub headers: Vec<Header>,
}

impl NewRecord {
    /// Returns the bytes of the key and the value.
    pub fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len()
    }
}
