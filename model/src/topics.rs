//! Names of the topics.

use std::fmt;

/// The topics of one installation: `PREFIX.reactions`, `PREFIX.windows` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

/// The error for a text that cannot be the prefix of a topic's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topic prefix consists of 1 to 200 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidPrefix;

impl Default for Topics {
    fn default() -> Topics {
        Topics {
            prefix: "emostream".to_owned(),
        }
    }
}

impl Topics {
    /// Returns the topics whose names begin with `prefix`. The prefix has at most 200 characters, since Kafka allows
    /// names of at most 249 characters.
    pub fn with_prefix(prefix: &str) -> Result<Topics, InvalidPrefix> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let fits = (1..=200).contains(&prefix.len()) && prefix.bytes().all(legal);
        let topics = Topics {
            prefix: prefix.to_owned(),
        };
        fits.then_some(topics).ok_or(InvalidPrefix)
    }

    /// Returns the prefix of the names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn named(&self, what: impl fmt::Display) -> String {
        format!("{}.{what}", self.prefix)
    }

    /// Name of the topic of reactions as they were received: batches and plain JSON.
    pub fn reactions(&self) -> String {
        self.named("reactions")
    }
    /// Name of the topic of finals.
    pub fn windows(&self) -> String {
        self.named("windows")
    }
    /// Name of the topic of the rooms' cumulative counts.
    pub fn totals(&self) -> String {
        self.named("totals")
    }
    /// Name of the topic of the top emojis in a sliding span.
    pub fn trending(&self) -> String {
        self.named("trending")
    }
    /// Name of the topic of live tallies of open windows.
    pub fn live(&self) -> String {
        self.named("live")
    }
    /// Name of the topic of rejected events. A header of each record has the reason: late, malformed, ahead, or an
    /// unknown emoji.
    pub fn rejected(&self) -> String {
        self.named("rejected")
    }
    /// Name of the topic of the dataflow's progress, from which a restart continues.
    pub fn progress(&self) -> String {
        self.named("progress")
    }
}
