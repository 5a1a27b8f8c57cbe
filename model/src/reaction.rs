//! Reactions: one emoji that one user sends to one room.

use std::borrow::Cow;

use crate::{Emoji, EmojiNames, Room};

/// Maximum length of a user id, in bytes.
pub const MAX_USER_BYTES: usize = 128;

/// The id of a user: text of 1 to [`MAX_USER_BYTES`] bytes. A client may also send an integer: then its digits are the
/// text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// Validates `id`; returns `None` if it is empty or too long.
    pub fn new(id: &str) -> Option<UserId> {
        UserId::is_valid(id).then(|| UserId(id.into()))
    }

    /// Returns whether `id` is a valid user id.
    pub(crate) fn is_valid(id: &str) -> bool {
        (1..=MAX_USER_BYTES).contains(&id.len())
    }

    /// Returns the text of the id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A valid reaction without an event time, as a client sends it. It borrows from the JSON text, so that code that does
/// not store the reaction allocates nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedReaction<'a> {
    /// The text of a valid [`UserId`].
    pub user: Cow<'a, str>,
    /// The emoji.
    pub emoji: Emoji,
    /// The name of a valid [`Room`].
    pub room: Cow<'a, str>,
    /// The time that the client sent, Unix milliseconds. It does not affect counting.
    pub claimed_ms: Option<u64>,
}

/// A reaction with its event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction {
    /// The user who sent the reaction.
    pub user: UserId,
    /// The emoji.
    pub emoji: Emoji,
    /// The room.
    pub room: Room,
    /// The event time: when an ingest received the reaction, Unix milliseconds.
    pub at_ms: u64,
}

/// A reaction that borrows its texts from a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReactionRef<'a> {
    /// The text of a valid [`UserId`].
    pub user: &'a str,
    /// The text of an emoji. Another build may have written it, so this build may not know it.
    pub emoji: &'a str,
    /// The name of a valid [`Room`].
    pub room: &'a str,
    /// The event time: when an ingest received the reaction, Unix milliseconds.
    pub at_ms: u64,
}

impl<'a> From<&'a Reaction> for ReactionRef<'a> {
    fn from(reaction: &'a Reaction) -> Self {
        Self {
            user: reaction.user.as_str(),
            emoji: reaction.emoji.as_str(),
            room: reaction.room.as_str(),
            at_ms: reaction.at_ms,
        }
    }
}

/// The reason why a JSON value is not a reaction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReaction {
    /// The value is not a JSON object.
    #[error("a reaction is a JSON object with user_id and emoji_type, not {0}")]
    NotAnObject(&'static str),
    /// A required field is absent.
    #[error("{field} is required")]
    Missing {
        /// The field's name.
        field: &'static str,
    },
    /// A field's value is not acceptable.
    #[error("{field} {why}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The error and the expected value, as text for the client.
        why: String,
    },
    /// This build does not know the emoji. The error has a variant of its own, since another build may know the emoji.
    #[error("{field} {why}")]
    UnknownEmoji {
        /// The field's name.
        field: &'static str,
        /// The value that was sent and the expected value, as text for the client.
        why: String,
    },
}

/// Maximum number of characters of a client's value that an error message quotes.
const MAX_QUOTE: usize = 40;

/// Resolves the emoji that a client sent; the error quotes the value.
pub(crate) fn emoji(
    names: &EmojiNames,
    field: &'static str,
    sent: &str,
) -> Result<Emoji, InvalidReaction> {
    names.resolve(sent).map_err(|unknown| {
        let quote: String = sent.chars().take(MAX_QUOTE).collect();
        let dots = if quote.len() < sent.len() { "…" } else { "" };
        InvalidReaction::UnknownEmoji {
            field,
            why: format!("{quote:?}{dots} is {unknown}"),
        }
    })
}
