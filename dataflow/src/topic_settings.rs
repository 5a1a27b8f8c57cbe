//! Settings of the topics without which a run cannot keep what it promises.

use std::time::Duration;

use emostream_log::{Log, Timestamps, TopicDescription};

use crate::{Config, DataflowError, clock::MAX_AHEAD_MS};

/// Refuses a reactions topic that accepts records dated too far in the future, and topics that keep records for a
/// shorter time than an open window, or a restart, may need them.
pub(crate) fn require(config: &Config, log: &dyn Log) -> Result<(), DataflowError> {
    let topic = config.topics.reactions();
    let found = log.describe(&topic).map_err(DataflowError::Start)?;
    if !config.unbounded_timestamps {
        require_bounded(log, &topic, found.timestamps)?;
    }
    require_kept(config, topic, &found)?;
    require_finals_kept(config, finals_kept(config, log)?)
}

/// How long the windows topic keeps finals; `None` for ever.
pub(crate) fn finals_kept(
    config: &Config,
    log: &dyn Log,
) -> Result<Option<Duration>, DataflowError> {
    let found = log.describe(&config.topics.windows());
    let found = found.map_err(DataflowError::Start)?;
    Ok(found.deleted.and_then(|deletion| deletion.after))
}

/// A restart completes the totals of large rooms from finals. Such a record is due within a period, and written within
/// half of the time for which finals are kept: the other half is for a run that ends.
fn require_finals_kept(config: &Config, kept: Option<Duration>) -> Result<(), DataflowError> {
    let open = Duration::from_millis(config.window.as_ms())
        + Duration::from_millis(config.lateness_ms)
        + config.hold_timeout;
    let of_totals = 2 * (Duration::from_millis(config.totals_pace.period_ms) + open);
    let needed = of_totals.max(config.trending_span + open);
    match kept {
        Some(kept) if kept < needed => Err(DataflowError::FinalsKeptTooShortly {
            topic: config.topics.windows(),
            needed,
            kept,
        }),
        _ => Ok(()),
    }
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
