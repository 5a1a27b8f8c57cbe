//! Parses the reactions in the body of a request: one object, or an array. An invalid entry of an array does not affect
//! the other entries.

use std::{fmt, marker::PhantomData};

use emostream_http::{Principal, Problem};
use emostream_model::{EmojiNames, FieldNames, JsonReaction, ParsedReaction, is_json, without_bom};
use serde::{
    Deserialize, Deserializer as _,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{admission::room_limit::Refused, config::MAX_REQUEST_REACTIONS};

/// The entries of a body.
#[derive(Debug, PartialEq)]
pub(crate) struct ReactionRequest<'a> {
    /// The valid entries with their indexes.
    pub(crate) valid: Vec<(usize, ParsedReaction<'a>)>,
    /// The invalid entries.
    pub(crate) invalid: Vec<Rejection>,
    /// Whether the body is an array.
    pub(crate) is_array: bool,
}

/// An entry that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Rejection {
    pub(crate) index: usize,
    pub(crate) detail: String,
    #[serde(skip)]
    pub(crate) kind: RejectionKind,
}

/// The kind of a rejection, which determines the status of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RejectionKind {
    /// The entry is not a reaction, or its room does not match the pattern.
    Invalid,
    /// The entry is valid, but the token does not allow it.
    Forbidden,
    /// The entry is valid, but too many rooms are in use.
    RoomLimit,
}

impl From<&Refused> for RejectionKind {
    fn from(refused: &Refused) -> Self {
        match refused {
            Refused::Unmatched { .. } | Refused::Invalid(_) => Self::Invalid,
            Refused::TooMany { .. } => Self::RoomLimit,
        }
    }
}

/// The reason why no reaction can be parsed from a body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the body is empty; send one reaction as a JSON object, or an array of them")]
    Empty,
    #[error("the body is not UTF-8 at byte {0}")]
    NotUtf8(usize),
    #[error("the body is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("the body is JSON, but a value in it cannot be read: {0}")]
    Unreadable(serde_json::Error),
    #[error(
        "the array has more than {MAX_REQUEST_REACTIONS} reactions; send the rest in another request"
    )]
    TooMany,
}

impl From<Malformed> for Problem {
    fn from(malformed: Malformed) -> Self {
        Self::bad_request(malformed.to_string())
    }
}

impl<'a> ReactionRequest<'a> {
    /// Parses a body.
    pub(crate) fn parse(
        body: &'a [u8],
        emojis: &EmojiNames,
        names: FieldNames,
    ) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(body).map_err(|e| Malformed::NotUtf8(e.valid_up_to()))?;
        let text = without_bom(text);
        let unread = |error| match is_json(text) {
            true => Malformed::Unreadable(error),
            false => Malformed::NotJson(error),
        };
        let is_array = match text.trim_ascii_start().as_bytes().first() {
            None => return Err(Malformed::Empty),
            Some(first) => *first == b'[',
        };
        let mut request = Self {
            valid: Vec::new(),
            invalid: Vec::new(),
            is_array,
        };
        let mut add = |index, entry: JsonReaction<'a>| match entry.validate(emojis, names) {
            Ok(reaction) => request.valid.push((index, reaction)),
            Err(invalid) => request.invalid.push(Rejection {
                index,
                detail: invalid.to_string(),
                kind: RejectionKind::Invalid,
            }),
        };
        if !is_array {
            add(0, JsonReaction::read(text).map_err(unread)?);
            return Ok(request);
        }
        let count = match entries(text, &mut add) {
            Ok(count) => count,
            Err(_) => {
                request.valid.clear();
                request.invalid.clear();
                request
                    .parse_one_by_one(text, emojis, names)
                    .map_err(unread)?
            }
        };
        if count > MAX_REQUEST_REACTIONS {
            return Err(Malformed::TooMany);
        }
        Ok(request)
    }

    /// Parses an array entry by entry, after the whole array could not be parsed at once. Then either the array is not
    /// JSON, or an entry contains JSON that no Rust type can represent (`1e999`, half a surrogate pair). Such a value
    /// makes only its own entry invalid.
    fn parse_one_by_one(
        &mut self,
        text: &'a str,
        emojis: &EmojiNames,
        names: FieldNames,
    ) -> Result<usize, serde_json::Error> {
        entries(text, |index, raw: &'a RawValue| {
            let entry = serde_json::from_str::<JsonReaction<'a>>(raw.get());
            let read = entry
                .map_err(|error| format!("cannot be read: {error} (position within this entry)"));
            let valid = read.and_then(|entry| {
                let valid = entry.validate(emojis, names);
                valid.map_err(|invalid| invalid.to_string())
            });
            match valid {
                Ok(reaction) => self.valid.push((index, reaction)),
                Err(detail) => self.invalid.push(Rejection {
                    index,
                    detail,
                    kind: RejectionKind::Invalid,
                }),
            }
        })
    }

    /// Returns the valid entries that `principal` may send, and the rejections of all other entries.
    pub(crate) fn allowed(
        self,
        principal: &Principal,
    ) -> (Vec<(usize, ParsedReaction<'a>)>, Vec<Rejection>) {
        let (mut allowed, mut rejected) = (self.valid, self.invalid);
        allowed.retain(|(index, reaction)| {
            let Some(detail) = forbidden(reaction, principal) else {
                return true;
            };
            rejected.push(Rejection {
                index: *index,
                detail,
                kind: RejectionKind::Forbidden,
            });
            false
        });
        (allowed, rejected)
    }
}

