//! The producers of reactions: ingests, and other programs that may write to the topic.

use bytes::Bytes;
use emostream_log::NewRecord;
use emostream_model::{Batch, ReactionRef};
use rand::RngExt;

use super::{LATENESS_MS, Rng, oracle::Produced};

/// The text of an emoji that this build does not know. An ingest of another build may write it.
pub const UNKNOWN_EMOJI: &str = "新";

/// Maximum difference between the time of a reaction and the base time of its batch.
const FLUSH_MS: u64 = 500;

/// The random behaviour of the producers in the simulation of one seed.
pub struct Producers {
    /// Probability that a record is not a heartbeat.
    pub busy: f64,
    /// Probability that the reactions of a record are older than the lateness, so that they may be late.
    pub strays: f64,
}

impl Producers {
    /// Returns producers with random behaviour.
    pub fn any(rng: &mut Rng) -> Producers {
        Producers {
            busy: [0.1, 0.4, 0.9][rng.random_range(0..3)],
            strays: [0.02, 0.1, 0.4][rng.random_range(0..3)],
        }
    }
}

/// Returns the record that the producers write to a partition of `topic` at `now_ms`.
pub fn record(
    rng: &mut Rng,
    producers: &Producers,
    topic: &str,
    partition: u32,
    now_ms: u64,
) -> (NewRecord, Produced) {
    if !rng.random_bool(producers.busy) {
        return heartbeat(topic, partition, now_ms);
    }
    // Reactions are older than the time at which they are appended, since clocks differ and brokers are slow. Most are
    // older by less than the lateness, and some by more.
    let behind_ms = match rng.random_bool(producers.strays) {
        true => rng.random_range(LATENESS_MS..8 * LATENESS_MS),
        false => rng.random_range(0..LATENESS_MS - FLUSH_MS),
    };
    let base_ms = now_ms - behind_ms - FLUSH_MS;
    let (time_ms, value, produced) = match rng.random_range(0..20) {
        0 => (now_ms, b"no reaction".to_vec(), Produced::Junk("malformed")),
        1 => {
            let torn = Batch::encode(base_ms, reactions(rng, 1..4, base_ms));
            let torn = torn[..rng.random_range(0..torn.len())].to_vec();
            (now_ms, torn, Produced::Junk("malformed"))
        }
        2 => {
            let ahead = reactions(rng, 1..2, now_ms + 6000);
            (
                now_ms,
                Batch::encode(now_ms + 6000, ahead),
                Produced::Junk("ahead"),
            )
        }
        3 | 4 => {
            let plain = reactions(rng, 1..2, base_ms);
            let json = serde_json::json!({
                "user_id": "u", "emoji_type": plain[0].emoji, "room": plain[0].room,
            });
            let newest_ms = plain[0].at_ms;
            let value = json.to_string().into_bytes();
            (
                newest_ms,
                value,
                Produced::Reactions {
                    reactions: plain,
                    newest_ms,
                },
            )
        }
        _ => {
            let reactions = reactions(rng, 0..6, base_ms);
            let newest_ms = reactions.iter().map(|it| it.at_ms).fold(base_ms, u64::max);
            let value = Batch::encode(base_ms, reactions.iter().copied());
            (
                now_ms,
                value,
                Produced::Reactions {
                    reactions,
                    newest_ms,
                },
            )
        }
    };
    let record = NewRecord {
        topic: topic.to_owned(),
        partition: Some(partition),
        time_ms: Some(time_ms),
        key: None,
        value: Bytes::from(value),
        headers: Vec::new(),
    };
    (record, produced)
}

/// Returns an empty batch, which only advances event time.
pub fn heartbeat(topic: &str, partition: u32, now_ms: u64) -> (NewRecord, Produced) {
    let record = NewRecord {
        topic: topic.to_owned(),
        partition: Some(partition),
        time_ms: Some(now_ms),
        key: None,
        value: Batch::heartbeat(now_ms).into(),
        headers: Vec::new(),
    };
    let produced = Produced::Reactions {
        reactions: Vec::new(),
        newest_ms: now_ms,
    };
    (record, produced)
}

fn reactions(
    rng: &mut Rng,
    count: std::ops::Range<usize>,
    base_ms: u64,
) -> Vec<ReactionRef<'static>> {
    let count = rng.random_range(count);
    let mut reaction = || ReactionRef {
        user: "u",
        emoji: ["🔥", "👏", "😂", UNKNOWN_EMOJI][rng.random_range(0..4)],
        room: ["a", "b", "c"][rng.random_range(0..3)],
        at_ms: base_ms + rng.random_range(0..FLUSH_MS),
    };
    (0..count).map(|_| reaction()).collect()
}
