//! Parses and validates the JSON form of a reaction, which is not trusted.
//!
//! A [`JsonReaction`] can be parsed from any JSON value, so that an invalid element of an array does not make the
//! others invalid. [`JsonReaction::validate`] returns the error of such an element. Unknown fields are ignored.

mod flat;

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::{
    EmojiNames, InvalidReaction, ParsedReaction, Room, UserId,
    reaction::{self, MAX_USER_BYTES},
    timestamp,
};

/// The field names that a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldNames {
    /// `user_id`, `emoji_type`: the names of the `/v1` interface.
    V1,
    /// The names of [`FieldNames::V1`], and also `client_id` or `user` instead of `user_id`, and `emoji` instead of
    /// `emoji_type`. Clients that were written for common Flask servers send these names.
    WithAliases,
}

/// One reaction that was parsed from JSON and is not validated yet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct JsonReaction<'a> {
    /// The type of the JSON value, if it is not an object.
    not_an_object: Option<&'static str>,
    user_id: Value<'a>,
    client_id: Value<'a>,
    user: Value<'a>,
    emoji_type: Value<'a>,
    emoji: Value<'a>,
    timestamp: Value<'a>,
    room: Value<'a>,
}

/// The value of a field, with the types that the fields of a reaction can have.
#[derive(Debug, Clone, PartialEq, Default)]
enum Value<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Unsigned(u64),
    Signed(i64),
    Fraction(f64),
    Other(&'static str),
}

/// Returns the text without a byte order mark, which some editors and libraries write before JSON. RFC 8259, 8.1 allows
/// a parser to ignore the mark.
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Returns whether `text` is JSON. A value in it may still be unreadable, since JSON allows values that no Rust type
/// can represent, such as `1e999` or half a surrogate pair.
pub fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

impl<'a> JsonReaction<'a> {
    /// Parses one JSON value.
    pub fn read(json: &'a str) -> Result<JsonReaction<'a>, serde_json::Error> {
        match flat::read(json) {
            Some(entry) => Ok(entry),
            None => serde_json::from_str(json),
        }
    }

    /// Returns the reaction, or the first error in it.
    pub fn validate(
        self,
        emojis: &EmojiNames,
        names: FieldNames,
    ) -> Result<ParsedReaction<'a>, InvalidReaction> {
        if let Some(kind) = self.not_an_object {
            return Err(InvalidReaction::NotAnObject(kind));
        }
        let users = [
            ("user_id", self.user_id),
            ("client_id", self.client_id),
            ("user", self.user),
        ];
        let (user_field, user) = first_present(users, names);
        let emoji_texts = [("emoji_type", self.emoji_type), ("emoji", self.emoji)];
        let (emoji_field, emoji) = first_present(emoji_texts, names);
        Ok(ParsedReaction {
            user: user_id(user_field, user)?,
            emoji: match emoji {
                Value::Text(text) => reaction::emoji(emojis, emoji_field, &text)?,
                Value::Absent => return Err(InvalidReaction::Missing { field: emoji_field }),
                _ => {
                    return Err(wrong(
                        emoji_field,
                        "must be a string, for example \"🔥\" or \"fire\"",
                    ));
                }
            },
            room: room(self.room)?,
            claimed_ms: claimed_ms(&self.timestamp)?,
        })
    }
}

/// Returns the name and the value of the first field that is present, among those that `names` allows. If no field is
/// present, returns the name that [`FieldNames::V1`] uses, with [`Value::Absent`].
fn first_present<'a, const COUNT: usize>(
    fields: [(&'static str, Value<'a>); COUNT],
    names: FieldNames,
) -> (&'static str, Value<'a>) {
    let own = fields[0].0;
    let understood = match names {
        FieldNames::V1 => 1,
        FieldNames::WithAliases => COUNT,
    };
    let mut present = fields
        .into_iter()
        .take(understood)
        .filter(|(_, value)| !matches!(value, Value::Absent));
    present.next().unwrap_or((own, Value::Absent))
}

fn wrong(field: &'static str, why: &str) -> InvalidReaction {
    let why = why.to_owned();
    InvalidReaction::Field { field, why }
}

fn user_id<'a>(field: &'static str, value: Value<'a>) -> Result<Cow<'a, str>, InvalidReaction> {
    let id = match value {
        Value::Text(text) => text,
        Value::Unsigned(number) => Cow::Owned(number.to_string()),
        Value::Signed(number) => Cow::Owned(number.to_string()),
        Value::Absent => return Err(InvalidReaction::Missing { field }),
        Value::Fraction(_) | Value::Other(_) => {
            return Err(wrong(
                field,
                "must be a string or an integer of at most 64 bits",
            ));
        }
    };
    match UserId::is_valid(&id) {
        true => Ok(id),
        false => Err(wrong(
            field,
            &format!("must have 1 to {MAX_USER_BYTES} bytes"),
        )),
    }
}

