//! Fast path of the reaction parser. It parses one flat object whose values are unsigned integers or strings without
//! escapes, as most producers send it. `make bench FIGURE=decode` measures the time that this parser saves.
//!
//! Invariant: for a text that this parser accepts, `serde_json` returns the same reaction. The caller passes all other
//! texts to `serde_json`.

use std::borrow::Cow;

use super::{JsonReaction, Value};

/// Parses `json` if it has the flat shape. `None` does not mean that the text is not JSON: `serde_json` may still
/// accept it.
pub(super) fn read(json: &str) -> Option<JsonReaction<'_>> {
    let mut scanner = Scanner { json, at: 0 };
    let mut entry = JsonReaction::default();
    scanner.skip(b'{')?;
    loop {
        scanner.skip(b'"')?;
        let name = scanner.string()?;
        scanner.skip(b':')?;
        let value = scanner.value()?;
        match name {
            "user_id" => entry.user_id = value,
            "client_id" => entry.client_id = value,
            "user" => entry.user = value,
            "emoji_type" => entry.emoji_type = value,
            "emoji" => entry.emoji = value,
            "timestamp" => entry.timestamp = value,
            "room" => entry.room = value,
            _ => {}
        }
        if scanner.skip(b',').is_none() {
            break;
        }
    }
    scanner.skip(b'}')?;
    scanner.skip_white_space();
    (scanner.at == json.len()).then_some(entry)
}

/// A parser's position in the text.
struct Scanner<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn skip_white_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips white space, and then `byte`. If another byte follows the white space, skips only the white space and
    /// returns `None`.
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.skip_white_space();
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    /// Parses the string whose opening quote was skipped.
    fn string(&mut self) -> Option<&'a str> {
        let from = self.at;
        let bytes = &self.json.as_bytes()[from..];
        let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        let length = bytes.iter().position(special)?;
        if bytes[length] != b'"' {
            return None;
        }
        self.at = from + length + 1;
        self.json.get(from..from + length)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        if self.skip(b'"').is_some() {
            return self.string().map(|text| Value::Text(Cow::Borrowed(text)));
        }
        self.number().map(Value::Unsigned)
    }

    /// Parses an unsigned integer. Returns `None` for a number with a sign, leading zero, fraction or exponent, and for
    /// one that exceeds 64 bits.
    fn number(&mut self) -> Option<u64> {
        let from = self.at;
        let mut number = 0_u64;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            number = number
                .checked_mul(10)?
                .checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        let digits = &self.json[from..self.at];
        let whole = !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        let plain = digits == "0" || !digits.is_empty() && !digits.starts_with('0');
        (whole && plain).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flat_reaction_is_parsed() {
        let json =
            r#"{"user_id":"u-17","emoji_type":"🔥","timestamp":1764000000123,"room":"match-7"}"#;
        assert_eq!(read(json), serde_json::from_str(json).ok());
        assert!(read(json).is_some());
        assert!(read(r#" { "user_id" : 7 , "x" : "y" } "#).is_some());
    }

    #[test]
    fn other_shapes_are_left_to_serde_json() {
        for json in [
            "",
            "{",
            "{}",
            "[]",
            "7",
            r#"{"user_id":"a\n"}"#,
            r#"{"user_id":-1}"#,
            r#"{"user_id":1.0}"#,
            r#"{"user_id":1e3}"#,
            r#"{"user_id":01}"#,
            r#"{"user_id":null}"#,
            r#"{"user_id":1}x"#,
            r#"{"user_id":1,}"#,
            r#"{"user_id":99999999999999999999}"#,
            r#"{"user_id":{}}"#,
            r#"{"a":"b"#,
        ] {
            assert_eq!(read(json), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn accepted_texts_are_parsed_as_by_serde_json(
            json in r#" ?\{ ?"(user_id|user|emoji|room|x|timestamp)" ?: ?("[a-z🔥\\]{0,3}"|[0-9]{0,21}|-1|null|[0-9.e]{1,4}) ?(, ?"(user_id|emoji_type|room|client_id)" ?: ?("[a-z]{0,3}"|[0-9]{1,3}) ?){0,3}[,}]? ?"#
        ) {
            if let Some(entry) = read(&json) {
                prop_assert_eq!(entry, serde_json::from_str::<JsonReaction<'_>>(&json).unwrap());
            }
        }

        #[test]
        fn any_text_is_parsed_as_by_serde_json_or_left_to_it(json in r#"[{}",:0-9a-z_ \\🔥-]{0,40}"#) {
            if let Some(entry) = read(&json) {
                prop_assert_eq!(entry, serde_json::from_str::<JsonReaction<'_>>(&json).unwrap());
            }
        }
    }
}
