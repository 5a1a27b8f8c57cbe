//! Fuzz test of the timestamp parser. Its results are compared with times that are computed by counting days.

use emostream_model::parse_timestamp;
use proptest::prelude::*;

use super::{damage::damaged, fuzz};

/// A timestamp as a client writes it. The month and the day may be invalid.
#[derive(Debug, Clone)]
struct Timestamp {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    fraction: String,
    separator: char,
    /// The zone as text, and its offset from UTC in minutes.
    zone: (String, i64),
}

fn zone() -> impl Strategy<Value = (String, i64)> {
    let ahead = (0_i64..24, 0_i64..60, any::<bool>()).prop_map(|(hours, minutes, east)| {
        let (sign, side) = if east { ('+', 1) } else { ('-', -1) };
        let text = format!("{sign}{hours:02}:{minutes:02}");
        (text, side * (hours * 60 + minutes))
    });
    prop_oneof![
        Just((String::new(), 0)),
        Just(("Z".to_owned(), 0)),
        Just(("z".to_owned(), 0)),
        ahead,
    ]
}

fn timestamp() -> impl Strategy<Value = Timestamp> {
    let date = (1900_i64..9999, 0_i64..=13, 0_i64..=32);
    let time = (0_i64..24, 0_i64..60, 0_i64..60);
    let separator = proptest::sample::select(vec!['T', 't', ' ']);
    (date, time, "([.][0-9]{1,9})?", separator, zone()).prop_map(
        |((year, month, day), (hour, minute, second), fraction, separator, zone)| Timestamp {
            year,
            month,
            day,
            hour,
            minute,
            second,
            fraction,
            separator,
            zone,
        },
    )
}

impl Timestamp {
    fn text(&self) -> String {
        format!(
            "{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}",
            self.year,
            self.month,
            self.day,
            self.separator,
            self.hour,
            self.minute,
            self.second,
            self.fraction,
            self.zone.0
        )
    }

    /// Computes the time in Unix milliseconds by counting days. Returns `None` for an invalid date, or for a time
    /// before 1970.
    fn ms(&self) -> Option<u64> {
        if !(1..=12).contains(&self.month) || !(1..=days(self.year, self.month)).contains(&self.day)
        {
            return None;
        }
        let years: i64 = (1900..self.year).map(days_of_year).sum();
        let months: i64 = (1..self.month).map(|month| days(self.year, month)).sum();
        // 25567 days lie between 1900-01-01 and 1970-01-01.
        let days = years + months + self.day - 1 - 25_567;
        let minutes = (days * 24 + self.hour) * 60 + self.minute - self.zone.1;
        let digits: String = self
            .fraction
            .chars()
            .skip(1)
            .chain("000".chars())
            .take(3)
            .collect();
        let ms = (minutes * 60 + self.second) * 1000 + digits.parse::<i64>().unwrap();
        ms.try_into().ok()
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && year % 100 != 0 || year % 400 == 0
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[test]
fn a_timestamp_is_parsed_as_the_calendar_defines_or_refused() {
    let whole = timestamp().prop_map(|timestamp| {
        let text = timestamp.text();
        (timestamp, text.into_bytes())
    });
    fuzz("timestamp", damaged(whole), |(timestamp, bytes, intact)| {
        let text = String::from_utf8_lossy(&bytes);
        let read = parse_timestamp(&text);
        if intact {
            prop_assert_eq!(read.ok(), timestamp.ms(), "{}", text);
        } else if let Ok(ms) = read {
            prop_assert!(ms < 253_402_300_800_000, "{text} is beyond the year 9999");
        }
        Ok(())
    });
}
