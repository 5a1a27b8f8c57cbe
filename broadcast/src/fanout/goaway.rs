//! Goodbye: everybody is sent away at once, and told to come back one after another.
//!
//! The process then ends within a second or two, as an orchestrator expects, and the crowd spreads over
//! those who are left, or over the next one's first seconds.

use std::time::Duration;

use emostream_model::Frame;
use rand::RngExt;

use crate::frame::encoded::Encoded;

/// Nobody is told to come back sooner: a process that is started anew needs about so long.
const SOONEST: Duration = Duration::from_millis(500);

/// How many come back a second, so few a crowd: a handshake costs 0.05 ms of CPU in the clear and 0.8 in
/// TLS, so a thousand leave room for all else. What is longer than `--drain` is cut to it.
const BACK_PER_SECOND: u64 = 1000;

/// Over how long an audience comes back.
pub(crate) fn spread(audience: u64, most: Duration) -> Duration {
    let even = Duration::from_millis(audience.saturating_mul(1000) / BACK_PER_SECOND);
    // Some seconds in any case: several servers may end at the same moment.
    even.max(10 * SOONEST).min(most)
}

/// What a subscriber is told before its connection ends: when to come back, within `spread`.
pub(crate) fn bye(spread: Duration) -> Encoded {
    let ms = |span: Duration| span.as_millis() as u64;
    let latest = ms(spread).max(ms(SOONEST) + 1);
    let retry_ms = rand::rng().random_range(ms(SOONEST)..latest);
    Encoded::new(&Frame::Bye { retry_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_small_audience_is_back_soon_and_a_large_one_takes_its_time() {
        let most = Duration::from_secs(30);
        for (audience, seconds) in [(0, 5), (10, 5), (10_000, 10), (100_000, 30), (u64::MAX, 30)] {
            assert_eq!(spread(audience, most).as_secs(), seconds, "{audience}");
        }
        assert_eq!(spread(9, Duration::from_secs(1)).as_secs(), 1);
    }

    proptest! {
        #[test]
        fn the_moment_lies_within_the_spread(spread_ms in 0_u64..40_000) {
            let bye = bye(Duration::from_millis(spread_ms));
            let json: serde_json::Value = serde_json::from_str(bye.json().as_str())
                .expect("a frame is JSON");
            let retry_ms = json["retry_ms"].as_u64().expect("a number");
            prop_assert!((500..spread_ms.max(501)).contains(&retry_ms));
        }
    }
}
