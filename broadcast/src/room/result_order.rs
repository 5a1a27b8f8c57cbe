//! Which of two results of a room is the later one.

use emostream_log::Record;
use emostream_model::{RESETS_HEADER, Window};

/// A result's place among the results of its room. After each reset of the dataflow to an earlier time, windows
/// begin earlier again: so the number of such resets comes first, and the window second. Offsets tell the order
/// only within a partition, and a room changes its partition when its topic gets more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ResultOrder {
    /// The number of backward resets before the result.
    pub(crate) resets: u64,
    pub(crate) start_ms: u64,
}

impl ResultOrder {
    pub(crate) fn new(resets: u64, window: Window) -> Self {
        Self {
            resets,
            start_ms: window.start,
        }
    }

    /// The order of a record that holds a result of `window`.
    pub(crate) fn of(record: &Record<'_>, window: Window) -> Self {
        Self::new(resets(record), window)
    }
}

/// The number of backward resets before a result was written.
pub(crate) fn resets(record: &Record<'_>) -> u64 {
    let headers = record.headers.read();
    let number = headers.iter().find(|header| header.name == RESETS_HEADER);
    let text = number.and_then(|number| std::str::from_utf8(&number.value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use emostream_log::Header;

    fn of(value: &'static str) -> u64 {
        let header = Header {
            name: RESETS_HEADER.to_owned(),
            value: value.into(),
        };
        resets(&Record {
            partition: 0,
            offset: 0,
            time_ms: 0,
            key: None,
            value: &[],
            headers: &vec![header],
        })
    }

    #[test]
    fn a_later_reset_number_comes_after_a_later_window() {
        let window = |start| Window {
            start,
            end: start + 2000,
        };
        assert!(ResultOrder::new(1, window(0)) > ResultOrder::new(0, window(8000)));
        assert!(ResultOrder::new(1, window(2000)) > ResultOrder::new(1, window(0)));
    }

    #[test]
    fn a_record_whose_number_cannot_be_read_counts_as_before_any_reset() {
        assert_eq!(["12", "", "-1", "many"].map(of), [12, 0, 0, 0]);
    }
}
