//! Tallies, and swarms: many identical emojis compressed.

use bincode::Encode;
use serde::{Deserialize, Serialize};

use crate::Emoji;

/// The count of one emoji in one room and window: `count = swarms × swarm size + loose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Encode)]
pub struct Tally {
    /// Which emoji.
    pub emoji: Emoji,
    /// How many.
    pub count: u64,
    /// How many whole swarms of them.
    pub swarms: u64,
    /// How many are left over.
    pub loose: u64,
}

/// Compresses every `swarm_size` identical emojis into a swarm. A size of 0 makes no swarms.
pub fn compress(emoji: Emoji, count: u64, swarm_size: u64) -> Tally {
    let swarms = count.checked_div(swarm_size).unwrap_or(0);
    Tally {
        emoji,
        count,
        swarms,
        loose: count - swarms * swarm_size,
    }
}

/// The order of every list of counts: the greatest count first, equal counts by the emoji's text.
pub fn sort_counts<T>(counts: &mut [T], key: impl Fn(&T) -> (u64, Emoji)) {
    counts.sort_unstable_by(|a, b| {
        let ((count_a, emoji_a), (count_b, emoji_b)) = (key(a), key(b));
        count_b.cmp(&count_a).then_with(|| emoji_a.cmp(&emoji_b))
    });
}
