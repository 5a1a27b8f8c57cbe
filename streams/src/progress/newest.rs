//! The progress that was committed last, and the transactor that commits the next.

use std::time::Duration;

use emostream_log::{Log, LogError, Record, Transactor, read_last};

use super::{
    record::{COMMIT_HEADER, CommitId, Progress},
    stored::decode as decode_stored,
};
use crate::{StreamsError, topics::Topics};

/// How many of the last offsets of the progress topic are read for its newest record: it, and what its
/// transaction left.
const LAST_PROGRESS: u64 = 10;

/// [`LogError::UnknownTopic`] if a topic does not exist that transactions write to.
pub fn require_result_topics(topics: &Topics, log: &dyn Log) -> Result<(), LogError> {
    let mut written = topics.results().chain([&topics.rejected]);
    written.try_for_each(|topic| log.partitions(topic).map(drop))
}

/// Fences every older run: none can commit any more. The log aborts a transaction that takes longer than `timeout`.
pub fn fence(
    topics: &Topics,
    log: &dyn Log,
    timeout: Duration,
) -> Result<Box<dyn Transactor>, LogError> {
    log.transactor(&topics.application_id, timeout)
}

/// The record of the progress that was committed last.
pub struct NewestRecord {
    /// Its offset.
    pub offset: u64,
    /// Which commit it is of; `None` if a former version wrote it.
    pub commit: Option<CommitId>,
    value: Vec<u8>,
}

impl NewestRecord {
    /// The progress in it; `None` if it deletes what was stored.
    pub fn progress(&self, topics: &Topics) -> Result<Option<Progress>, StreamsError> {
        decode(topics, &self.value)
    }
}

/// The newest record of the progress topic; `None` if there is none.
pub fn newest_record(topics: &Topics, log: &dyn Log) -> Result<Option<NewestRecord>, LogError> {
    let mut newest = None;
    let mut keep = |record: Record<'_>| {
        let headers = record.headers.read();
        let commit = headers.iter().find(|header| header.name == COMMIT_HEADER);
        newest = Some(NewestRecord {
            offset: record.offset,
            commit: commit.and_then(|commit| CommitId::parse(&commit.value)),
            value: record.value.to_vec(),
        });
    };
    read_last(log, &topics.progress, LAST_PROGRESS, &mut keep)?;
    Ok(newest)
}

/// The newest commit; `None` if there is none, or a former version made it.
pub fn newest_commit(topics: &Topics, log: &dyn Log) -> Result<Option<CommitId>, LogError> {
    Ok(newest_record(topics, log)?.and_then(|newest| newest.commit))
}

/// The progress that was committed last; `None` if there is none. It may be moved until its writer is
/// fenced.
pub fn stored(topics: &Topics, log: &dyn Log) -> Result<Option<Progress>, StreamsError> {
    let newest = newest_record(topics, log).map_err(StreamsError::Start)?;
    newest.map_or(Ok(None), |newest| newest.progress(topics))
}

/// The progress in a record's value; `None` if the record deletes it.
pub fn decode(topics: &Topics, value: &[u8]) -> Result<Option<Progress>, StreamsError> {
    if value.is_empty() {
        return Ok(None);
    }
    let unreadable = |detail| StreamsError::UnreadableProgress {
        topic: topics.progress.clone(),
        detail,
    };
    decode_stored(value).map(Some).map_err(unreadable)
}
