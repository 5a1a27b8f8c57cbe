//! Records, as they are read and as they are written.

use bytes::Bytes;

/// A record as a reader hands it out; it borrows from the log's buffer.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Which partition it lies in.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: u64,
    /// Its time, Unix milliseconds.
    pub time_ms: u64,
    /// What partitions and compacts it.
    pub key: Option<&'a [u8]>,
    /// The payload. Empty where a compacted topic's record is a deletion.
    pub value: &'a [u8],
    /// Names and values beside the payload.
    pub headers: &'a dyn Headers,
}

/// A record's headers, read only when they are asked for: most readers never do, and rdkafka panics
/// at a header of another producer whose name is not UTF-8.
pub trait Headers {
    /// All of them, in order.
    fn read(&self) -> Vec<Header>;
}

/// Headers that are in memory already.
impl Headers for Vec<Header> {
    fn read(&self) -> Vec<Header> {
        self.clone()
    }
}

/// No headers.
impl Headers for () {
    fn read(&self) -> Vec<Header> {
        Vec::new()
    }
}

/// A name and a value beside a record's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The header's name.
    pub name: String,
    /// Its value.
    pub value: Bytes,
}

impl Header {
    /// Returns name and value.
    pub fn pair(&self) -> (&str, &[u8]) {
        (&self.name, &self.value)
    }
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// The topic's whole name.
    pub topic: String,
    /// The partition, or `None` for the one its key belongs to (records without a key: the first).
    pub partition: Option<u32>,
    /// Its time, Unix milliseconds; `None` for now.
    pub time_ms: Option<u64>,
    /// What partitions and compacts it.
    pub key: Option<Bytes>,
    /// The payload.
    pub value: Bytes,
    /// Names and values beside the payload.
    pub headers: Vec<Header>,
}

impl NewRecord {
    /// The bytes of its key and value.
    pub fn bytes(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len) + self.value.len()
    }
}
