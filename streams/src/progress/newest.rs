//! Reads the progress that was committed last, and opens the transactor that commits the next one.

use std::time::Duration;

use emostream_log::{Log, LogError, Record, Transactor, read_last};

use super::{
    record::{COMMIT_HEADER, CommitId, Progress},
    stored::decode as decode_stored,
};
use crate::{StreamsError, topics::Topics};

/// Number of offsets at the end of the progress topic that are read to find its newest record. The transaction markers
/// around the record have offsets, too, so the record is not at the last offset.
const LAST_PROGRESS: u64 = 10;

/// Checks that the topics to which transactions write exist.
///
/// # Errors
///
/// [`LogError::UnknownTopic`] for the first topic that does not exist.
pub fn require_result_topics(topics: &Topics, log: &dyn Log) -> Result<(), LogError> {
    let mut written = topics.results().chain([&topics.rejected]);
    written.try_for_each(|topic| log.partitions(topic).map(drop))
}

/// Opens the transactor of the application, which fences every older run: none of them can commit any more. The log
/// aborts a transaction that takes longer than `timeout`.
pub fn fence(
    topics: &Topics,
    log: &dyn Log,
    timeout: Duration,
) -> Result<Box<dyn Transactor>, LogError> {
    log.transactor(&topics.application_id, timeout)
}

/// The record of the progress that was committed last.
pub struct NewestRecord {
    /// The offset of the record.
    pub offset: u64,
    /// The id of the commit that wrote the record; `None` if an earlier version of the program wrote it.
    pub commit: Option<CommitId>,
    value: Vec<u8>,
}

impl NewestRecord {
    /// Returns the progress in the record; `None` if the record deletes the stored progress.
    pub fn progress(&self, topics: &Topics) -> Result<Option<Progress>, StreamsError> {
        decode(topics, &self.value)
    }
}

/// Returns the newest record of the progress topic; `None` if there is none.
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

/// Returns the id of the newest commit; `None` if there is none, or if an earlier version of the program made it.
pub fn newest_commit(topics: &Topics, log: &dyn Log) -> Result<Option<CommitId>, LogError> {
    Ok(newest_record(topics, log)?.and_then(|newest| newest.commit))
}

/// Returns the progress that was committed last; `None` if there is none. The active run may commit newer progress
/// until it is fenced.
pub fn stored(topics: &Topics, log: &dyn Log) -> Result<Option<Progress>, StreamsError> {
    let newest = newest_record(topics, log).map_err(StreamsError::Start)?;
    newest.map_or(Ok(None), |newest| newest.progress(topics))
}

/// Decodes the progress in a record's value; `None` if the record deletes the progress.
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
