//! The file of `--kafka-config`: librdkafka properties, in the format that kcat reads.
//!
//! ```text
//! # Confluent, MSK and other providers offer such files
//! security.protocol=SASL_SSL
//! sasl.mechanism=PLAIN
//! ```
//!
//! Spaces around names and values are ignored. There are no escape characters and no continuation lines.
//!
//! Invariant: no error message contains a line of the file, since it may contain a secret.

use std::path::Path;

use emostream_log::kafka::PropertiesFile;

use super::{parse::brokers, text_file};

/// Reads the file that `--kafka-config` names.
pub fn read(path: &str) -> Result<PropertiesFile, String> {
    let path = Path::new(path);
    let properties = parse(&text_file::contents(path)?)?;
    let file = PropertiesFile {
        path: path.to_owned(),
        properties,
    };
    match file.brokers().map(brokers) {
        Some(Err(why)) => Err(format!("bootstrap.servers: {why}")),
        _ => Ok(file),
    }
}

fn parse(text: &str) -> Result<Vec<(String, String)>, String> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let settings = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    settings
        .map(|(number, line)| {
            let parts = line.split_once('=');
            let parts = parts.map(|(key, value)| (key.trim(), value.trim()));
            match parts.filter(|(key, _)| is_name(key)) {
                Some((_, value)) if value.contains(char::is_control) => {
                    Err(format!("line {number} contains a control character"))
                }
                Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                None => Err(format!("line {number} is not KEY=VALUE")),
            }
        })
        .collect()
}

/// Whether the text looks like the name of a property. A line with another text before `=` may be part of a secret that
/// was pasted over several lines. Such a line is refused, and the message does not repeat it.
fn is_name(key: &str) -> bool {
    const ONE_WORD: [&str; 5] = ["acks", "debug", "log_level", "partitioner", "retries"];
    let is_part = |part: &str| {
        let mut bytes = part.bytes();
        !part.is_empty() && bytes.all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    ONE_WORD.contains(&key) || key.contains('.') && key.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_line_is_a_property_a_comment_or_blank() {
        let text = "# of Kafka\r\nsecurity.protocol=SASL_SSL\r\n\n  sasl.username = ada \n\t# no\nsasl.password=a=b#c\n=";
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(parse(text).unwrap_err(), "line 7 is not KEY=VALUE");
        lines.pop();
        let expected = [
            ("security.protocol", "SASL_SSL"),
            ("sasl.username", "ada"),
            ("sasl.password", "a=b#c"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(parse(&lines.join("\n")).unwrap(), expected);
    }

    #[test]
    fn a_line_that_is_not_a_property_is_named_by_its_number_and_not_repeated() {
        for line in [
            "sasl.password hunter2",
            "hunter2hunter2==",
            "hunter2.Hunter2=",
            "=hunter2",
        ] {
            let why = parse(&format!("debug=broker\n\n{line}\n")).unwrap_err();
            assert_eq!(why, "line 3 is not KEY=VALUE");
        }
        let why = parse("sasl.password=hunter2\0").unwrap_err();
        assert_eq!(why, "line 1 contains a control character");
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_first_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}bootstrap.servers=b:9092\n").unwrap();
        let read = read(file.path().to_str().unwrap()).unwrap();
        assert_eq!(read.brokers(), Some("b:9092"));
    }

    #[test]
    fn brokers_of_the_file_are_checked_like_those_of_the_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "bootstrap.servers=b\n").unwrap();
        let why = read(file.path().to_str().unwrap()).unwrap_err();
        assert!(why.contains("bootstrap.servers: write HOST:PORT"), "{why}");
        assert!(read("/no/such/file").unwrap_err().contains("No such file"));
    }
}
