//! The settings of the dataflow's windows that `hello` contains: the length of a window, the size of a swarm.
//!
//! ```text
//!  configuration at the start ──▶ settings ◀── each result that is applied
//! ```
//!
//! A dataflow can be restarted with other settings while a publisher runs, so results override the configuration.

use emostream_model::{WindowRecord, WindowSettings};

/// Sets the length of a window and the size of a swarm to those of a result. A result does not show the interval of
/// live tallies, so that setting is not changed.
pub(super) fn observe(settings: &mut WindowSettings, result: &WindowRecord) {
    let window = result.window;
    let window_ms = window.end.saturating_sub(window.start);
    if window_ms == 0 {
        return;
    }
    settings.window_ms = window_ms;
    // A result without swarms does not show the size of a swarm, so the size is not changed.
    let sizes = result.counts.iter().filter_map(|tally| {
        let in_swarms = tally.count.checked_sub(tally.loose)?;
        in_swarms.checked_div(tally.swarms).filter(|size| *size > 0)
    });
    if let Some(size) = sizes.max() {
        settings.swarm_size = size;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
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

    fn settings(swarm_size: u64) -> WindowSettings {
        WindowSettings {
            window_ms: 2000,
            swarm_size,
            live_ms: 250,
        }
    }

    #[test]
    fn the_newest_result_sets_the_window_size() {
        let mut settings = settings(1000);
        observe(&mut settings, &result(12_000, 3000, 5, 1000));
        assert_eq!((settings.window_ms, settings.swarm_size), (3000, 1000));
        let nothing = WindowRecord {
            window: Window { start: 5, end: 5 },
            ..result(0, 1, 5, 10)
        };
        observe(&mut settings, &nothing);
        assert_eq!((settings.window_ms, settings.swarm_size), (3000, 1000));
    }

    proptest! {
        #[test]
        fn the_size_of_swarms_is_known_from_a_result(count in 1_u64..100_000, size in 1_u64..5000) {
            let mut settings = settings(7);
            observe(&mut settings, &result(0, 2000, count, size));
            prop_assert_eq!(settings.swarm_size, if count >= size { size } else { 7 });
        }
    }
}
