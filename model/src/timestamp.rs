//! Parses the times that clients send, in several notations.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Numbers below this limit are Unix seconds, and other numbers are Unix milliseconds. The limit itself is in the year
/// 5138 if it is seconds, and in 1973 if it is milliseconds, so current times are never confused.
const SECONDS_LIMIT: f64 = 1e11;

/// The last time with a year of four digits: 9999-12-31T23:59:59.999Z.
const LAST_MS: f64 = 253_402_300_799_999.0;

const EXPECTED: &str = "expected Unix seconds or milliseconds, RFC 3339, or YYYY-MM-DD HH:MM:SS";

/// Converts Unix seconds or milliseconds to Unix milliseconds.
pub(crate) fn from_number(number: f64) -> Result<u64, &'static str> {
    let ms = if number < SECONDS_LIMIT {
        number * 1000.0
    } else {
        number
    };
    if (0.0..=LAST_MS).contains(&ms) {
        Ok(ms as u64)
    } else {
        Err("is out of range: expected Unix seconds or milliseconds between 1970 and 9999")
    }
}

/// Parses a time in the format of RFC 3339, or of ISO 8601 without a time zone (`T` or a space between date and time).
/// A time without a time zone is in UTC. Returns Unix milliseconds.
///
/// The error names the expected notations.
pub fn from_text(text: &str) -> Result<u64, &'static str> {
    let zoned = text.parse::<Timestamp>();
    let time = match zoned {
        Ok(time) => time,
        Err(_) => without_zone(text).ok_or(EXPECTED)?,
    };
    u64::try_from(time.as_millisecond()).map_err(|_| EXPECTED)
}

fn without_zone(text: &str) -> Option<Timestamp> {
    let local: DateTime = text.parse().ok()?;
    TimeZone::UTC.to_timestamp(local).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME_MS: u64 = 1_764_000_000_123;

    #[test]
    fn all_notations_of_the_interface_give_the_same_time() {
        for text in [
            "2025-11-24T16:00:00.123Z",
            "2025-11-24t16:00:00.123z",
            "2025-11-24T18:00:00.123+02:00",
            "2025-11-24T16:00:00.123",
            "2025-11-24 16:00:00.123",
            "2025-11-24 16:00:00.123456",
        ] {
            assert_eq!(from_text(text), Ok(TIME_MS), "{text}");
        }
        assert_eq!(from_text("2025-11-24 16:00:00"), Ok(1_764_000_000_000));
        assert_eq!(from_number(1_764_000_000_123.0), Ok(TIME_MS));
        assert_eq!(from_number(1_764_000_000.0), Ok(1_764_000_000_000));
        assert_eq!(from_number(1_764_000_000.5), Ok(1_764_000_000_500));
        assert_eq!(from_number(0.0), Ok(0));
    }

    #[test]
    fn texts_and_numbers_that_are_not_times_are_errors() {
        for number in [-1.0, 1e15, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(from_number(number).is_err(), "{number}");
        }
        for text in [
            "now",
            "12:00",
            "2025-13-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "🔥",
            " ",
        ] {
            assert!(from_text(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_time_or_an_error(text in "\\PC*") {
            let _ = from_text(&text);
        }

        #[test]
        fn a_time_written_in_rfc_3339_is_read_back(ms in 0_u64..253_402_300_799_999) {
            let time = Timestamp::from_millisecond(ms as i64).unwrap_or_default();
            prop_assert_eq!(from_text(&time.to_string()), Ok(ms));
        }
    }
}
