//! Settings of the topics without which a run cannot keep what it promises.

use std::time::Duration;

use emostream_log::{Log, Timestamps, TopicDescription};

use crate::{StreamsError, config::Config, time::clock::MAX_AHEAD_MS};

/// Refuses a source topic that accepts records dated too far in the future, and topics that keep records for a
/// shorter time than an open window, or a restart, may need them.
pub fn require(config: &Config, log: &dyn Log) -> Result<(), StreamsError> {
    let topic = config.topics.source.clone();
    let found = log.describe(&topic).map_err(StreamsError::Start)?;
    if !config.unbounded_timestamps {
        require_bounded(log, &topic, found.timestamps)?;
    }
    require_kept(config, topic, &found)?;
    require_finals_kept(config, finals_kept(config, log)?)
}

/// How long the topic of finals keeps them; `None` for ever.
pub fn finals_kept(config: &Config, log: &dyn Log) -> Result<Option<Duration>, StreamsError> {
    let found = log.describe(&config.topics.finals);
    let found = found.map_err(StreamsError::Start)?;
    Ok(found.deleted.and_then(|deletion| deletion.after))
}

/// A restart completes tables, and what lies in a sliding span, from finals.
fn require_finals_kept(config: &Config, kept: Option<Duration>) -> Result<(), StreamsError> {
    let needed = config.finals_needed;
    match kept {
        Some(kept) if kept < needed => Err(StreamsError::FinalsKeptTooShortly {
            topic: config.topics.finals.clone(),
            needed,
            kept,
        }),
        _ => Ok(()),
    }
}

/// Only the broker's clock can judge what lies in the future without making results depend on who reads.
fn require_bounded(log: &dyn Log, topic: &str, timestamps: Timestamps) -> Result<(), StreamsError> {
    let ahead = match timestamps {
        Timestamps::Appended => return Ok(()),
        Timestamps::Written { max_ahead } => max_ahead,
        Timestamps::WrittenWithoutLimit => {
            let topic = topic.to_owned();
            return Err(StreamsError::OldBrokers { topic });
        }
    };
    if ahead.is_some_and(|ahead| ahead.as_millis() <= u128::from(MAX_AHEAD_MS)) {
        return Ok(());
    }
    Err(StreamsError::UnboundedTimestamps {
        topic: topic.to_owned(),
        ahead: ahead.map_or("any time".to_owned(), |ahead| format!("{ahead:?}")),
        remedy: match log.brokers() {
            Some(brokers) => format!(
                "bound that with `kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config message.timestamp.after.max.ms={MAX_AHEAD_MS}`"
            ),
            None => "start anew with another --data directory".to_owned(),
        },
    })
}

/// A restart reads again what open windows need, and a held partition keeps them open for the hold timeout.
fn require_kept(
    config: &Config,
    topic: String,
    found: &TopicDescription,
) -> Result<(), StreamsError> {
    let needed = config.longest_open();
    match found.deleted.and_then(|deletion| deletion.after) {
        Some(kept) if kept < needed => Err(StreamsError::KeptTooShortly {
            topic,
            needed,
            kept,
        }),
        _ => Ok(()),
    }
}
