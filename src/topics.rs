//! The topics and their settings. The embedded log and Kafka use the same list.
//!
//! Invariant: this module never deletes, recreates or renames a topic, and never removes partitions, because other data
//! contains offsets of the topics: the ids of finals, and the progress.

use std::time::Duration;

use emostream_log::{Cleanup, Log, LogError, TopicSpec};
use emostream_model::Topics;

use crate::{exit::Failure, permissions::Role};

const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Retention of reactions. They are counted within seconds. A day is enough for a dataflow that was stopped overnight
/// to continue without a reset. A million reactions need about 20 MB.
const REACTIONS_KEPT: Duration = DAY;
/// Retention of finals and rejected records. With a week, a match of last Saturday can still be read on Friday.
const WINDOWS_KEPT: Duration = WEEK;
const REJECTED_KEPT: Duration = WEEK;
/// Retention of live tallies. Ten minutes are enough for `inspect`, and the final of a window replaces its live
/// tallies.
const LIVE_KEPT: Duration = Duration::from_secs(600);
/// Maximum bytes of a partition of the reactions topic in the embedded log, which may share the disk of a laptop. On
/// Kafka there is no limit by size, because it could delete reactions that are not counted yet.
const EMBEDDED_REACTIONS_BYTES: u64 = 4 << 30;
/// How far in the future a record of reactions may be dated; Kafka and the embedded log refuse it otherwise. This is
/// necessary because the watermark of a partition is its newest time less the lateness: one record from the future
/// would make all later reactions late.
const MAX_AHEAD: Duration = Duration::from_secs(5);

/// Number of partitions of a topic of the embedded log. Four are enough for two workers, and few enough that a flush,
/// which writes one record to every partition, stays small.
pub(crate) const EMBEDDED_PARTITIONS: u32 = 4;

/// The kind of log in which the topics are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TopicTarget {
    /// The embedded log, on the disk of this machine.
    Embedded,
    /// A Kafka cluster.
    Kafka {
        /// Number of replicas of each partition.
        replication: u32,
        /// Number of replicas that must have a record before it is acknowledged.
        min_in_sync: u32,
    },
}

/// Returns the default of `--min-isr`, the number of replicas that must have a record before it is acknowledged. With
/// two, the loss of one broker loses no acknowledged record.
pub(crate) fn default_min_in_sync(replication: u32) -> u32 {
    replication.min(2)
}

/// Returns the specifications of all topics, with `partitions` partitions each. The progress topic has one partition.
pub(crate) fn specs(topics: &Topics, partitions: u32, target: TopicTarget) -> Vec<TopicSpec> {
    let (replication, min_in_sync, most_bytes) = match target {
        TopicTarget::Embedded => (1, 1, Some(EMBEDDED_REACTIONS_BYTES)),
        TopicTarget::Kafka {
            replication,
            min_in_sync,
        } => (replication, min_in_sync, None),
    };
    let kept = |after, bytes| Cleanup::Delete { after, bytes };
    let topic = |name: String, cleanup| TopicSpec {
        name,
        partitions,
        replication,
        min_in_sync,
        cleanup,
        max_ahead: None,
    };
    vec![
        TopicSpec {
            max_ahead: Some(MAX_AHEAD),
            ..topic(topics.reactions(), kept(REACTIONS_KEPT, most_bytes))
        },
        topic(topics.windows(), kept(WINDOWS_KEPT, None)),
        topic(topics.totals(), Cleanup::Compact),
        topic(topics.trending(), Cleanup::Compact),
        topic(topics.live(), kept(LIVE_KEPT, None)),
        topic(topics.rejected(), kept(REJECTED_KEPT, None)),
        TopicSpec {
            partitions: 1,
            ..topic(topics.progress(), Cleanup::Compact)
        },
    ]
}

/// Creates the topics that do not exist, and returns their names.
pub(crate) fn create_missing(log: &dyn Log, specs: &[TopicSpec]) -> Result<Vec<String>, LogError> {
    let mut created = Vec::new();
    for spec in specs {
        match log.partitions(&spec.name) {
            Ok(_) => {}
            Err(LogError::UnknownTopic { .. }) => {
                log.create_topic(spec)?;
                created.push(spec.name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(created)
}

/// Returns the topics that `role` uses, or an error if one of them does not exist. A service does not create topics by
/// itself, because it does not know how many partitions the other services expect.
pub(crate) fn require(log: &dyn Log, role: Role, names: &Topics) -> Result<Vec<String>, Failure> {
    let names = role.topics(names);
    let mut missing = Vec::new();
    for name in &names {
        match log.partitions(name) {
            Ok(_) => {}
            Err(LogError::UnknownTopic { .. }) => missing.push(name.as_str()),
            Err(error) => return Err(error.into()),
        }
    }
    if missing.is_empty() {
        return Ok(names);
    }
    let missing = missing.join(", ");
    Err(Failure::unavailable(format!(
        "missing topics: {missing}; create them with `emostream topics create --partitions N` and the same --kafka and --topic-prefix"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_log::embedded::EmbeddedLog;

    #[test]
    fn missing_topics_are_created_once_and_then_found() {
        let log = EmbeddedLog::in_memory().unwrap();
        let specs = specs(&Topics::default(), 3, TopicTarget::Embedded);
        let names: Vec<_> = specs.iter().map(|spec| spec.name.clone()).collect();
        let refused = require(&log, Role::Up, &Topics::default()).unwrap_err();
        assert!(
            refused.message.contains("emostream.reactions"),
            "{refused:?}"
        );
        assert_eq!(create_missing(&log, &specs).unwrap(), names);
        assert_eq!(create_missing(&log, &specs).unwrap(), Vec::<String>::new());
        assert!(require(&log, Role::Up, &Topics::default()).is_ok());
        assert_eq!(log.partitions("emostream.windows").unwrap(), 3);
        assert_eq!(log.partitions("emostream.progress").unwrap(), 1);
    }
}
