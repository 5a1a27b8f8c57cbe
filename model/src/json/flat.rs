//! The usual shape of a reaction, read without a general parser: one object of strings without escapes
//! and of unsigned integers. That is what producers write; it takes a third of the time (bench/README.md).
//!
//! Invariant: what is read here, the general parser reads the same; whatever is unusual is left to it.

use std::borrow::Cow;

use super::{Entry, Value};

/// The entry, if `json` has the usual shape; `None` says nothing about whether it is JSON.
pub(super) fn read(json: &str) -> Option<Entry<'_>> {
    let mut rest = Rest { json, at: 0 };
    let mut entry = Entry::default();
    rest.skip(b'{')?;
    loop {
        rest.skip(b'"')?;
        let name = rest.string()?;
        rest.skip(b':')?;
        let value = rest.value()?;
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
        if rest.skip(b',').is_none() {
            break;
        }
    }
    rest.skip(b'}')?;
    rest.white();
    (rest.at == json.len()).then_some(entry)
}

/// What is not read yet.
struct Rest<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn white(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips white space and `byte`; stays before it if there is another.
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.white();
        (self.peek() == Some(byte)).then(|| self.at += 1)
    }

    /// The string whose opening quote has been skipped.
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

    /// An integer without a sign, a leading zero, a fraction or an exponent.
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_reaction_is_read_here() {
        let json =
            r#"{"user_id":"u-17","emoji_type":"🔥","timestamp":1764000000123,"room":"match-7"}"#;
        assert_eq!(read(json), serde_json::from_str(json).ok());
        assert!(read(json).is_some());
        assert!(read(r#" { "user_id" : 7 , "x" : "y" } "#).is_some());
    }

    #[test]
    fn the_unusual_is_left_to_the_parser() {
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
        fn what_is_read_here_the_parser_reads_the_same(
            json in r#" ?\{ ?"(user_id|user|emoji|room|x|timestamp)" ?: ?("[a-z🔥\\]{0,3}"|[0-9]{0,21}|-1|null|[0-9.e]{1,4}) ?(, ?"(user_id|emoji_type|room|client_id)" ?: ?("[a-z]{0,3}"|[0-9]{1,3}) ?){0,3}[,}]? ?"#
        ) {
            if let Some(entry) = read(&json) {
                prop_assert_eq!(entry, serde_json::from_str::<Entry<'_>>(&json).unwrap());
            }
        }

        #[test]
        fn any_text_is_read_as_the_parser_does_or_left(json in r#"[{}",:0-9a-z_ \\🔥-]{0,40}"#) {
            if let Some(entry) = read(&json) {
                prop_assert_eq!(entry, serde_json::from_str::<Entry<'_>>(&json).unwrap());
            }
        }
    }
}
