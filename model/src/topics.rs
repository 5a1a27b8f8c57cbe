//! The names of the topics.

use std::fmt;

/// The topics of one EmoStream: `PREFIX.reactions`, `PREFIX.windows` and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
}

/// The prefix is not part of a legal topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a topic prefix is 1 to 200 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidPrefix;

impl Default for Topics {
    fn default() -> Topics {
        Topics {
            prefix: "emostream".to_owned(),
        }
    }
}

impl Topics {
    /// The topics whose names begin with `prefix` (Kafka's rules for names: 249 characters at most).
    pub fn with_prefix(prefix: &str) -> Result<Topics, InvalidPrefix> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        let fits = (1..=200).contains(&prefix.len()) && prefix.bytes().all(legal);
        let topics = Topics {
            prefix: prefix.to_owned(),
        };
        fits.then_some(topics).ok_or(InvalidPrefix)
    }

    /// What the names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Every topic.
    pub fn all(&self) -> [String; 7] {
        [
            self.reactions(),
            self.windows(),
            self.totals(),
            self.trending(),
            self.live(),
            self.rejected(),
            self.progress(),
        ]
    }

    fn named(&self, what: impl fmt::Display) -> String {
        format!("{}.{what}", self.prefix)
    }

    /// Reactions as they came: batches and plain JSON.
    pub fn reactions(&self) -> String {
        self.named("reactions")
    }
    /// Finals.
    pub fn windows(&self) -> String {
        self.named("windows")
    }
    /// Cumulative counts of a room.
    pub fn totals(&self) -> String {
        self.named("totals")
    }
    /// The top emojis of a sliding span.
    pub fn trending(&self) -> String {
        self.named("trending")
    }
    /// Running tallies of open windows.
    pub fn live(&self) -> String {
        self.named("live")
    }
    /// Records that were not counted, as they came: late, undecodable, or with an unknown emoji.
    pub fn rejected(&self) -> String {
        self.named("rejected")
    }
    /// Where the dataflow stands.
    pub fn progress(&self) -> String {
        self.named("progress")
    }
}
