//! Graceful shutdown: all subscribers are sent `bye` at once, each with another time at which to reconnect.
//!
//! So the process ends within a second or two, as an orchestrator expects. The subscribers spread over the other
//! servers, or over the first seconds of the restarted one.

use std::time::Duration;

use emostream_model::Frame;
use rand::RngExt;

use crate::frame::encoded::EncodedFrame;

/// Minimum delay of a reconnect. It is about the time that the process needs to restart.
const MIN_RETRY: Duration = Duration::from_millis(500);

/// Number of subscribers that reconnect each second, if `--drain` is long enough. This number of handshakes takes less
/// than half of a core, even with TLS (`bench/README.md` has the cost of a handshake).
const RECONNECTS_PER_SECOND: u64 = 1000;

/// Returns the time within which an audience reconnects, which is at most `most`.
pub(crate) fn reconnect_window(audience: u64, most: Duration) -> Duration {
    let even = Duration::from_millis(audience.saturating_mul(1000) / RECONNECTS_PER_SECOND);
    // The window is at least some seconds long, since several servers may shut down at the same time.
    even.max(10 * MIN_RETRY).min(most)
}

/// Returns the last frame of a subscriber, with a random time within `window` at which to reconnect.
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
    fn the_reconnect_window_grows_with_the_audience() {
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
        fn the_time_to_reconnect_is_within_the_window(spread_ms in 0_u64..40_000) {
            let bye = goaway_frame(Duration::from_millis(spread_ms));
            let json: serde_json::Value = serde_json::from_str(bye.json().as_str())
                .expect("a frame is JSON");
            let retry_ms = json["retry_ms"].as_u64().expect("a number");
            prop_assert!((500..spread_ms.max(501)).contains(&retry_ms));
        }
    }
}
