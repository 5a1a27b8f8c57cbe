//! Parsers of flag values (rates, times), and functions that format durations and times for people.

use std::{str::FromStr, time::Duration};

use emostream_app::flags::parse::{duration, ms};
use jiff::Timestamp;

/// Formats a duration as a whole number of the greatest possible unit: `1 d`, `2 h`, `90 s`.
pub(crate) fn span(span: Duration) -> String {
    let ms = span.as_millis();
    let units = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "min"),
        (1000, "s"),
    ];
    let exact = units
        .iter()
        .find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit));
    exact.map_or_else(
        || format!("{ms} ms"),
        |(unit, name)| format!("{} {name}", ms / unit),
    )
}

/// Formats milliseconds as [`span`] does.
pub(crate) fn span_ms(ms: u64) -> String {
    span(Duration::from_millis(ms))
}

/// A rate of events, parsed from `5000/s`, `300/m`, or `5000` (per second).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
}

/// Maximum rate. It is higher than the rate that one machine can send. Up to this rate, the arithmetic of the schedule
/// is exact.
pub(crate) const MAX_PER_SECOND: f64 = 10_000_000.0;

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not a rate; write 5000/s or 30/m";
        let (number, seconds) = match text.trim().split_once('/') {
            None => (text.trim(), 1.0),
            Some((number, "s")) => (number, 1.0),
            Some((number, "m" | "min")) => (number, 60.0),
            Some(_) => return Err(EXPECTED.to_owned()),
        };
        let number: f64 = number.replace('_', "").parse().map_err(|_| EXPECTED)?;
        let per_second = number / seconds;
        if per_second > 0.0 && per_second <= MAX_PER_SECOND {
            Ok(Self { per_second })
        } else {
            Err(format!("must be above 0 and at most {MAX_PER_SECOND}/s"))
        }
    }
}

/// The position at which a reader of a topic begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Start at the oldest record.
    Earliest,
    /// Start after the newest record.
    Latest,
    /// Start at the current time minus this duration.
    Ago(Duration),
    /// Start at this time, Unix milliseconds.
    At(u64),
}

impl FromStr for From {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(ago) = text.strip_prefix('-').and_then(|ago| duration(ago).ok()) {
            return Ok(Self::Ago(ago));
        }
        let moment = text.parse::<Timestamp>().ok();
        moment
            .and_then(|moment| u64::try_from(moment.as_millisecond()).ok())
            .map(Self::At)
            .ok_or_else(|| {
                "write earliest, latest, -10m, or a time such as 2026-01-31T20:15:00Z".to_owned()
            })
    }
}

impl From {
    /// Returns the time of the position (Unix milliseconds), for the current time `now_ms`; `None` for
    /// [`From::Earliest`] and [`From::Latest`].
    pub(crate) fn time_ms(self, now_ms: u64) -> Option<u64> {
        match self {
            Self::Earliest | Self::Latest => None,
            Self::Ago(ago) => Some(now_ms.saturating_sub(ms(ago))),
            Self::At(at_ms) => Some(at_ms),
        }
    }
}

/// Formats a time (Unix milliseconds) in UTC, to the second.
pub(crate) fn moment(at_ms: u64) -> String {
    let at = i64::try_from(at_ms).ok();
    let at = at.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or("never".to_owned(), |at| {
        at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
    })
}

/// Returns the current time, Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn rates_are_per_second_by_default() {
        for (text, per_second) in [("5000/s", 5000.0), ("5000", 5000.0), ("30/m", 0.5)] {
            assert_eq!(text.parse(), Ok(Rate { per_second }), "{text}");
        }
        for text in ["", "0/s", "-1/s", "5000/h", "fast", "NaN", "inf", "1e99/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_reader_begins_at_an_end_or_at_a_time() {
        assert_eq!("earliest".parse(), Ok(From::Earliest));
        assert_eq!("latest".parse(), Ok(From::Latest));
        let ten_minutes: From = "-10m".parse().unwrap();
        assert_eq!(ten_minutes.time_ms(700_000), Some(100_000));
        let moment: From = "2025-11-24T16:00:00.123Z".parse().unwrap();
        assert_eq!(moment.time_ms(0), Some(1_764_000_000_123));
        for text in ["", "-", "10m", "now", "2025-11-24", "1764000000"] {
            assert!(text.parse::<From>().is_err(), "{text}");
        }
    }
}