fn room(value: Value<'_>) -> Result<Cow<'_, str>, InvalidReaction> {
    let field = "room";
    match value {
        Value::Absent => Ok(Cow::Borrowed(Room::DEFAULT)),
        Value::Text(name) => match Room::validate(&name) {
            Ok(()) => Ok(name),
            Err(why) => Err(wrong(field, &format!("{:?}: {why}", shorten(&name)))),
        },
        _ => Err(wrong(field, "must be a string")),
    }
}

fn shorten(text: &str) -> &str {
    let end = text.char_indices().nth(40).map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn claimed_ms(value: &Value<'_>) -> Result<Option<u64>, InvalidReaction> {
    let claimed = match value {
        Value::Absent => return Ok(None),
        Value::Text(text) if text.is_empty() => return Ok(None),
        Value::Text(text) => timestamp::from_text(text),
        Value::Unsigned(number) => timestamp::from_number(*number as f64),
        Value::Signed(number) => timestamp::from_number(*number as f64),
        Value::Fraction(number) => timestamp::from_number(*number),
        Value::Other(_) => Err("must be a number or a string"),
    };
    claimed.map(Some).map_err(|why| wrong("timestamp", why))
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonReaction<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonReaction<'a>, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = JsonReaction<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reaction")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonReaction<'de>, A::Error> {
        let mut entry = JsonReaction::default();
        while let Some(name) = map.next_key()? {
            let field = match name {
                Name::UserId => &mut entry.user_id,
                Name::ClientId => &mut entry.client_id,
                Name::User => &mut entry.user,
                Name::EmojiType => &mut entry.emoji_type,
                Name::Emoji => &mut entry.emoji,
                Name::Timestamp => &mut entry.timestamp,
                Name::Room => &mut entry.room,
                Name::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *field = map.next_value()?;
        }
        Ok(entry)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JsonReaction<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(not_an_object("an array"))
    }

    fn visit_bool<E>(self, _: bool) -> Result<JsonReaction<'de>, E> {
        Ok(not_an_object("a boolean"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<JsonReaction<'de>, E> {
        Ok(not_an_object("a number"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<JsonReaction<'de>, E> {
        Ok(not_an_object("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<JsonReaction<'de>, E> {
        Ok(not_an_object("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<JsonReaction<'de>, E> {
        Ok(not_an_object("a string"))
    }

    fn visit_unit<E>(self) -> Result<JsonReaction<'de>, E> {
        Ok(not_an_object("null"))
    }
}

fn not_an_object<'a>(kind: &'static str) -> JsonReaction<'a> {
    JsonReaction {
        not_an_object: Some(kind),
        ..JsonReaction::default()
    }
}

/// The name of a field of a reaction.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Name {
    UserId,
    ClientId,
    User,
    EmojiType,
    Emoji,
    Timestamp,
    Room,
    #[serde(other)]
    Unknown,
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value<'a>, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Signed(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value<'de>, E> {
        Ok(Value::Fraction(number))
    }

    /// A field with the value null counts as absent.
    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Absent)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value<'de>, E> {
        Ok(Value::Other("a boolean"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an array"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    fn read(json: &str, names: FieldNames) -> Result<ParsedReaction<'_>, InvalidReaction> {
        serde_json::from_str::<JsonReaction<'_>>(json)
            .unwrap()
            .validate(&EmojiNames::default(), names)
    }

    #[test]
    fn the_example_of_the_interface_is_read() {
        let json = r#"{"user_id": "u-17", "emoji_type": "🔥", "timestamp": 1764000000123, "room": "match-7"}"#;
        let reaction = read(json, FieldNames::V1).unwrap();
        assert_eq!(reaction.user, "u-17");
        assert_eq!(reaction.emoji.as_str(), "🔥");
        assert_eq!(reaction.room, "match-7");
        assert_eq!(reaction.claimed_ms, Some(1_764_000_000_123));
    }

    #[test]
    fn optional_fields_may_be_absent_null_or_empty() {
        for rest in [
            "",
            r#","room":null"#,
            r#","timestamp":null"#,
            r#","timestamp":"""#,
            r#","x":[{}]"#,
        ] {
            let json = format!(r#"{{"user_id":7,"emoji_type":"fire"{rest}}}"#);
            let reaction = read(&json, FieldNames::V1).unwrap();
            assert_eq!(reaction.room, Room::DEFAULT);
            assert_eq!(reaction.claimed_ms, None);
            assert_eq!(reaction.user, "7");
        }
    }

    #[test]
    fn an_error_names_the_field() {
        let long = "u".repeat(129);
        for (json, start) in [
            (r#"{}"#.to_owned(), "user_id is required"),
            (
                r#"{"user_id":null,"emoji_type":"🔥"}"#.to_owned(),
                "user_id is required",
            ),
            (
                r#"{"user_id":"","emoji_type":"🔥"}"#.to_owned(),
                "user_id must have 1 to 128",
            ),
            (
                format!(r#"{{"user_id":"{long}","emoji_type":"🔥"}}"#),
                "user_id must have 1 to 128",
            ),
            (
                r#"{"user_id":1.5,"emoji_type":"🔥"}"#.to_owned(),
                "user_id must be a string or",
            ),
            (
                r#"{"user_id":{},"emoji_type":"🔥"}"#.to_owned(),
                "user_id must be a string or",
            ),
            (r#"{"user_id":"u"}"#.to_owned(), "emoji_type is required"),
            (
                r#"{"user_id":"u","emoji":"🔥"}"#.to_owned(),
                "emoji_type is required",
            ),
            (
                r#"{"user_id":"u","emoji_type":"nope"}"#.to_owned(),
                "emoji_type \"nope\" is not an emoji",
            ),
            (
                r#"{"user_id":"u","emoji_type":5}"#.to_owned(),
                "emoji_type must be a string",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","room":"a b"}"#.to_owned(),
                "room \"a b\"",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","room":""}"#.to_owned(),
                "room \"\"",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","room":".."}"#.to_owned(),
                "room \"..\": a room's name has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -, but not",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","room":1}"#.to_owned(),
                "room must be a string",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","timestamp":"x"}"#.to_owned(),
                "timestamp expected",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","timestamp":-1}"#.to_owned(),
                "timestamp is out of range",
            ),
            (
                r#"{"user_id":"u","emoji_type":"🔥","timestamp":true}"#.to_owned(),
                "timestamp must be a number",
            ),
            ("[]".to_owned(), "a reaction is a JSON object"),
            ("null".to_owned(), "a reaction is a JSON object"),
            ("\"🔥\"".to_owned(), "a reaction is a JSON object"),
        ] {
            let error = read(&json, FieldNames::V1).unwrap_err().to_string();
            assert!(error.starts_with(start), "{json}: {error}");
        }
    }

    #[test]
    fn aliases_are_accepted_only_with_aliases_and_after_the_v1_names() {
        let json = r#"{"client_id":"c","emoji":"🔥"}"#;
        assert_eq!(read(json, FieldNames::WithAliases).unwrap().user, "c");
        assert!(read(json, FieldNames::V1).is_err());
        let both = r#"{"client_id":"c","user_id":"u","emoji":"👏","emoji_type":"🔥"}"#;
        let reaction = read(both, FieldNames::WithAliases).unwrap();
        assert_eq!((&*reaction.user, reaction.emoji.as_str()), ("u", "🔥"));
    }

    proptest! {
        #[test]
        fn any_json_text_is_a_reaction_or_an_error(json in r#"[\[\]{}",:0-9a-z_ \\🔥-]{0,60}"#) {
            if let Ok(entry) = serde_json::from_str::<JsonReaction<'_>>(&json) {
                let _ = entry.validate(&EmojiNames::default(), FieldNames::WithAliases);
            }
        }

        #[test]
        fn a_valid_reaction_is_read_back_as_it_was_written(
            user in "\\PC{1,30}", room in "[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,63}", ms in 0_u64..200_000_000_000_000,
            pick in 0_usize..1500,
        ) {
            let emoji = crate::Emoji::all().nth(pick).unwrap();
            let json = serde_json::json!({
                "user_id": user, "emoji_type": emoji, "room": room, "timestamp": ms,
            }).to_string();
            let reaction = read(&json, FieldNames::V1).unwrap();
            prop_assert_eq!(reaction.user, user);
            prop_assert_eq!(reaction.emoji, emoji);
            prop_assert_eq!(reaction.room, room);
            let claimed = if ms < 100_000_000_000 { (ms as f64 * 1000.0) as u64 } else { ms };
            prop_assert_eq!(reaction.claimed_ms, Some(claimed));
        }
    }
}
