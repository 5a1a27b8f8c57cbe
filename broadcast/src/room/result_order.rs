//! Reads from a record which of two results of a room is the later one, and where the totals of a room begin or end.

use emostream_log::Record;
use emostream_model::{
    REMOVED_HEADER, RESETS_HEADER, ResultOrder, Room, TOTALS_BEGIN_HEADER, Window,
};

/// The order of a record that holds a result of `window`.
pub(crate) fn order_of(record: &Record<'_>, window: Window) -> ResultOrder {
    ResultOrder::new(resets(record), window)
}

/// The number of backward resets before a result was written.
pub(crate) fn resets(record: &Record<'_>) -> u64 {
    number(record, RESETS_HEADER).unwrap_or(0)
}

/// Whether the totals of a room begin at 0 with the final in `record`.
pub(crate) fn totals_begin(record: &Record<'_>) -> bool {
    let headers = record.headers.read();
    headers
        .iter()
        .any(|header| header.name == TOTALS_BEGIN_HEADER)
}

/// Returns the room that a tombstone (a record without a value) removes from a compacted topic, and the order before
/// which its finals are removed. `None` if another program has deleted the key: then it is not known which finals are
/// removed.
pub(crate) fn removal(record: &Record<'_>) -> Option<(Room, ResultOrder)> {
    let key = std::str::from_utf8(record.key?).ok()?;
    let before = ResultOrder {
        resets: resets(record),
        start_ms: number(record, REMOVED_HEADER)?,
    };
    Some((Room::from_record(key).ok()?, before))
}

/// Returns the latest order that is earlier than `before`. Windows begin at whole milliseconds.
pub(crate) fn just_before(before: ResultOrder) -> ResultOrder {
    let ResultOrder { resets, start_ms } = before;
    match (start_ms.checked_sub(1), resets.checked_sub(1)) {
        (Some(start_ms), _) => ResultOrder { resets, start_ms },
        (None, Some(resets)) => ResultOrder {
            resets,
            start_ms: u64::MAX,
        },
        (None, None) => before,
    }
}

/// Returns the decimal number in a header, if there is one.
fn number(record: &Record<'_>, name: &str) -> Option<u64> {
    let headers = record.headers.read();
    let header = headers.iter().find(|header| header.name == name)?;
    std::str::from_utf8(&header.value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_log::Header;

    fn header(name: &str, value: &'static str) -> Header {
        Header {
            name: name.to_owned(),
            value: value.into(),
        }
    }

    fn record<'a>(key: &'a str, headers: &'a Vec<Header>) -> Record<'a> {
        Record {
            partition: 0,
            offset: 0,
            time_ms: 0,
            key: Some(key.as_bytes()),
            value: &[],
            headers,
        }
    }

    #[test]
    fn a_record_whose_number_cannot_be_read_counts_as_before_any_reset() {
        let of = |value| resets(&record("r", &vec![header(RESETS_HEADER, value)]));
        assert_eq!(["12", "", "-1", "many"].map(of), [12, 0, 0, 0]);
    }

    #[test]
    fn a_tombstone_is_parsed_as_a_room_and_an_order() {
        let of = |key, headers: Vec<Header>| removal(&record(key, &headers));
        let before = header(REMOVED_HEADER, "4000");
        let order = |resets, start_ms| ResultOrder { resets, start_ms };
        let room = Room::new("r").unwrap();
        let first = of("r", vec![before.clone()]);
        assert_eq!(first, Some((room.clone(), order(0, 4000))));
        let reset = of("r", vec![before.clone(), header(RESETS_HEADER, "2")]);
        assert_eq!(reset, Some((room, order(2, 4000))));
        assert_eq!(of("*", vec![before]), None, "not a room");
        assert_eq!(of("r", Vec::new()), None, "deleted by another program");
        assert_eq!(of("r", vec![header(REMOVED_HEADER, "soon")]), None);
    }

    #[test]
    fn the_order_just_before_another_is_the_latest_earlier_one() {
        let order = |resets, start_ms| ResultOrder { resets, start_ms };
        assert_eq!(just_before(order(1, 2000)), order(1, 1999));
        assert_eq!(just_before(order(1, 0)), order(0, u64::MAX));
        assert_eq!(just_before(order(0, 0)), order(0, 0));
    }
}
