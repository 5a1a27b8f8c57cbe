//! The topics of an application.

use std::time::Duration;

use emostream_log::{Cleanup, TopicSpec};

/// The retention of the topics that [`Topics::specs`] returns.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum time by which event time may be ahead of this host's clock, milliseconds. The source topic is created with
/// the same limit, by which a broker rejects records that are ahead of its own clock.
pub const MAX_AHEAD_MS: u64 = 5_000;

/// The names of the topics of an application.
#[derive(Debug, Clone)]
pub struct Topics {
    /// The id of the application. It is Kafka's transactional id, and the id of the consumer group whose offsets show
    /// how far the application has read. All runs use the same id, so that a new run fences the others.
    pub application_id: String,
    /// The records that the application reads.
    pub source: String,
    /// Finals: the results of closed windows.
    pub finals: String,
    /// Returns the summary of the final in a record's value; `None` if the value is not a final. A run compares the
    /// newest finals with the progress before it begins: if progress was lost, the run would write finals a second
    /// time.
    pub read_final: fn(&[u8]) -> Option<FinalSummary>,
    /// The table of totals, if there is one: a compacted topic with the latest record of each key.
    pub totals: Option<String>,
    /// The table of tops in a sliding span, if there is one.
    pub tops: Option<String>,
    /// Results of open windows, if they are written.
    pub updates: Option<String>,
    /// Records that were rejected.
    pub rejected: String,
    /// The progress of the application.
    pub progress: String,
}

/// The contents of a final that the engine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalSummary {
    /// The end of the window, Unix milliseconds.
    pub end_ms: u64,
    /// The key, for messages.
    pub key: String,
    /// The number of events that the final counts.
    pub events: u64,
}

impl Topics {
    /// Returns the topics of an application that writes only finals. The names of its topics for rejected records and
    /// for the progress begin with its id.
    pub fn new(
        application_id: &str,
        source: &str,
        finals: &str,
        read_final: fn(&[u8]) -> Option<FinalSummary>,
    ) -> Topics {
        Topics {
            application_id: application_id.to_owned(),
            source: source.to_owned(),
            finals: finals.to_owned(),
            read_final,
            totals: None,
            tops: None,
            updates: None,
            rejected: format!("{application_id}.rejected"),
            progress: format!("{application_id}.progress"),
        }
    }

    /// Returns the specifications of all topics, with this number of partitions and replicas. The topics of tables and
    /// of the progress are compacted; records of the other topics are kept for a week. The progress has one partition.
    pub fn specs(&self, partitions: u32, replication: u32) -> Vec<TopicSpec> {
        let topic = |name: &String, cleanup| TopicSpec {
            name: name.clone(),
            partitions,
            replication,
            min_in_sync: replication.min(2),
            cleanup,
            max_ahead: None,
        };
        let kept = Cleanup::Delete {
            after: KEPT,
            bytes: None,
        };
        let source = TopicSpec {
            max_ahead: Some(Duration::from_millis(MAX_AHEAD_MS)),
            ..topic(&self.source, kept)
        };
        let progress = TopicSpec {
            partitions: 1,
            ..topic(&self.progress, Cleanup::Compact)
        };
        let deleted = [&self.finals, &self.rejected]
            .into_iter()
            .chain(&self.updates);
        let compacted = self.totals.iter().chain(&self.tops);
        let results = deleted.map(|name| topic(name, kept));
        let tables = compacted.map(|name| topic(name, Cleanup::Compact));
        let all = [source, progress].into_iter().chain(results).chain(tables);
        all.collect()
    }

    /// Returns the topics to which transactions write results.
    pub fn results(&self) -> impl Iterator<Item = &String> {
        [&self.finals]
            .into_iter()
            .chain(&self.totals)
            .chain(&self.tops)
    }
}
