//! Reads a topic of results and decodes its records. After an error, or if records were deleted before they were read,
//! the reader is opened again.

#![allow(
    clippy::disallowed_methods,
    reason = "this module measures the time between log lines"
)]

use std::time::{Duration, Instant};

use emostream_log::{Header, Log, LogError, Reader, Record, WakeSignal};
use emostream_model::{
    RelayFinal, RelayUpdate, ResultHeaders, ResultId, Room, Trending, WindowRecord,
};
use prometheus::IntCounter;
use serde::de::DeserializeOwned;

use crate::hub::updates::Updates;
use crate::metrics::Metrics;

/// Maximum number of records that are read from a partition before the next partition is read.
const POLL_RECORDS: usize = 1000;
/// Minimum time between two log lines about records that cannot be decoded; all such records are counted.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Maximum time for which a thread sleeps at the end of a topic before it checks whether it has to stop.
pub(super) const PARK: Duration = Duration::from_millis(200);

/// The reader of one topic.
pub(crate) struct TopicReader {
    topic: String,
    /// Whether the records are final results. If final results were deleted before they were read, subscribers are
    /// notified.
    finals: bool,
    next: Vec<(u32, u64)>,
    reader: Option<Box<dyn Reader>>,
}

impl TopicReader {
    /// Returns a reader of `topic` that begins at these offsets.
    pub(crate) fn new(topic: String, finals: bool, next: Vec<(u32, u64)>) -> Self {
        Self {
            topic,
            finals,
            next,
            reader: None,
        }
    }

    /// Calls `each` with the new records of each partition, and returns their number.
    pub(crate) fn poll(
        &mut self,
        log: &dyn Log,
        bell: &WakeSignal,
        updates: &Updates,
        each: &mut dyn FnMut(Record<'_>),
    ) -> Result<usize, LogError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(log.reader(&self.topic, &self.next, bell.wake())?),
        };
        let mut read = 0;
        for (partition, next) in &mut self.next {
            match reader.poll(*partition, POLL_RECORDS, each) {
                Ok(records) => read += records,
                Err(LogError::Expired { start, offset, .. }) => {
                    let topic = &self.topic;
                    tracing::warn!(%topic, partition, offset, start, "results were deleted before they were read");
                    *next = start;
                    if self.finals {
                        updates.start_partition(*partition, start);
                    }
                    self.reader = None;
                    return Ok(read + 1);
                }
                Err(error) => return Err(error),
            }
            *next = reader.position(*partition);
            if self.finals {
                updates.advance_to(*partition, *next);
            }
        }
        Ok(read)
    }

    /// Drops the reader. The next poll opens a new one at the same position.
    pub(crate) fn reopen(&mut self) {
        self.reader = None;
    }

    /// Returns whether the last poll read all partitions to their ends.
    pub(crate) fn at_end(&self) -> bool {
        let reader = self.reader.as_ref();
        let at_end = |(p, _): &(u32, u64)| reader.is_some_and(|reader| reader.at_end(*p));
        self.next.iter().all(at_end)
    }
}

/// Decodes results. Records that cannot be decoded are counted, and logged at most every [`LOG_EVERY`].
pub(crate) struct Decoder {
    unreadable: IntCounter,
    logged: Option<Instant>,
}

impl Decoder {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            unreadable: metrics.unreadable.clone(),
            logged: None,
        }
    }

    /// Decodes the result in a record. Returns `None` if it cannot be decoded.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, record: Record<'_>) -> Option<T> {
        let error = match serde_json::from_slice(record.value) {
            Ok(result) => return Some(result),
            Err(error) => error,
        };
        self.unreadable.inc();
        if self
            .logged
            .is_none_or(|logged| logged.elapsed() > LOG_EVERY)
        {
            self.logged = Some(Instant::now());
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %error, "records that are not valid results are skipped");
        }
        None
    }
}

/// Parses the headers of a result.
pub(super) fn headers_of(record: &Record<'_>) -> ResultHeaders {
    ResultHeaders::parse(record.headers.read().iter().map(Header::pair))
}

/// Decodes a record of the trending topic. Returns `None` if the record cannot be decoded, or if it is a tombstone of
/// another program.
pub(super) fn trending_of(decoder: &mut Decoder, record: Record<'_>) -> Option<RelayUpdate> {
    if record.value.is_empty() {
        // A tombstone removes a room, or shows that another program has deleted the key. A tombstone never counts as a
        // record that cannot be decoded.
        let before = headers_of(&record).removed_before()?;
        let room = Room::from_key(record.key)?;
        return Some(RelayUpdate::Removed { room, before });
    }
    Some(match decoder.read(record)? {
        Trending::Room(record) => RelayUpdate::Trending(record),
        Trending::All(leaders) => RelayUpdate::Leaders(leaders),
    })
}

/// Decodes a final result. Returns `None` if it cannot be decoded.
pub(super) fn final_of(decoder: &mut Decoder, read: Record<'_>) -> Option<RelayFinal> {
    let record: WindowRecord = decoder.read(read)?;
    let headers = headers_of(&read);
    Some(RelayFinal {
        id: ResultId {
            partition: read.partition,
            offset: read.offset,
        },
        written_ms: read.time_ms,
        resets: headers.resets,
        begins: headers.totals_begin,
        record,
    })
}
