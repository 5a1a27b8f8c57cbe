//! Settings of the reactions topic without which a run cannot keep what it promises.

use std::time::Duration;

use emostream_log::{Log, Timestamps, TopicDescription};

use crate::{Config, DataflowError, clock::MAX_AHEAD_MS};

/// Refuses a reactions topic that dates records too far in the future, or that does not keep them as long as an
/// open window may need them.
pub(crate) fn require(config: &Config, log: &dyn Log) -> Result<(), DataflowError> {
    let topic = config.topics.reactions();
    let found = log.describe(&topic).map_err(DataflowError::Start)?;
    if !config.unbounded_timestamps {
        require_bounded(log, &topic, found.timestamps)?;
    }
    require_kept(config, topic, &found)
}

/// Only the broker's clock can judge what lies in the future without making results depend on who reads.
fn require_bounded(
    log: &dyn Log,
    topic: &str,
    timestamps: Timestamps,
) -> Result<(), DataflowError> {
    let ahead = match timestamps {
        Timestamps::Appended => return Ok(()),
        Timestamps::Written { max_ahead } => max_ahead,
        Timestamps::WrittenWithoutLimit => {
            let topic = topic.to_owned();
            return Err(DataflowError::OldBrokers { topic });
        }
    };
    if ahead.is_some_and(|ahead| ahead.as_millis() <= u128::from(MAX_AHEAD_MS)) {
        return Ok(());
    }
    Err(DataflowError::UnboundedTimestamps {
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
) -> Result<(), DataflowError> {
    let needed = Duration::from_millis(config.window.as_ms())
        + Duration::from_millis(config.lateness_ms)
        + config.hold_timeout;
    match found.deleted.and_then(|deletion| deletion.after) {
        Some(kept) if kept < needed => Err(DataflowError::KeptTooShortly {
            topic,
            needed,
            kept,
        }),
        _ => Ok(()),
    }
}
