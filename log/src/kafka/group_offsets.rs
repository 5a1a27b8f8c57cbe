//! Commits the offsets of a consumer group, for tools that show its lag.
//!
//! No consumer joins the group: the commits are those of a consumer that assigns its partitions itself. A commit may
//! fail, and is outside of any transaction, because a run resumes from its own progress record.

#![allow(clippy::disallowed_methods, reason = "commits at intervals")]

use std::time::{Duration, Instant};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
};

use super::{
    config::{Config, signed},
    context::Events,
};
use crate::{GroupOffsets, LogError};

/// Minimum time between two commits: the default of Kafka's own consumers (`auto.commit.interval.ms`).
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct KafkaGroupOffsets {
    topic: String,
    consumer: BaseConsumer<Events>,
    committed: Option<Instant>,
}

impl KafkaGroupOffsets {
    pub(super) fn open(config: &Config, group: &str, topic: &str) -> Result<Self, LogError> {
        let settings = config.group_member(group);
        Ok(Self {
            topic: topic.to_owned(),
            consumer: config.create(&settings, config.events().committing())?,
            committed: None,
        })
    }
}

impl GroupOffsets for KafkaGroupOffsets {
    fn commit(&mut self, offsets: &[(u32, u64)]) {
        // Polls the results of earlier commits. The context logs commits that failed.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        if self
            .committed
            .is_some_and(|at| at.elapsed() < COMMIT_INTERVAL)
        {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (partition, offset) in offsets {
            let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
            // An error is not possible, since only a negative offset is refused.
            let _ = list.add_partition_offset(&self.topic, signed(*partition), offset);
        }
        // The call only queues the request, so it does not block.
        if let Err(error) = self.consumer.commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "the group's offsets cannot be committed");
        }
        self.committed = Some(Instant::now());
    }
}
