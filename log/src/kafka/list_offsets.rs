//! Requests offsets of many partitions by Kafka's ListOffsets, with one request to each broker that leads some of them.
//!
//! librdkafka's `offsets_for_times` sends any time to the brokers, so it also works with Kafka's special times:
//! [`Offset::Beginning`] for the first offset and [`Offset::End`] for the end, in the isolation level of the client. A
//! partition without a leader has an error of its own in the result. But if a broker does not respond, or rejects one
//! partition, the whole call fails, and the responses of the other brokers are lost.

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

/// Returns the first offset of each of `partitions` if `edge` is [`Offset::Beginning`], or its end offset if `edge` is
/// [`Offset::End`].
pub(super) fn at_edge(
    client: &BaseConsumer<Events>,
    topic: &str,
    partitions: impl IntoIterator<Item = u32>,
    edge: Offset,
    timeout: Duration,
) -> KafkaResult<Vec<u64>> {
    let offsets = at_time(client, topic, partitions, edge, timeout)?;
    // A leader has both offsets of each of its partitions, so a missing offset means that no leader has responded.
    let missing = KafkaError::OffsetFetch(RDKafkaErrorCode::LeaderNotAvailable);
    offsets.into_iter().collect::<Option<_>>().ok_or(missing)
}

/// Returns, for each of `partitions`, the offset of the first record whose time is `time` or later; `None` if there is
/// no such record.
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

/// Returns whether the error is transient: the client does not know a leader yet, the connection to a leader broke, or
/// a leader left the cluster.
pub(super) fn is_transient(error: &KafkaError) -> bool {
    let code = failure::code(error);
    failure::seeks_leader(error)
        || matches!(
            code,
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::DestroyBroker)
        )
}
