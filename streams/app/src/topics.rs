//! Creates the topics of an application. When a service starts, checks that its topics exist.
//!
//! Invariant: this module never deletes, recreates or renames a topic, and never removes partitions, because other data
//! contains offsets of the topics: the ids of final results, and the progress.

use emostream_log::{Log, LogError, TopicSpec};

use crate::process::{Failure, output};

/// Creates the topics that do not exist, and returns their names.
pub fn create_missing(log: &dyn Log, specs: &[TopicSpec]) -> Result<Vec<String>, LogError> {
    let mut created = Vec::new();
    for spec in specs {
        match log.partitions(&spec.name) {
            Ok(_) => {}
            Err(LogError::UnknownTopic { .. }) => {
                log.create_topic(spec)?;
                created.push(spec.name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(created)
}

/// Creates the topics that do not exist, and prints which topics were created and which existed. If an existing topic
/// has another number of partitions than requested, `advice` is printed, too.
pub fn create(log: &dyn Log, specs: &[TopicSpec], advice: &str) -> Result<(), Failure> {
    let created = create_missing(log, specs)?;
    let mut text = String::new();
    let mut differ = false;
    for spec in specs {
        if created.contains(&spec.name) {
            text += &format!("created  {}\n", spec.name);
            continue;
        }
        let partitions = log.partitions(&spec.name)?;
        let other = match partitions == spec.partitions {
            true => String::new(),
            false => format!(", with {partitions} partitions, not {}", spec.partitions),
        };
        differ |= !other.is_empty();
        text += &format!("exists   {}{other}\n", spec.name);
    }
    if differ {
        text += &format!("existing topics were not changed{advice}\n");
    }
    output::quietly(output::print(&text))
}

/// Returns an error if one of the topics does not exist. A service does not create topics by itself, because it does
/// not know how many partitions the other services expect. `create` is the command that creates the topics, which the
/// message repeats.
pub fn require(log: &dyn Log, names: &[String], create: &str) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for name in names {
        match log.partitions(name) {
            Ok(_) => {}
            Err(LogError::UnknownTopic { .. }) => missing.push(name.as_str()),
            Err(error) => return Err(error.into()),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    Err(Failure::unavailable(format!(
        "missing topics: {missing}; create them with {create}"
    )))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use emostream_log::{Cleanup, embedded::EmbeddedLog};

    #[test]
    fn missing_topics_are_created_once_and_then_found() {
        let log = EmbeddedLog::in_memory().unwrap();
        let spec = |name: &str, partitions| TopicSpec {
            name: name.to_owned(),
            partitions,
            replication: 1,
            min_in_sync: 1,
            cleanup: Cleanup::Compact,
            max_ahead: None,
        };
        let specs = [spec("words.lines", 3), spec("words.progress", 1)];
        let names = specs.each_ref().map(|spec| spec.name.clone());
        let refused = require(&log, &names, "`words topics create`").unwrap_err();
        let expected =
            "missing topics: words.lines, words.progress; create them with `words topics create`";
        assert_eq!(refused.message, expected);
        assert_eq!(create_missing(&log, &specs).unwrap(), names);
        assert_eq!(create_missing(&log, &specs).unwrap(), Vec::<String>::new());
        assert!(require(&log, &names, "").is_ok());
        assert_eq!(log.partitions("words.lines").unwrap(), 3);
    }
}
