//! The settings of the topics, which the topology of EmoStream declares. The embedded log and Kafka use the same list.

use emostream_app::process::Failure;
use emostream_dataflow::streams_topics;
use emostream_log::{Cleanup, Log, TopicSpec};
use emostream_model::Topics;

use crate::permissions::Role;

/// Maximum bytes of a partition of the reactions topic in the embedded log, which may share the disk of a laptop. On
/// Kafka there is no limit by size, because it could delete reactions that are not counted yet.
const EMBEDDED_REACTIONS_BYTES: u64 = 4 << 30;
/// Number of partitions of a topic of the embedded log. Four partitions are enough for two workers, and keep a flush
/// small, which writes one record to every partition.
pub(crate) const EMBEDDED_PARTITIONS: u32 = 4;

/// The command that creates the topics on Kafka, for messages.
pub(crate) const CREATE: &str =
    "`emostream topics create --partitions N` and the same --kafka and --topic-prefix";

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

/// Returns the specifications of the topics that the topology of EmoStream declares, with `partitions` partitions each.
/// The progress topic has one partition.
pub(crate) fn specs(names: &Topics, partitions: u32, target: TopicTarget) -> Vec<TopicSpec> {
    let (replication, min_in_sync) = match target {
        TopicTarget::Embedded => (1, 1),
        TopicTarget::Kafka {
            replication,
            min_in_sync,
        } => (replication, min_in_sync),
    };
    let topics = streams_topics(names);
    let cleanup = |spec: &TopicSpec| match spec.cleanup {
        Cleanup::Delete { after, .. }
            if target == TopicTarget::Embedded && spec.name == topics.source =>
        {
            let bytes = Some(EMBEDDED_REACTIONS_BYTES);
            Cleanup::Delete { after, bytes }
        }
        declared => declared,
    };
    let specs = topics.specs(partitions, replication).into_iter();
    specs
        .map(|spec| TopicSpec {
            min_in_sync,
            cleanup: cleanup(&spec),
            ..spec
        })
        .collect()
}

/// Returns the topics that `role` uses, or an error if one of them does not exist.
pub(crate) fn require(log: &dyn Log, role: Role, names: &Topics) -> Result<Vec<String>, Failure> {
    let names = role.topics(names);
    emostream_app::topics::require(log, &names, CREATE)?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_app::topics::create_missing;
    use emostream_log::embedded::EmbeddedLog;

    #[test]
    fn the_topics_of_all_roles_are_created() {
        let log = EmbeddedLog::in_memory().unwrap();
        let specs = specs(&Topics::default(), 3, TopicTarget::Embedded);
        let refused = require(&log, Role::Up, &Topics::default()).unwrap_err();
        assert!(
            refused.message.contains("emostream.reactions"),
            "{refused:?}"
        );
        create_missing(&log, &specs).unwrap();
        assert!(require(&log, Role::Up, &Topics::default()).is_ok());
        assert_eq!(log.partitions("emostream.windows").unwrap(), 3);
        assert_eq!(log.partitions("emostream.progress").unwrap(), 1);
    }
}
