//! Reads from a record which of two results of a room is the later one.

use emostream_log::Record;
use emostream_model::{RESETS_HEADER, ResultOrder, Window};

/// The order of a record that holds a result of `window`.
pub(crate) fn order_of(record: &Record<'_>, window: Window) -> ResultOrder {
    ResultOrder::new(resets(record), window)
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
    fn a_record_whose_number_cannot_be_read_counts_as_before_any_reset() {
        assert_eq!(["12", "", "-1", "many"].map(of), [12, 0, 0, 0]);
    }
}
