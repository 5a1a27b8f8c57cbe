//! Windows: tumbling spans of event time, aligned to the Unix epoch.

use std::num::NonZeroU64;

use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Serialize};

/// The length of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WindowSize(NonZeroU64);

impl WindowSize {
    /// Returns the size of windows of `ms` milliseconds; `None` for 0.
    pub fn from_ms(ms: u64) -> Option<WindowSize> {
        NonZeroU64::new(ms).map(WindowSize)
    }

    /// Returns the length in milliseconds.
    pub fn as_ms(self) -> u64 {
        self.0.get()
    }

    /// Returns the window that contains `at_ms`.
    pub fn window_of(self, at_ms: u64) -> Window {
        let start = at_ms - at_ms % self.0;
        Window {
            start,
            end: start.saturating_add(self.as_ms()),
        }
    }

    /// Returns the latest start of a window at or before `at_ms`. A watermark of `at_ms` closes every window that ends
    /// at or before the returned time.
    pub fn floor(self, at_ms: u64) -> u64 {
        at_ms - at_ms % self.0
    }

    /// Returns the earliest start of a window at or after `at_ms`.
    pub fn ceil(self, at_ms: u64) -> u64 {
        match at_ms % self.0 {
            0 => at_ms,
            _ => self.window_of(at_ms).end,
        }
    }
}

/// A window of event time, `[start, end)`, in Unix milliseconds.
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
    /// The first millisecond of the window.
    pub start: u64,
    /// The first millisecond after the window.
    pub end: u64,
}

impl Window {
    /// Returns the last millisecond of the window. The results of the window have this timestamp. So a frontier at or
    /// after `end` has passed these results, whatever the window size is.
    pub fn last_ms(self) -> u64 {
        self.end - 1
    }
}
