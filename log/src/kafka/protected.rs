//! Properties that a user cannot set, because exactly-once processing or the fixed partitioning depends on the values
//! that EmoStream sets.
//!
//! The table includes librdkafka's aliases: librdkafka applies an alias like the property that it stands for.
//! Properties that only affect time or memory (`linger.ms`, `fetch.*`, `client.rack`, `group.id`, …) are not in the
//! table.

/// Maximum number of produce requests in flight at which Kafka keeps the order of records when a request is retried.
const MAX_ORDERED_IN_FLIGHT: u64 = 5;

const ISOLATION: &str = "records of aborted transactions would be counted";
const POSITIONS: &str = "positions are stored only with the results, in the same transaction";
const CAPABILITIES: &str = "without the list of API versions that the broker sends, librdkafka may use requests that have no isolation level";
const ACKNOWLEDGED: &str = "a record that was acknowledged could be lost";
const RETRIED: &str = "a record that librdkafka reports as failed and EmoStream sends again could be in the log twice";
const ORDER: &str =
    "a partition would get its records in another order, and windows would close too early";

/// Returns why the user cannot set `property` to `value`; `None` if it is allowed.
pub(super) fn reason(property: &str, value: &str) -> Option<&'static str> {
    Some(match property {
        "isolation.level" => ISOLATION,
        "auto.offset.reset" => "a reader whose offset has expired would skip records silently",
        "enable.partition.eof" => {
            "a reader would not detect that it has read a partition to its end"
        }
        "enable.auto.commit"
        | "auto.commit.enable"
        | "enable.auto.offset.store"
        | "offset.store.method" => POSITIONS,
        "api.version.request" | "api.version.fallback.ms" | "broker.version.fallback" => {
            CAPABILITIES
        }
        "allow.auto.create.topics" => {
            "a missing topic would be created with the broker's defaults; `emostream topics create` creates it"
        }
        "transactional.id" => {
            "it is derived from --topic-prefix, so that a new run fences the previous one"
        }
        "transaction.timeout.ms" => {
            "the dataflow and the broker must abort a transaction after the same time"
        }
        "enable.idempotence" => "a retried record would be in the log twice",
        "acks" | "request.required.acks" => ACKNOWLEDGED,
        "message.timeout.ms" | "delivery.timeout.ms" | "retries" | "message.send.max.retries" => {
            RETRIED
        }
        "delivery.report.only.error" => "acknowledged records would not be reported",
        "queuing.strategy" => ORDER,
        "max.in.flight" | "max.in.flight.requests.per.connection" => {
            let ordered = |most: u64| most <= MAX_ORDERED_IN_FLIGHT;
            // A value that is not a number is allowed here, since librdkafka refuses it.
            match value.parse().map_or(true, ordered) {
                true => return None,
                false => "above 5 a retry would change the order of records",
            }
        }
        "partitioner" => "records of one key would be in different partitions",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_number_of_requests_in_flight_depends_on_the_value() {
        for property in ["max.in.flight", "max.in.flight.requests.per.connection"] {
            assert_eq!(reason(property, "1"), None);
            assert_eq!(reason(property, "5"), None);
            assert_eq!(reason(property, "many"), None);
            assert!(reason(property, "6").is_some());
        }
        // `acks` is refused even with the value that EmoStream sets.
        assert!(reason("acks", "all").is_some());
    }

    #[test]
    fn properties_of_time_or_memory_can_be_set() {
        for property in [
            "linger.ms",
            "fetch.min.bytes",
            "client.rack",
            "group.id",
            "compression.codec",
            "socket.timeout.ms",
            "sasl.username",
        ] {
            assert_eq!(reason(property, "1"), None, "{property}");
        }
    }
}
