//! The topics of an application.

/// The topics of an application.
#[derive(Debug, Clone)]
pub struct Topics {
    /// Names the application: Kafka's transactional id, and the consumer group whose offsets show how far it has read.
    /// All runs share it, so that a new one fences the others.
    pub application_id: String,
    /// The records that it reads.
    pub source: String,
    /// Finals: the results of closed windows.
    pub finals: String,
    /// Returns what the engine must know of a final; `None` if the value is not one.
    pub read_final: fn(&[u8]) -> Option<FinalSummary>,
    /// Tables: the latest record of each key.
    pub tables: Vec<String>,
    /// Results of open windows.
    pub updates: String,
    /// Records that were not counted.
    pub rejected: String,
    /// Where the application stands.
    pub progress: String,
}

/// What the engine must know of a final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalSummary {
    /// The end of its window, Unix milliseconds.
    pub end_ms: u64,
    /// Its key, for people.
    pub key: String,
    /// The number of events in it.
    pub events: u64,
}

impl Topics {
    /// The topics that transactions write results to.
    pub fn results(&self) -> impl Iterator<Item = &String> {
        [&self.finals].into_iter().chain(&self.tables)
    }
}
