//! Decodes records of the `reactions` topic: batches, and single reactions as JSON.

use crate::{
    Batch, BatchError, EmojiNames, FieldNames, InvalidReaction, JsonReaction, ParsedReaction,
    ReactionRef, batch, json,
};

/// A decoded record of the `reactions` topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload<'a> {
    /// A batch of an ingest; an empty one is a heartbeat.
    Batch(Batch<'a>),
    /// One reaction as plain JSON, written by a producer that is not an ingest. Its event time is the record's
    /// timestamp.
    Plain(ParsedReaction<'a>),
}

/// The reason why a record of the `reactions` topic cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The value is empty.
    #[error("the record is empty")]
    Empty,
    /// The value begins with the first byte of a batch, but the batch cannot be decoded.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The value is neither a batch nor JSON.
    #[error("the record is neither a batch nor JSON: {0}")]
    Json(String),
    /// The value is JSON with a number or string that cannot be represented.
    #[error("the record is JSON, but a value in it cannot be read: {0}")]
    Unreadable(String),
    /// The value is JSON, but not a reaction.
    #[error(transparent)]
    Invalid(#[from] InvalidReaction),
}

impl<'a> Payload<'a> {
    /// Decodes a record's value.
    pub fn decode(value: &'a [u8], emojis: &EmojiNames) -> Result<Payload<'a>, PayloadError> {
        match value.first() {
            None => Err(PayloadError::Empty),
            Some(&batch::VERSION) => Ok(Payload::Batch(Batch::decode(value)?)),
            Some(_) => {
                let not_json =
                    |error: &dyn std::fmt::Display| PayloadError::Json(error.to_string());
                // The whole text is checked for UTF-8 at once, since this takes less time than a check of each string
                // in it.
                let text = std::str::from_utf8(value).map_err(|error| not_json(&error))?;
                let text = json::without_bom(text);
                let entry =
                    JsonReaction::read(text).map_err(|error| match json::is_json(text) {
                        true => PayloadError::Unreadable(error.to_string()),
                        false => not_json(&error),
                    })?;
                Ok(Payload::Plain(entry.validate(emojis, FieldNames::V1)?))
            }
        }
    }

    /// Returns the reactions in the order of the record. `record_ms` is the time of the record, which is that of a
    /// plain reaction.
    pub fn reactions(&self, record_ms: u64) -> Result<Vec<ReactionRef<'_>>, BatchError> {
        match self {
            Payload::Batch(batch) => batch.reactions(),
            Payload::Plain(plain) => Ok(vec![ReactionRef {
                user: &plain.user,
                emoji: plain.emoji.as_str(),
                room: &plain.room,
                at_ms: record_ms,
            }]),
        }
    }

    /// Returns the time of the payload itself and the time of its newest reaction. Both are the time of the record for
    /// a plain reaction.
    pub fn times(&self, record_ms: u64) -> (u64, u64) {
        match self {
            Payload::Batch(batch) => (batch.base_ms(), batch.newest_ms()),
            Payload::Plain(_) => (record_ms, record_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_is_a_batch_or_a_plain_reaction_or_an_error() {
        let names = EmojiNames::default();
        let heartbeat = Batch::heartbeat(5);
        assert!(matches!(
            Payload::decode(&heartbeat, &names),
            Ok(Payload::Batch(_))
        ));
        let plain = r#" {"user_id":1,"emoji_type":"🔥"}"#;
        assert!(matches!(
            Payload::decode(plain.as_bytes(), &names),
            Ok(Payload::Plain(_))
        ));
        let marked = format!("\u{feff}{plain}");
        assert!(matches!(
            Payload::decode(marked.as_bytes(), &names),
            Ok(Payload::Plain(_))
        ));
        let decode = |bytes: &[u8]| Payload::decode(bytes, &names).map(|_| ()).unwrap_err();
        assert_eq!(decode(b""), PayloadError::Empty);
        assert!(matches!(decode(b"\x07junk"), PayloadError::Json(_)));
        assert!(matches!(decode(b"\x01junk"), PayloadError::Batch(_)));
        assert!(matches!(decode(b"{}"), PayloadError::Invalid(_)));
        assert!(matches!(decode(b"[1]"), PayloadError::Invalid(_)));
        let unknown = r#"{"user_id":1,"emoji_type":"新"}"#;
        assert!(matches!(
            decode(unknown.as_bytes()),
            PayloadError::Invalid(InvalidReaction::UnknownEmoji { .. })
        ));
        assert!(matches!(decode(b"{"), PayloadError::Json(_)));
        let half = br#"{"user_id":"\ud800","emoji_type":"x"}"#;
        assert!(matches!(decode(half), PayloadError::Unreadable(_)));
    }

    #[test]
    fn a_plain_reaction_has_the_time_of_its_record() {
        let names = EmojiNames::default();
        let plain = r#"{"user_id":"u","emoji_type":"🔥","room":"a","timestamp":7}"#;
        let plain = Payload::decode(plain.as_bytes(), &names).unwrap();
        let reaction = ReactionRef {
            user: "u",
            emoji: "🔥",
            room: "a",
            at_ms: 5,
        };
        assert_eq!(plain.reactions(5).unwrap(), [reaction]);
        assert_eq!(plain.times(5), (5, 5));
        let batch = Batch::encode(
            3,
            [ReactionRef {
                at_ms: 4,
                ..reaction
            }],
        );
        let batch = Payload::decode(&batch, &names).unwrap();
        assert_eq!(batch.reactions(5).unwrap()[0].at_ms, 4);
        assert_eq!(batch.times(5), (3, 4));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_payload_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Payload::decode(&bytes, &EmojiNames::default());
        }
    }
}
