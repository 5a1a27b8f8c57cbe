//! Windows: tumbling spans of event time, aligned to the Unix epoch.

use std::num::NonZeroU64;

use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Serialize};

/// How long a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WindowSize(NonZeroU64);

impl WindowSize {
    /// Windows of `ms` milliseconds; `None` for 0.
    pub fn from_ms(ms: u64) -> Option<WindowSize> {
        NonZeroU64::new(ms).map(WindowSize)
    }

    /// Its length in milliseconds.
    pub fn as_ms(self) -> u64 {
        self.0.get()
    }

    /// The window that holds `at_ms`.
    pub fn window_of(self, at_ms: u64) -> Window {
        let start = at_ms - at_ms % self.0;
        Window {
            start,
            end: start.saturating_add(self.as_ms()),
        }
    }

    /// The first moment at or before `at_ms` where a window begins: what a watermark of `at_ms` has
    /// closed is every window that ends at or before it.
    pub fn floor(self, at_ms: u64) -> u64 {
        at_ms - at_ms % self.0
    }

    /// The first moment at or behind `at_ms` where a window begins.
    pub fn ceil(self, at_ms: u64) -> u64 {
        match at_ms % self.0 {
            0 => at_ms,
            _ => self.window_of(at_ms).end,
        }
    }
}

/// `[start, end)` in Unix milliseconds.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Encode,
    BorrowDecode,
)]
pub struct Window {
    /// Its first millisecond.
    pub start: u64,
    /// The first millisecond behind it.
    pub end: u64,
}

impl Window {
    /// The last millisecond of the window. Its results have this time: a frontier at or behind `end` has passed them,
    /// whatever the size of the window.
    pub fn last_ms(self) -> u64 {
        self.end - 1
    }
}
