//! Results for tests.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use emostream_model::{Emoji, RelayFinal, ResultId, Room, WindowRecord, WindowSize, compress};

/// Returns a result of the `nth` window of 10 ms, with one 🔥.
pub(crate) fn record(nth: u64, emitted_at: Option<u64>) -> WindowRecord {
    record_of(nth, 1, emitted_at)
}

/// Returns a result of the `nth` window of 10 ms, with `count` 🔥.
pub(crate) fn record_of(nth: u64, count: u64, emitted_at: Option<u64>) -> WindowRecord {
    WindowRecord {
        room: Room::default(),
        window: WindowSize::from_ms(10).unwrap().window_of(10 * nth),
        emitted_at,
        total: count,
        counts: vec![compress(Emoji::from_text("🔥").unwrap(), count, 1000)],
    }
}

/// Returns a final result that was written at `written_ms`, before any backward reset. The totals of its room do not
/// begin with it.
pub(crate) fn closed(id: ResultId, written_ms: u64, record: WindowRecord) -> RelayFinal {
    RelayFinal {
        id,
        written_ms,
        resets: 0,
        begins: false,
        record,
    }
}
