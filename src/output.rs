//! Standard output, whose reader may go away (`| head`): then the command ends quietly. And standard error,
//! which may be gone too.
//!
//! Invariant: text that comes from a topic or a peer is escaped before it reaches a terminal, which would
//! obey its control characters.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

use crate::exit::{Exit, Failure};

/// Writes `text` and ends well, also if nobody reads it.
pub(crate) fn say(text: &str) -> ExitCode {
    print(text).map_or_else(
        |failure| failure.map_or(ExitCode::SUCCESS, |f| f.exit.into()),
        |()| ExitCode::SUCCESS,
    )
}

/// Writes `text` now. `Err(None)` if the reader has gone: end quietly.
pub(crate) fn print(text: &str) -> Result<(), Option<Failure>> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => None,
        _ => Some(Failure::new(
            Exit::Unavailable,
            format!("standard output cannot be written: {error}"),
        )),
    })
}

/// `text` on one line without a character that a terminal obeys: each is written as `\u001b`, which is also
/// how JSON writes it, so that escaped JSON is the same JSON.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_obeyed(character) {
            true => {
                // Writing to a String does not fail.
                let _ = write!(escaped, "\\u{:04x}", u32::from(character));
            }
            false => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// Control characters of both sets, and what ends a line or turns the direction of the text behind it.
fn is_obeyed(character: char) -> bool {
    let separates = matches!(character, '\u{2028}' | '\u{2029}');
    let turns = matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    character.is_control() || separates || turns
}

/// Whether the terminal obeys more than line breaks: `TERM=dumb` says that it does not, and without `TERM` no
/// program knows how to talk to it.
pub(crate) fn can_be_drawn_on() -> bool {
    let terminal = std::env::var_os("TERM").unwrap_or_default();
    !terminal.is_empty() && terminal != "dumb"
}

/// A sentence for people on standard error, on one line.
pub(crate) fn complain(sentence: &str) {
    // Line breaks in what a library reports are spaces in a sentence.
    let words: Vec<&str> = sentence.split_whitespace().collect();
    // Not eprintln!, which panics if standard error is gone.
    let _ = writeln!(io::stderr(), "emostream: {}", escaped(&words.join(" ")));
}

/// What `print` says, as a command's end: a reader that has gone is a good end.
pub(crate) fn quietly(ended: Result<(), Option<Failure>>) -> Result<(), Failure> {
    match ended {
        Ok(()) | Err(None) => Ok(()),
        Err(Some(failure)) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn text_of_others_cannot_drive_the_terminal() {
        assert_eq!(escaped("room 🔥 ❤️ 👩‍🚒"), "room 🔥 ❤️ 👩‍🚒");
        assert_eq!(
            escaped("\x1b]0;owned\x07 \u{9b}2J\x7f\r\n\u{202e}"),
            "\\u001b]0;owned\\u0007 \\u009b2J\\u007f\\u000d\\u000a\\u202e"
        );
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({"text": "\x1b[31m \u{9b}2J \x7f \u{202e} \u{2028}"});
        let line = value.to_string();
        let read: serde_json::Value = serde_json::from_str(&escaped(&line)).unwrap();
        assert_eq!(read, value);
        assert_ne!(escaped(&line), line);
    }
}
