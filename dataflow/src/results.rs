//! What closed windows produce, and the records that it becomes.
//!
//! Results travel to the sink as they are, and become JSON on the thread that commits: of 10,000 rooms
//! with 50 emojis that is 45 MB, which would hold up a worker for as long as its counting does.

use bytes::Bytes;
use emostream_log::{Header, NewRecord, Record};
use emostream_model::{
    REMOVED_HEADER, RESETS_HEADER, ResultHeaders, Room, TOTALS_BEGIN_HEADER, Topics, Trending,
};
use serde::{Deserialize, Serialize};

use crate::{totals::RoomTotals, tumble::Closed};

/// Of a record without its counts: the room as key and in the JSON, the window, the total.
const RECORD_BYTES: usize = 120;

/// Of a tally in a final: `{"emoji":"🔥","count":1234,"swarms":1,"loose":234},`.
const TALLY_BYTES: usize = 54;

/// Of a count in totals: `{"emoji":"🔥","count":1234},`.
const COUNT_BYTES: usize = 32;

/// How large the totals record of so many emojis is, roughly.
pub fn totals_bytes(emojis: usize) -> usize {
    RECORD_BYTES + emojis * COUNT_BYTES
}

/// A result of a closed window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowResult {
    /// A room's final.
    Final(Closed),
    /// A room's totals.
    Totals(RoomTotals),
    /// What is trending: the record's key, and its JSON, since its shape is not made for binary formats.
    Trending(String, Vec<u8>),
    /// The removal of a room from a table, and the start of the window at whose close it is removed, Unix milliseconds.
    Removed(Table, Room, u64),
}

/// A compacted topic with a record of each room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// The totals.
    Totals,
    /// What is trending.
    Trending,
}

impl WindowResult {
    /// What a closed window did to what is trending.
    pub fn trending(record: &Trending) -> WindowResult {
        WindowResult::Trending(record.key().to_owned(), record.to_json())
    }

    /// How large its record is, roughly: JSON, which spells every count with its emoji.
    pub fn bytes(&self) -> usize {
        match self {
            WindowResult::Final(closed) => RECORD_BYTES + closed.counts.len() * TALLY_BYTES,
            WindowResult::Totals(totals) => totals_bytes(totals.emojis()),
            WindowResult::Trending(key, json) => key.len() + json.len(),
            WindowResult::Removed(..) => RECORD_BYTES,
        }
    }
}

/// What results become records by.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Names of the topics.
    pub topics: Topics,
    /// How many emojis make a swarm.
    pub swarm_size: u64,
    /// The number of backward resets so far.
    pub resets: u64,
}

impl Recording {
    /// The record of a result.
    pub fn record(&self, result: &WindowResult) -> NewRecord {
        match result {
            WindowResult::Final(closed) => {
                let record = closed.record(self.swarm_size);
                let (room, json) = (record.room.as_str(), record.to_json());
                let mut record = keyed(self.topics.windows(), room, json);
                if closed.begins {
                    record
                        .headers
                        .push(header(TOTALS_BEGIN_HEADER, String::new()));
                }
                ordered(record, self.resets)
            }
            WindowResult::Totals(totals) => {
                let record = totals.record();
                let (room, json) = (record.room.as_str(), record.to_json());
                ordered(keyed(self.topics.totals(), room, json), totals.resets)
            }
            WindowResult::Trending(key, json) => keyed(self.topics.trending(), key, json.clone()),
            WindowResult::Removed(table, room, start_ms) => {
                let topic = match table {
                    Table::Totals => self.topics.totals(),
                    Table::Trending => self.topics.trending(),
                };
                let mut record = keyed(topic, room.as_str(), Vec::new());
                record
                    .headers
                    .push(header(REMOVED_HEADER, start_ms.to_string()));
                ordered(record, self.resets)
            }
        }
    }
}

fn header(name: &str, value: String) -> Header {
    Header {
        name: name.to_owned(),
        value: value.into(),
    }
}

/// Windows alone order results only until the final time is set back.
fn ordered(mut record: NewRecord, resets: u64) -> NewRecord {
    if resets > 0 {
        record
            .headers
            .push(header(RESETS_HEADER, resets.to_string()));
    }
    record
}

/// Parses the headers of a result.
pub fn headers_of(record: &Record<'_>) -> ResultHeaders {
    ResultHeaders::parse(record.headers.read().iter().map(Header::pair))
}

fn keyed(topic: String, key: &str, json: Vec<u8>) -> NewRecord {
    NewRecord {
        topic,
        partition: None,
        time_ms: None,
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        value: json.into(),
        headers: Vec::new(),
    }
}
