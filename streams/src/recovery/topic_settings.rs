//! Checks the settings of the topics on which exact results depend.

use std::time::Duration;

use emostream_log::{Log, Timestamps, TopicDescription};

use crate::{StreamsError, config::Config, topics::MAX_AHEAD_MS};

/// Checks that the source topic does not accept records with times too far in the future, and that the topics retain
/// records for as long as open windows or a restart may need them.
pub fn require(config: &Config, log: &dyn Log) -> Result<(), StreamsError> {
    let topic = config.topics.source.clone();
    let found = log.describe(&topic).map_err(StreamsError::Start)?;
    if !config.run.unbounded_timestamps {
        require_bounded(log, &topic, found.timestamps)?;
    }
    require_kept(config, topic, &found)?;
    require_finals_kept(config, finals_kept(config, log)?)
}

/// Returns the retention of the topic of finals; `None` if it is unlimited.
pub fn finals_kept(config: &Config, log: &dyn Log) -> Result<Option<Duration>, StreamsError> {
    let found = log.describe(&config.topics.finals);
    let found = found.map_err(StreamsError::Start)?;
    Ok(found.deleted.and_then(|deletion| deletion.after))
}

/// Checks the retention of finals: a restart reads them to complete tables, and to restore sliding spans.
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

/// Checks that the brokers reject records with times too far in the future. If this process rejected them by its own
/// clock, results would depend on the process that reads.
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
                "set a limit with `kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {topic} --add-config message.timestamp.after.max.ms={MAX_AHEAD_MS}`"
            ),
            None => "start from nothing with another --data directory".to_owned(),
        },
    })
}

/// Checks the retention of the source topic. A restart reads the records of open windows again, and a held partition
/// holds windows open for up to the hold timeout.
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
