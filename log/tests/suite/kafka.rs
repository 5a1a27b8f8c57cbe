//! What only the log on Kafka has to promise.
