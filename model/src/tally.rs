//! Tallies, and the swarms that each replace many identical emojis.

use bincode::Encode;
use serde::{Deserialize, Serialize};

use crate::Emoji;

/// The count of one emoji in one room and window: `count = swarms × swarm size + loose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Encode)]
pub struct Tally {
    /// The emoji.
    pub emoji: Emoji,
    /// The count of the emoji.
    pub count: u64,
    /// Number of swarms.
    pub swarms: u64,
    /// Number of emojis that are in no swarm.
    pub loose: u64,
}

/// Returns the tally of `count` emojis, grouped into swarms of `swarm_size` emojis. With a size of 0 there are no
/// swarms.
pub fn compress(emoji: Emoji, count: u64, swarm_size: u64) -> Tally {
    let swarms = count.checked_div(swarm_size).unwrap_or(0);
    Tally {
        emoji,
        count,
        swarms,
        loose: count - swarms * swarm_size,
    }
}

/// Sorts a list of counts as all results are sorted: the greatest count first, equal counts by the emoji's text.
pub fn sort_counts<T>(counts: &mut [T], key: impl Fn(&T) -> (u64, Emoji)) {
    counts.sort_unstable_by(|a, b| {
        let ((count_a, emoji_a), (count_b, emoji_b)) = (key(a), key(b));
        count_b.cmp(&count_a).then_with(|| emoji_a.cmp(&emoji_b))
    });
}
