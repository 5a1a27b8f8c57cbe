//! Lets other commands read the embedded log of a running `up`, by HTTP on a Unix socket in its data directory.
//!
//! ```text
//!  inspect, topics check                                                    up
//!    ── GET /v1/log/TOPIC?time_ms=T ─────────────────────────▶ socket ─▶ endpoint ─▶ log
//!    ◀─ {"type":"topic","description":…,"offsets":…}
//!    ── GET /v1/log/TOPIC/PARTITION?from=OFFSET&limit=RECORDS ▶
//!    ◀─ {"type":"record",…} … {"type":"page","next":…,"at_end":…}
//! ```
//!
//! A response is NDJSON. Keys and values are encoded in base64, since they may contain any bytes. A response contains
//! one page. A client that follows the topic requests the next page from the offset `next`. So the server has no state
//! between requests, and a slow client holds no snapshot, which would prevent the database from reusing its pages.
//!
//! Invariants: the endpoint never writes to the log. The permissions of the socket's file decide which users may read
//! the log, and no other address serves it. Requests, responses and waits have limits.

mod client;
mod server;
#[cfg(test)]
mod tests;

use std::ops::Range;

use base64::{Engine, engine::general_purpose::STANDARD};
use emostream_log::{Header, Record, TopicDescription};
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    client::open_for_reading,
    server::{LogEndpoint, LogSocket},
};

/// Name of the socket in the data directory.
const SOCKET: &str = "log.sock";

/// Prefix of the endpoint's paths. The number is the version of the format: an incompatible format must have another
/// number.
const PREFIX: &str = "/v1/log/";

/// A line of a response.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Topic(TopicState),
    Record(RecordLine),
    /// The last line of a page: the offset at which the next page starts, and whether the page reached the end of the
    /// partition.
    Page {
        next: u64,
        at_end: bool,
    },
    UnknownTopic,
    UnknownPartition,
    Expired {
        start: u64,
    },
    Failed {
        detail: String,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TopicState {
    description: TopicDescription,
    offsets: Vec<Range<u64>>,
    /// The first offset of each partition at or after the requested time; empty if the request contains no time.
    offsets_at: Vec<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordLine {
    offset: u64,
    time_ms: u64,
    key: Option<String>,
    value: String,
    headers: Vec<(String, String)>,
}

impl RecordLine {
    fn encode(record: Record<'_>) -> Self {
        let headers = record.headers.read().into_iter();
        Self {
            offset: record.offset,
            time_ms: record.time_ms,
            key: record.key.map(|key| STANDARD.encode(key)),
            value: STANDARD.encode(record.value),
            headers: headers
                .map(|header| (header.name, STANDARD.encode(header.value)))
                .collect(),
        }
    }

    /// Passes the record to `each`, and returns the result of `each`. Returns an error if a field is not base64.
    fn decode(
        self,
        partition: u32,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<bool, base64::DecodeError> {
        let key = self.key.map(|key| STANDARD.decode(key)).transpose()?;
        let header = |(name, value)| {
            let value = STANDARD.decode::<String>(value)?.into();
            Ok(Header { name, value })
        };
        let headers = self.headers.into_iter().map(header);
        let headers = headers.collect::<Result<Vec<Header>, base64::DecodeError>>()?;
        Ok(each(Record {
            partition,
            offset: self.offset,
            time_ms: self.time_ms,
            key: key.as_deref(),
            value: &STANDARD.decode(self.value)?,
            headers: &headers,
        }))
    }
}