/// Returns the reason why `principal` may not send a reaction.
fn forbidden(reaction: &ParsedReaction<'_>, principal: &Principal) -> Option<String> {
    if !principal.is_user(&reaction.user) {
        return Some("user_id is not the token's sub".to_owned());
    }
    let room = &*reaction.room;
    (!principal.can_access_room(room))
        .then(|| format!("the token does not give access to room \"{room}\""))
}

/// Passes the entries of an array to `visit`, and counts them.
fn entries<'de, T, F>(text: &'de str, visit: F) -> Result<usize, serde_json::Error>
where
    T: Deserialize<'de>,
    F: FnMut(usize, T),
{
    let mut json = serde_json::Deserializer::from_str(text);
    let count = json.deserialize_seq(Entries(visit, PhantomData))?;
    json.end()?;
    Ok(count)
}

/// Visitor that passes each entry of an array to a function when the entry is parsed, so that the whole array is never
/// in memory. Entries after the first [`MAX_REQUEST_REACTIONS`] are only counted.
struct Entries<T, F>(F, PhantomData<T>);

impl<'de, T: Deserialize<'de>, F: FnMut(usize, T)> Visitor<'de> for Entries<T, F> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of reactions")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<usize, A::Error> {
        let mut count = 0;
        while count < MAX_REQUEST_REACTIONS {
            let Some(entry) = array.next_element()? else {
                return Ok(count);
            };
            (self.0)(count, entry);
            count += 1;
        }
        while array.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"{"user_id":1,"emoji_type":"🔥"}"#;

    fn read(body: &(impl AsRef<[u8]> + ?Sized)) -> Result<ReactionRequest<'_>, String> {
        let emojis = EmojiNames::default();
        ReactionRequest::parse(body.as_ref(), &emojis, FieldNames::V1)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_object_or_an_array_of_objects_is_parsed() {
        let one = read(GOOD).unwrap();
        assert_eq!((one.valid.len(), one.is_array), (1, false));
        let body = format!(" [{GOOD},{GOOD} , {GOOD}]\n");
        let three = read(&body).unwrap();
        assert_eq!((three.valid.len(), three.is_array), (3, true));
        for body in [format!("\u{feff}{GOOD}"), format!("\u{feff} [{GOOD}]")] {
            assert_eq!(read(&body).unwrap().valid.len(), 1);
        }
        let none = read("[]").unwrap();
        assert_eq!((none.valid.len(), none.invalid.len()), (0, 0));
    }

    #[test]
    fn an_invalid_entry_does_not_affect_the_others() {
        let body = format!(r#"[{GOOD},7,{GOOD},{{"user_id":1}},null]"#);
        let request = read(&body).unwrap();
        assert_eq!(request.valid.len(), 2);
        let places: Vec<usize> = request.invalid.iter().map(|bad| bad.index).collect();
        assert_eq!(places, [1, 3, 4]);
        assert_eq!(request.invalid[1].detail, "emoji_type is required");
    }

    #[test]
    fn json_that_no_value_can_represent_affects_its_own_entry_only() {
        let digits = "9".repeat(1000);
        let bodies = [
            r#"{"user_id":1,"emoji_type":"🔥","timestamp":1e999}"#.to_owned(),
            format!(r#"{{"user_id":{digits},"emoji_type":"🔥"}}"#),
            r#"{"user_id":"\ud800","emoji_type":"🔥"}"#.to_owned(),
        ];
        for bad in bodies {
            let body = format!("[{GOOD},{bad},{GOOD}]");
            let request = read(&body).unwrap();
            assert_eq!(
                (request.valid.len(), request.invalid.len()),
                (2, 1),
                "{bad}"
            );
            assert_eq!(request.invalid[0].index, 1);
            let detail = &request.invalid[0].detail;
            assert!(detail.starts_with("cannot be read: "), "{detail}");
        }
        let alone = read(r#"{"user_id":"\ud800","emoji_type":"🔥"}"#).unwrap_err();
        let start = "the body is JSON, but a value in it cannot be read: ";
        assert!(alone.starts_with(start), "{alone}");
        let body = format!(r#"[{GOOD},{{"user_id":1e999}},]"#);
        let error = read(&body).unwrap_err();
        assert!(error.contains("trailing comma"), "{error}");
    }

    #[test]
    fn a_malformed_body_is_refused_with_the_position() {
        let many = format!("[{}]", vec![GOOD; 1001].join(","));
        for (body, start) in [
            ("", "the body is empty"),
            (" \n", "the body is empty"),
            ("\u{feff}", "the body is empty"),
            (
                r#"{"user_id":1,}"#,
                "the body is not JSON: trailing comma at line 1",
            ),
            (
                "[{]",
                "the body is not JSON: key must be a string at line 1 column 3",
            ),
            ("[1,", "the body is not JSON: EOF"),
            (
                "[] []",
                "the body is not JSON: trailing characters at line 1 column 4",
            ),
            ("{} {}", "the body is not JSON: trailing characters"),
            (
                "user=1",
                "the body is not JSON: expected value at line 1 column 1",
            ),
            (&many, "the array has more than 1000 reactions"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.starts_with(start), "{body:.40}: {error}");
        }
        assert_eq!(
            read(b"{\"x\":\"\xff\"}").unwrap_err(),
            "the body is not UTF-8 at byte 6"
        );
        let thousand = format!("[{}]", vec![GOOD; 1000].join(","));
        assert_eq!(read(&thousand).unwrap().valid.len(), 1000);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_result(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&body);
        }

        #[test]
        fn every_entry_of_an_array_is_either_valid_or_invalid(
            entries in proptest::collection::vec(
                prop_oneof![Just(GOOD), Just("{}"), Just("[[1]]"), Just("-1e9"), Just("\"a\"")], 0..50,
            ),
        ) {
            let body = format!("[{}]", entries.join(","));
            let request = read(&body).unwrap();
            let is_bad = |(_, entry): &(usize, &&str)| **entry != GOOD;
            let bad = entries.iter().enumerate().filter(is_bad).map(|(index, _)| index);
            prop_assert_eq!(
                request.invalid.iter().map(|bad| bad.index).collect::<Vec<_>>(),
                bad.collect::<Vec<_>>()
            );
            prop_assert_eq!(request.valid.len() + request.invalid.len(), entries.len());
        }
    }
}
