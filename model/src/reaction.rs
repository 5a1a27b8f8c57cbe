//! Reactions: one emoji, sent by one user, to one room.

use std::borrow::Cow;

use crate::{Emoji, EmojiNames, Room};

/// The longest user id, in bytes.
pub const MAX_USER_BYTES: usize = 128;

/// Who reacted: 1 to 128 bytes of text; an integer counts as its decimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<str>);

impl UserId {
    /// The user of `id`; `None` if it is empty or too long.
    pub fn new(id: &str) -> Option<UserId> {
        UserId::check(id).then(|| UserId(id.into()))
    }

    pub(crate) fn check(id: &str) -> bool {
        (1..=MAX_USER_BYTES).contains(&id.len())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A reaction as a sender submits it: valid, but not yet received at a known time. It borrows from the JSON
/// it was read from: whoever only counts, or knows the room already, allocates nothing for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedReaction<'a> {
    /// Who reacted: the text of a valid [`UserId`].
    pub user: Cow<'a, str>,
    /// With what.
    pub emoji: Emoji,
    /// Where: the name of a valid [`Room`].
    pub room: Cow<'a, str>,
    /// When, as the sender says, Unix milliseconds. Advisory.
    pub claimed_ms: Option<u64>,
}

/// A reaction with its event time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reaction {
    /// Who reacted.
    pub user: UserId,
    /// With what.
    pub emoji: Emoji,
    /// Where.
    pub room: Room,
    /// When it was received, Unix milliseconds: its event time.
    pub at_ms: u64,
}

/// A reaction that borrows its texts, as a batch holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReactionRef<'a> {
    /// Who reacted: the text of a valid [`UserId`].
    pub user: &'a str,
    /// With what: the text of an emoji, which another build may have written and this one may not know.
    pub emoji: &'a str,
    /// Where: the name of a valid [`Room`].
    pub room: &'a str,
    /// When it was received, Unix milliseconds: its event time.
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

/// Why a JSON value is no reaction; says which field and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
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
        /// What is wrong with it, and what is expected.
        why: String,
    },
    /// The emoji is none that this build knows. A variant of its own, since another build may know it.
    #[error("{field} {why}")]
    UnknownEmoji {
        /// The field's name.
        field: &'static str,
        /// What was sent, and what is expected.
        why: String,
    },
}

/// The longest piece of a sender's value that an error message repeats, in characters.
const MAX_QUOTE: usize = 40;

/// Resolves the emoji that a sender names; the error quotes what was sent.
pub(crate) fn emoji(names: &EmojiNames, field: &'static str, sent: &str) -> Result<Emoji, Invalid> {
    names.resolve(sent).map_err(|unknown| {
        let quote: String = sent.chars().take(MAX_QUOTE).collect();
        let dots = if quote.len() < sent.len() { "…" } else { "" };
        Invalid::UnknownEmoji {
            field,
            why: format!("{quote:?}{dots} is {unknown}"),
        }
    })
}
