//! Writes log lines to standard error, as text or as JSON.

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::json;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::output;

/// The flags for the level and the format of log lines.
#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// Log more: -v logs each step, -vv everything. RUST_LOG=target=level sets the level of a single target
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
    /// Format of the log lines
    #[arg(long, value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,
}

/// Format of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people
    Text,
    /// One JSON object per line
    Json,
}

impl LogFormat {
    /// Returns the format that the arguments or the environment variable `variable` set. It is determined before the
    /// other arguments are parsed: if they are invalid, the error is printed in this format, too.
    pub fn from_arguments(arguments: impl Iterator<Item = OsString>, variable: &str) -> Self {
        const FLAG: &str = "--log-format";
        let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
        let mut given = None;
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix(FLAG) {
                Some("") => given = arguments.next(),
                Some(rest) => given = rest.strip_prefix('=').map(str::to_owned).or(given),
                None => {}
            }
        }
        let given = given.or_else(|| std::env::var(variable).ok());
        match given.as_deref() {
            Some("json") => Self::Json,
            _ => Self::Text,
        }
    }

    /// Prints the reason why the process of `program` ends, as its last line on standard error.
    pub fn print_end(self, program: &str, message: &str, exit_code: i32) {
        match self {
            Self::Text => output::print_error(program, message),
            Self::Json => {
                let line = json_line("ERROR", message, json!({ "exit_code": exit_code }));
                // An error is ignored, since standard error may be closed.
                let _ = writeln!(io::stderr(), "{line}");
            }
        }
    }
}

/// Returns a line of the JSON log format.
pub fn json_line(level: &str, message: &str, mut fields: serde_json::Value) -> String {
    fields["timestamp"] = Timestamp::now().to_string().into();
    fields["level"] = level.into();
    fields["message"] = message.into();
    output::escaped(&fields.to_string()).into_owned()
}

impl LogFlags {
    /// Returns the format of the log lines.
    pub fn format(&self) -> LogFormat {
        self.log_format
    }

    /// Starts logging. `default_level` is the level without `-v`: INFO for servers, WARN for tools.
    pub fn start(&self, default_level: LevelFilter) {
        let level = match self.verbose {
            0 => default_level,
            1 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        let filter = EnvFilter::builder()
            .with_default_directive(level.into())
            .from_env_lossy();
        let colors = std::io::stderr().is_terminal() && output::can_be_drawn_on();
        let lines = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(colors)
            // The subscriber would report its errors by `eprintln!`, which panics if standard error is closed.
            .log_internal_errors(false)
            .with_writer(|| EscapedLines(io::stderr()));
        match self.log_format {
            LogFormat::Text => lines.compact().with_target(false).init(),
            LogFormat::Json => lines.json().flatten_event(true).init(),
        }
        // A user can enable the trace level by RUST_LOG. At this level, the HTTP client that fetches tokens for Kafka
        // logs whole requests, which contain the client's secret. So the trace level is disabled for libraries that use
        // the `log` crate.
        log::set_max_level(log::max_level().min(log::LevelFilter::Debug));
    }
}

/// A writer that escapes the control characters in log lines, because a line break in a field would start a forged
/// line. The ESC characters of the formatter's colors are not escaped. They cannot come from a field, since the
/// formatter escapes the ESC characters in fields.
struct EscapedLines<W>(W);

impl<W: Write> Write for EscapedLines<W> {
    /// Writes one line. The formatter passes exactly one whole line in each call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let colored = text.split('\x1b').map(output::escaped);
        let mut escaped = colored.collect::<Vec<_>>().join("\x1b");
        escaped.push('\n');
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn a_line_break_in_a_field_does_not_start_a_line() {
        let mut written = Vec::new();
        let line = "\x1b[33mWARN\x1b[0m from a peer: x\n\u{9b}2J ERROR forged\n";
        let bytes = EscapedLines(&mut written).write(line.as_bytes()).unwrap();
        assert_eq!(bytes, line.len());
        let expected = "\x1b[33mWARN\x1b[0m from a peer: x\\u000a\\u009b2J ERROR forged\n";
        assert_eq!(String::from_utf8(written).unwrap(), expected);
    }

    #[test]
    fn the_format_is_known_if_other_arguments_are_invalid() {
        for (arguments, expected) in [
            (
                &["up", "--nonsense", "--log-format", "json"][..],
                LogFormat::Json,
            ),
            (&["--log-format=json", "nothing"], LogFormat::Json),
            (&["up", "--log-format", "text"], LogFormat::Text),
            (&["up", "--log-format"], LogFormat::Text),
        ] {
            let arguments = arguments.iter().map(OsString::from);
            let found = LogFormat::from_arguments(arguments, "NO_SUCH_VARIABLE");
            assert_eq!(found, expected);
        }
    }
}
