//! Offsets of many partitions by Kafka's ListOffsets: one request to each broker that leads some of them.
//!
//! librdkafka's `offsets_for_times` passes any time on, so Kafka's special times work as well:
//! [`Offset::Beginning`] for the first offset and [`Offset::End`] for the end, in the isolation level of the client.
//! A partition without a leader has an error of its own there, but a broker that does not answer, or that rejects one
//! partition, makes the whole call fail: the answers of the other brokers are lost.

use std::time::Duration;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::{
    config::{signed, unsigned},
    context::Events,
    failure,
};

/// Returns the first offset of each of `partitions`, or the end: `edge` is [`Offset::Beginning`] or [`Offset::End`].
pub(super) fn at_edge(
    client: &BaseConsumer<Events>,
    topic: &str,
    partitions: impl IntoIterator<Item = u32>,
    edge: Offset,
    timeout: Duration,
) -> KafkaResult<Vec<u64>> {
    let offsets = at_time(client, topic, partitions, edge, timeout)?;
    // A leader has both offsets of every partition that it leads.
    let missing = KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable);
    offsets.into_iter().collect::<Option<_>>().ok_or(missing)
}

/// Returns the first offset of each of `partitions` whose record time is `time` or later; `None` if there is none.
pub(super) fn at_time(
    client: &BaseConsumer<Events>,
    topic: &str,
    partitions: impl IntoIterator<Item = u32>,
    time: Offset,
    timeout: Duration,
) -> KafkaResult<Vec<Option<u64>>> {
    let mut times = TopicPartitionList::new();
    for partition in partitions {
        times.add_partition_offset(topic, signed(partition), time)?;
    }
    let found = client.offsets_for_times(times, timeout)?;
    let mut offsets = Vec::with_capacity(found.count());
    for element in found.elements() {
        element.error()?;
        offsets.push(match element.offset() {
            Offset::Offset(offset) => Some(unsigned(offset)),
            _ => None,
        });
    }
    Ok(offsets)
}

/// Returns whether the error is transient: a leader is not known yet, the connection to it broke, or it left the
/// cluster.
pub(super) fn is_transient(error: &KafkaError) -> bool {
    let code = failure::code(error);
    failure::seeks_leader(error)
        || matches!(
            code,
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::DestroyBroker)
        )
}
