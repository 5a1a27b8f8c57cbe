//! The names of the topics of an application.

/// The names of the topics of an application.
#[derive(Debug, Clone)]
pub struct Topics {
    /// The id of the application: Kafka's transactional id, and the consumer group whose offsets show how far the
    /// application has read. All runs use the same id, so that a new run fences the others.
    pub application_id: String,
    /// The records that the application reads.
    pub source: String,
    /// Finals: the results of closed windows.
    pub finals: String,
    /// Returns the summary of the final in a record's value; `None` if the value is not a final.
    pub read_final: fn(&[u8]) -> Option<FinalSummary>,
    /// The table of totals: a compacted topic with the latest record of each key.
    pub totals: String,
    /// The table of tops in a sliding span.
    pub tops: String,
    /// Results of open windows.
    pub updates: String,
    /// Records that were rejected.
    pub rejected: String,
    /// The progress of the application.
    pub progress: String,
}

/// The contents of a final that the engine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalSummary {
    /// The end of its window, Unix milliseconds.
    pub end_ms: u64,
    /// Its key, for messages.
    pub key: String,
    /// The number of events in it.
    pub events: u64,
}

impl Topics {
    /// Returns the topics to which transactions write results.
    pub fn results(&self) -> impl Iterator<Item = &String> {
        [&self.finals, &self.totals, &self.tops].into_iter()
    }
}
