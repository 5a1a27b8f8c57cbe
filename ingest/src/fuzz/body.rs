//! Fuzz test of the body parser. Its results are compared with those of a simpler parser that uses `serde_json::Value`.

use emostream_model::{Emoji, EmojiNames, FieldNames, ParsedReaction, Room, parse_timestamp};
use proptest::{collection::vec, prelude::*, sample::select};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::{damage::damaged, fuzz};
use crate::{api::body::ReactionRequest, config::MAX_REQUEST_REACTIONS};

/// JSON values, common and unusual, as text.
fn value() -> impl Strategy<Value = String> + Clone {
    let odd = [
        "-0",
        "1e999",
        "-1E-999",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "-9223372036854775809",
        "1.5",
        "1764000000123",
        "1e11",
        "99999999999",
        r#""\ud83d\udd25""#,
        r#""\ud800""#,
        r#""\u0000""#,
        r#""fi\u0072e""#,
        r#""""#,
        "null",
        "true",
        "[]",
        "{}",
        "[[[[]]]]",
        r#"{"user_id":1,"user_id":[2]}"#,
        r#""2025-11-24 16:00:00""#,
        r#"":fire:""#,
    ];
    prop_oneof![
        2 => Just(r#""🔥""#.to_owned()),
        2 => "\"[a-z0-9]{0,5}\"",
        2 => "[1-9][0-9]{0,20}",
        1 => "-?[0-9]{1,20}[.][0-9]{1,9}(e[+-]?[0-9]{1,3})?",
        3 => select(odd.map(str::to_owned).to_vec()),
        1 => (120_usize..140).prop_map(|bytes| format!("\"{}\"", "u".repeat(bytes))),
        1 => (0_usize..300).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
    ]
}

fn object() -> impl Strategy<Value = String> + Clone {
    let names = [
        "user_id",
        "user_id",
        "client_id",
        "user",
        "emoji_type",
        "emoji_type",
        "emoji",
        "timestamp",
        "room",
        "room\\u0000",
        "user\\u005fid",
        "x",
        "",
    ];
    let field =
        (select(names.to_vec()), value()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let good = r#"{"user_id":1,"emoji_type":"🔥"}"#;
    prop_oneof![
        1 => Just(good.to_owned()),
        1 => vec(field.clone(), 0..5).prop_map(|fields| format!("{{{}}}", fields.join(","))),
        2 => vec(field, 0..4).prop_map(|fields| {
            let more: String = fields.iter().map(|field| format!(", {field}")).collect();
            format!(r#"{{ "user_id":"u","emoji_type":"fire"{more}}}"#)
        }),
    ]
}

fn bodies() -> impl Strategy<Value = String> {
    let entry = prop_oneof![6 => object(), 1 => value()];
    prop_oneof![
        2 => entry.clone(),
        4 => vec(entry, 0..12).prop_map(|entries| format!(" [{}]\n", entries.join(" ,"))),
        1 => object().prop_map(|entry| format!("\u{feff}{entry}")),
        1 => (990_usize..1010).prop_map(|count| format!("[{}]", vec!["{}"; count].join(","))),
    ]
}

/// Returns the fields of an entry by the documented rules; `None` if the entry must be rejected.
fn expected_reaction(
    entry: &Value,
    names: FieldNames,
) -> Option<(String, Emoji, String, Option<u64>)> {
    let fields = entry.as_object()?;
    let of = |own: &str, others: &[&str]| {
        let others = if names == FieldNames::V1 { &[] } else { others };
        let mut all = std::iter::once(own).chain(others.iter().copied());
        all.find_map(|name| fields.get(name).filter(|value| !value.is_null()))
    };
    let user = match of("user_id", &["client_id", "user"])? {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
        _ => return None,
    };
    let emoji = of("emoji_type", &["emoji"])?.as_str()?;
    let room = match of("room", &[]) {
        None => "default",
        Some(name) => name.as_str()?,
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    let claimed_ms = match of("timestamp", &[]) {
        None => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(text)) => Some(parse_timestamp(text).ok()?),
        Some(Value::Number(number)) => Some(moment(number.as_f64()?)?),
        Some(_) => return None,
    };
    let valid = (1..=128).contains(&user.len())
        && (1..=64).contains(&room.len())
        && room != "."
        && room != ".."
        && room.bytes().all(is_plain);
    let emoji = EmojiNames::default().resolve(emoji).ok()?;
    valid.then(|| (user, emoji, room.to_owned(), claimed_ms))
}

/// Converts Unix seconds or milliseconds to milliseconds. Numbers are milliseconds if they would be after the year 5138
/// as seconds. Returns `None` for times before 1970 or after the year 9999.
fn moment(number: f64) -> Option<u64> {
    let ms = if number < 1e11 {
        number * 1000.0
    } else {
        number
    };
    (0.0..253_402_300_800_000.0)
        .contains(&ms)
        .then_some(ms as u64)
}

fn fields_of(reaction: &ParsedReaction<'_>) -> (String, Emoji, String, Option<u64>) {
    let (user, room) = (reaction.user.to_string(), reaction.room.to_string());
    (user, reaction.emoji, room, reaction.claimed_ms)
}

fn check(body: &[u8], names: FieldNames) -> Result<(), TestCaseError> {
    let read = ReactionRequest::parse(body, &EmojiNames::default(), names);
    let text = std::str::from_utf8(body).unwrap_or("not JSON");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        prop_assert!(read.is_err(), "accepted, although it is not JSON");
        return Ok(());
    }
    let value = serde_json::from_str::<Value>(text);
    let Ok(request) = read else {
        // A JSON body may be refused as a whole in two cases only: it is an array with too many entries, or it is a
        // single value that no Rust type can represent.
        let entries = serde_json::from_str::<Vec<IgnoredAny>>(text);
        let refusable = match entries {
            Ok(entries) => entries.len() > MAX_REQUEST_REACTIONS,
            Err(_) => value.is_err(),
        };
        prop_assert!(refusable, "refused, although it is JSON");
        return Ok(());
    };
    let valid = request.valid.iter().map(|(index, _)| *index);
    let invalid = request.invalid.iter().map(|rejection| rejection.index);
    let mut indexes: Vec<usize> = valid.chain(invalid).collect();
    indexes.sort_unstable();
    prop_assert_eq!(&indexes, &(0..indexes.len()).collect::<Vec<_>>());
    let Ok(value) = value else {
        return Ok(());
    };
    let entries = match &value {
        Value::Array(entries) => entries.as_slice(),
        one => std::slice::from_ref(one),
    };
    prop_assert_eq!(indexes.len(), entries.len());
    let expected = entries.iter().enumerate().filter_map(|(index, entry)| {
        let reaction = expected_reaction(entry, names)?;
        Some((index, reaction))
    });
    let parsed = request
        .valid
        .iter()
        .map(|(index, reaction)| (*index, fields_of(reaction)));
    prop_assert_eq!(parsed.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    prop_assert!(
        request
            .valid
            .iter()
            .all(|(_, good)| Room::validate(&good.room).is_ok())
    );
    Ok(())
}

#[test]
fn a_body_is_parsed_as_documented_or_refused() {
    let whole = bodies().prop_map(|body| ((), body.into_bytes()));
    fuzz("body", damaged(whole), |((), body, _)| {
        check(&body, FieldNames::V1)?;
        check(&body, FieldNames::WithAliases)
    });
}
