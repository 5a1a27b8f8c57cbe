//! Measures the decoding of records without Kafka, in nanoseconds for each reaction.
//!
//! The table shows the fastest of many rounds, since other load on the host can only make a round slower.

use std::{hint::black_box, time::Instant};

use emostream_model::{Batch, EmojiNames, Payload, Reaction};

use crate::{
    Result,
    backlog::{BATCH, past_crowd},
    crowd::Names,
};

const REACTIONS: usize = 100_000;
const ROUNDS: usize = 50;

pub(crate) fn run() -> Result<()> {
    let crowd = past_crowd(
        20,
        30,
        REACTIONS as u64,
        std::time::Duration::from_secs(600),
        1,
    );
    let names = Names::of(&crowd)?;
    let plain: Vec<Vec<u8>> = crowd
        .events()
        .map(|event| event.json(&names).into_bytes())
        .collect();
    let reactions: Result<Vec<Reaction>> =
        crowd.events().map(|event| event.reaction(&names)).collect();
    let base_ms = |chunk: &[Reaction]| chunk.iter().map(|it| it.at_ms).min().unwrap_or_default();
    let batches: Vec<Vec<u8>> = reactions?
        .chunks(BATCH)
        .map(|chunk| Batch::encode(base_ms(chunk), chunk))
        .collect();
    println!("| record | ns a reaction |");
    println!("|---|---|");
    println!("| plain JSON | {:.1} |", least_ns(&plain));
    println!("| batches of {BATCH} | {:.2} |", least_ns(&batches));
    Ok(())
}

fn least_ns(records: &[Vec<u8>]) -> f64 {
    let emojis = EmojiNames::default();
    let round = |_| {
        let begun = Instant::now();
        for record in records {
            let _ = black_box(Payload::decode(black_box(record), &emojis));
        }
        begun.elapsed().as_nanos() as f64 / REACTIONS as f64
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}
