//! What a record of the `reactions` topic may hold.

use crate::{
    Batch, BatchError, EmojiNames, Entry, FieldNames, Invalid, ParsedReaction, batch, json,
};

/// A decoded record of the `reactions` topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload<'a> {
    /// What an ingest flushed; a heartbeat if it is empty.
    Batch(Batch<'a>),
    /// One plain JSON reaction of another producer; its time is the record's timestamp.
    Plain(ParsedReaction<'a>),
}

/// Why a record of the `reactions` topic cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The value is empty.
    #[error("the record is empty")]
    Empty,
    /// It begins like a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// It begins like JSON, or like nothing known.
    #[error("neither a batch nor JSON: {0}")]
    Json(String),
    /// It is JSON with a value that cannot be read.
    #[error("the record is JSON, but a value in it cannot be read: {0}")]
    Unreadable(String),
    /// It is JSON, but no reaction.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl<'a> Payload<'a> {
    /// Reads a record's value.
    pub fn decode(value: &'a [u8], emojis: &EmojiNames) -> Result<Payload<'a>, PayloadError> {
        match value.first() {
            None => Err(PayloadError::Empty),
            Some(&batch::VERSION) => Ok(Payload::Batch(Batch::decode(value)?)),
            Some(_) => {
                let not_json =
                    |error: &dyn std::fmt::Display| PayloadError::Json(error.to_string());
                // Checked whole, the text costs less than string by string.
                let text = std::str::from_utf8(value).map_err(|error| not_json(&error))?;
                let text = json::without_bom(text);
                let entry = Entry::read(text).map_err(|error| match json::is_json(text) {
                    true => PayloadError::Unreadable(error.to_string()),
                    false => not_json(&error),
                })?;
                Ok(Payload::Plain(entry.validate(emojis, FieldNames::V1)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
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
            PayloadError::Invalid(Invalid::UnknownEmoji { .. })
        ));
        assert!(matches!(decode(b"{"), PayloadError::Json(_)));
        let half = br#"{"user_id":"\ud800","emoji_type":"x"}"#;
        assert!(matches!(decode(half), PayloadError::Unreadable(_)));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_payload_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Payload::decode(&bytes, &EmojiNames::default());
        }
    }
}
