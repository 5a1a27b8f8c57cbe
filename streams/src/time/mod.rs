//! Event time: watermarks, idle partitions, and the timers of operators.

pub mod clock;
pub mod holds;
pub mod idleness;
pub mod timers;

use jiff::Timestamp;

/// Formats a time, Unix milliseconds, for messages.
pub fn format_time(time_ms: u64) -> String {
    let time_ms = i64::try_from(time_ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(time_ms)
        .map_or_else(|_| format!("{time_ms} ms"), |at| at.to_string())
}
