//! Graceful shutdown: all subscribers are sent `bye` at once, each with another time at which to reconnect.
//!
//! The process then ends within a second or two, as an orchestrator expects, and the subscribers spread over
//! the remaining servers, or over the first seconds of the next one.

use std::time::Duration;

use emostream_model::Frame;
use rand::RngExt;

use crate::frame::encoded::EncodedFrame;

/// Minimum delay of a reconnect: a process that is restarted takes about so long.
const MIN_RETRY: Duration = Duration::from_millis(500);

/// How many subscribers reconnect a second, if `--drain` is long enough: a handshake takes 0.05 ms of CPU in the clear
/// and 0.8 ms with TLS, so a thousand leave most of a core for all else.
const RECONNECTS_PER_SECOND: u64 = 1000;

/// The time within which an audience reconnects.
pub(crate) fn reconnect_window(audience: u64, most: Duration) -> Duration {
    let even = Duration::from_millis(audience.saturating_mul(1000) / RECONNECTS_PER_SECOND);
    // Some seconds in any case: several servers may shut down at the same time.
    even.max(10 * MIN_RETRY).min(most)
}

/// The last frame of a subscriber: when to reconnect, at random within `window`.
pub(crate) fn goaway_frame(window: Duration) -> EncodedFrame {
    let ms = |span: Duration| span.as_millis() as u64;
    let latest = ms(window).max(ms(MIN_RETRY) + 1);
    let retry_ms = rand::rng().random_range(ms(MIN_RETRY)..latest);
    EncodedFrame::new(&Frame::Bye { retry_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_audience_is_back_soon_and_a_large_one_takes_its_time() {
        let most = Duration::from_secs(30);
        for (audience, seconds) in [(0, 5), (10, 5), (10_000, 10), (100_000, 30), (u64::MAX, 30)] {
            assert_eq!(
                reconnect_window(audience, most).as_secs(),
                seconds,
                "{audience}"
            );
        }
        assert_eq!(reconnect_window(9, Duration::from_secs(1)).as_secs(), 1);
    }

    proptest! {
        #[test]
        fn the_moment_lies_within_the_spread(spread_ms in 0_u64..40_000) {
            let bye = goaway_frame(Duration::from_millis(spread_ms));
            let json: serde_json::Value = serde_json::from_str(bye.json().as_str())
                .expect("a frame is JSON");
            let retry_ms = json["retry_ms"].as_u64().expect("a number");
            prop_assert!((500..spread_ms.max(501)).contains(&retry_ms));
        }
    }
}
