//! How results are cut, as `hello` tells it: how long a window is, and how many alike make a swarm.
//!
//! ```text
//!  what is known at the start ──▶ shape ◀── each result that comes
//! ```
//!
//! A publisher outlives dataflows, and the next one may have other settings. So results know better than
//! what was known at the start.

use emostream_model::WindowRecord;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) window_ms: u64,
    pub(crate) swarm_size: u64,
    /// How often a live tally comes at most; no result tells that.
    pub(crate) live_ms: u64,
}

impl Shape {
    /// Looks at a result that has come.
    pub(crate) fn follow(&mut self, result: &WindowRecord) {
        let window = result.window;
        let window_ms = window.end.saturating_sub(window.start);
        if window_ms == 0 {
            return;
        }
        self.window_ms = window_ms;
        // Where nothing makes a swarm, nothing tells how large one would be.
        let sizes = result.counts.iter().filter_map(|tally| {
            let in_swarms = tally.count.checked_sub(tally.loose)?;
            in_swarms.checked_div(tally.swarms).filter(|size| *size > 0)
        });
        if let Some(size) = sizes.max() {
            self.swarm_size = size;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use emostream_model::{Emoji, Room, Window, WindowSize, compress};
    use proptest::prelude::*;

    fn result(at_ms: u64, window_ms: u64, count: u64, swarm_size: u64) -> WindowRecord {
        WindowRecord {
            room: Room::default(),
            window: WindowSize::from_ms(window_ms).unwrap().window_of(at_ms),
            emitted_at: None,
            total: count,
            counts: vec![compress(Emoji::from_text("🔥").unwrap(), count, swarm_size)],
        }
    }

    fn shape(swarm_size: u64) -> Shape {
        Shape {
            window_ms: 2000,
            swarm_size,
            live_ms: 250,
        }
    }

    #[test]
    fn the_newest_result_tells_how_long_windows_are() {
        let mut shape = shape(1000);
        shape.follow(&result(12_000, 3000, 5, 1000));
        assert_eq!((shape.window_ms, shape.swarm_size), (3000, 1000));
        let nothing = WindowRecord {
            window: Window { start: 5, end: 5 },
            ..result(0, 1, 5, 10)
        };
        shape.follow(&nothing);
        assert_eq!((shape.window_ms, shape.swarm_size), (3000, 1000));
    }

    proptest! {
        #[test]
        fn whoever_sees_a_swarm_knows_how_large_it_is(count in 1_u64..100_000, size in 1_u64..5000) {
            let mut shape = shape(7);
            shape.follow(&result(0, 2000, count, size));
            prop_assert_eq!(shape.swarm_size, if count >= size { size } else { 7 });
        }
    }
}
