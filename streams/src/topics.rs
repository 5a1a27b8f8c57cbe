//! The topics of an application.

use std::{collections::BTreeMap, time::Duration};

use emostream_log::{Cleanup, TopicSpec};

/// The default retention of a topic.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Maximum time by which event time may be ahead of this host's clock, milliseconds. The source topic is created with
/// the same limit, by which a broker rejects records that are ahead of its own clock.
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
    /// The retentions of the topics that are not compacted, by name.
    pub kept: BTreeMap<String, Duration>,
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
    /// Returns the names of all topics: the source, finals, tables, updates, rejected records and the progress.
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
