//! Parsers of flag values (durations, rates, addresses, times), and the formats in which these are printed.

use std::{net::Ipv6Addr, str::FromStr, time::Duration};

use jiff::{Span, SpanRelativeTo, Timestamp};

/// Maximum duration of a flag: a year, so that sums of times cannot overflow.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses a duration of whole milliseconds above zero: `250ms`, `2s`, `10m`, `1h 30m`, `30d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = Span::from_str(text.trim())
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()))
        .map_err(|_| "not a duration; write 250ms, 2s, 10m or 30d".to_owned())?;
    match Duration::try_from(parsed) {
        Ok(duration) if duration.is_zero() => Err("must be longer than 0".to_owned()),
        Ok(duration) if duration > MAX_DURATION => Err("is longer than a year".to_owned()),
        Ok(duration) if !duration.subsec_nanos().is_multiple_of(1_000_000) => {
            Err("must be whole milliseconds".to_owned())
        }
        Ok(duration) => Ok(duration),
        Err(_) => Err("must be longer than 0".to_owned()),
    }
}

/// Returns a duration in whole milliseconds.
pub(crate) fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

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

/// Maximum rate, which is above what one machine can send. Up to this rate the arithmetic of the schedule is exact.
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

/// Returns the host and the port of `host:port`; `None` if the text has another form. An IPv6 address needs brackets;
/// otherwise its last group would be parsed as the port.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && !host.contains([':', '[', ']', '/', ','])
                && !host.contains(char::is_whitespace)
        }
    };
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    good.then_some((host, port))
}

/// Checks a list of `host:port`. This is necessary because librdkafka only logs an entry that it cannot parse.
pub(crate) fn brokers(text: &str) -> Result<String, String> {
    let good = |broker: &str| {
        let (host, port) = broker.rsplit_once(':')?;
        // A scheme of Kafka (`SASL_SSL://`) is accepted, as librdkafka does. An http or https scheme is refused,
        // because librdkafka waits forever if it does not know a scheme.
        let web = host.starts_with("http://") || host.starts_with("https://");
        (!host.is_empty() && !web && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
    };
    match text.split(',').all(|broker| good(broker.trim()).is_some()) {
        true => Ok(text.to_owned()),
        false => Err("write HOST:PORT, several separated by commas".to_owned()),
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
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("2s", 2000),
            ("10m", 600_000),
            ("1h 30m", 5_400_000),
            ("30d", 2_592_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "2", "-2s", "0s", "two", "2s!", "1ns", "2000000h", "∞"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

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
