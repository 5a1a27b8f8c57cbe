//! The topic log on a team's own Kafka.
