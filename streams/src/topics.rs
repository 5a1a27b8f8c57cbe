//! The topics of an application.

use std::{collections::BTreeMap, time::Duration};

use emostream_log::{Cleanup, TopicSpec};

/// The default retention of a topic.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum number of milliseconds by which an event may be ahead of this host's clock. The source topic is created with
/// the same limit, so that a broker rejects records that are further ahead of its own clock.
pub const MAX_AHEAD_MS: u64 = 5_000;

/// A topic that an application declares: its name, and for how long its records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    name: String,
    kept: Duration,
}

impl Topic {
    /// Declares a topic with this name, whose records are kept for a week.
    pub fn new(name: impl Into<String>) -> Topic {
        Topic {
            name: name.into(),
            kept: KEPT,
        }
    }

    /// Sets the retention with which the topic is created. A topic of a table is compacted instead.
    #[must_use]
    pub fn kept(self, kept: Duration) -> Topic {
        Topic { kept, ..self }
    }

    /// Returns the retention with which the topic is created.
    pub fn retention(&self) -> Duration {
        self.kept
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl From<&str> for Topic {
    fn from(name: &str) -> Topic {
        Topic::new(name)
    }
}

impl From<String> for Topic {
    fn from(name: String) -> Topic {
        Topic::new(name)
    }
}

/// The names of the topics of an application.
#[derive(Debug, Clone)]
pub struct Topics {
    /// The id of the application. It is Kafka's transactional id, and the id of the consumer group whose offsets show
    /// how far the application has read. All runs use the same id, so that a new run fences the others.
    pub application_id: String,
    /// The source topic, whose records the application reads.
    pub source: String,
    /// The topic of final results, which are the results of closed windows.
    pub finals: String,
    /// Returns the summary of the final result in a record's value; `None` if the value is not a final result. Before a
    /// run begins, it compares the newest final results with the stored progress. Without this check, a run whose
    /// progress was lost would write final results a second time.
    pub read_final: fn(&[u8]) -> Option<FinalSummary>,
    /// The topic of the table of totals, if there is one. It is compacted: it keeps the latest record of each key.
    pub totals: Option<String>,
    /// The topic of the table of tops in a sliding span, if there is one.
    pub tops: Option<String>,
    /// The topic of the results of open windows, if they are written.
    pub updates: Option<String>,
    /// The topic of rejected records.
    pub rejected: String,
    /// The topic of the application's progress.
    pub progress: String,
    /// For each topic that is not compacted, its retention. The key is the name of the topic.
    pub kept: BTreeMap<String, Duration>,
}

/// The contents of a final result that the engine uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalSummary {
    /// The end of the window, Unix milliseconds.
    pub end_ms: u64,
    /// The key, for messages.
    pub key: String,
    /// The number of events that the final result counts.
    pub events: u64,
}

impl Topics {
    /// Returns the names of all topics: those of the source, the final results, the tables, the updates, the rejected
    /// records and the progress.
    pub fn all(&self) -> Vec<String> {
        let others = self.updates.iter().chain([&self.rejected, &self.progress]);
        let all = [&self.source].into_iter().chain(self.results());
        all.chain(others).cloned().collect()
    }

    /// Returns the specifications of all topics, in the order of [`Topics::all`], with `partitions` partitions and
    /// `replication` replicas. The topics of tables and of the progress are compacted. The progress has one partition.
    pub fn specs(&self, partitions: u32, replication: u32) -> Vec<TopicSpec> {
        let spec = |name: String| TopicSpec {
            partitions: match name == self.progress {
                true => 1,
                false => partitions,
            },
            replication,
            min_in_sync: replication.min(2),
            cleanup: self.cleanup(&name),
            max_ahead: (name == self.source).then_some(Duration::from_millis(MAX_AHEAD_MS)),
            name,
        };
        self.all().into_iter().map(spec).collect()
    }

    fn cleanup(&self, name: &String) -> Cleanup {
        let mut compacted = self.totals.iter().chain(&self.tops).chain([&self.progress]);
        match compacted.any(|compacted| compacted == name) {
            true => Cleanup::Compact,
            false => Cleanup::Delete {
                after: self.kept.get(name).copied().unwrap_or(KEPT),
                bytes: None,
            },
        }
    }

    /// Returns the topics to which transactions write results.
    pub fn results(&self) -> impl Iterator<Item = &String> {
        [&self.finals]
            .into_iter()
            .chain(&self.totals)
            .chain(&self.tops)
    }
}
