//! Counts words in windows of two seconds, exactly once: each line of `words.lines` is split into words, and each final
//! in `words.counts` contains the number of times that a word was written in a window.
//!
//! `cargo run -p emostream-streams --example word_count -- BROKERS`

use std::{env, error::Error, str, sync::Arc};

use emostream_log::{
    Log, Record,
    kafka::{KafkaLog, KafkaOptions},
};
use emostream_protocol::WindowSize;
use emostream_streams::{
    StreamsError,
    aggregate::pre_aggregator::{Event, InternedKeys},
    config::AppConfig,
    runtime::run::run,
    source::format::{Format, RecordTimes},
    topology::{Application, JsonFinals, Topology, Tumbling},
};
use prometheus::Registry;

/// Maximum bytes of a word that is counted. The record of each final contains its key, so the length of a key must be
/// bounded: a final that is too large for its topic would end every run.
const MAX_WORD_BYTES: usize = 200;

/// A line of text: each word is a key.
#[derive(Clone)]
pub struct Lines;

impl Format for Lines {
    type Key = String;
    type Item = ();

    fn decode(
        &self,
        record: Record<'_>,
        words: &mut InternedKeys<String>,
        events: &mut Vec<Event<()>>,
    ) -> Option<RecordTimes> {
        let word = |word: &str| (word.len() <= MAX_WORD_BYTES).then(|| word.to_owned());
        let line = str::from_utf8(record.value).ok()?;
        events.extend(line.split_whitespace().map(|text| Event {
            at_ms: record.time_ms,
            key: words.number(text, word),
            item: Some(()),
        }));
        Some(RecordTimes::of(&record))
    }
}

/// Returns the application. The names of its topics begin with `prefix`.
pub fn word_count(prefix: &str) -> Result<Application<Lines>, StreamsError> {
    let size = WindowSize::from_ms(2000).expect("the size of a window is above 0");
    Application::new(AppConfig::new(prefix), |t: &Topology<Lines>| {
        t.source(format!("{prefix}.lines"), Lines)
            .group_by_key()
            .window(Tumbling::of(size))
            .count_by_item()
            .finals()
            .to(format!("{prefix}.counts"), JsonFinals::Events);
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let brokers = env::args().nth(1).unwrap_or("127.0.0.1:9092".to_owned());
    let log = KafkaLog::connect(KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    })?;
    let app = word_count("words")?;
    for topic in app.config().topics.specs(4, 1) {
        log.create_topic(&topic)?;
    }
    let (registry, ready) = (Registry::new(), Arc::new(|state| println!("{state:?}")));
    Ok(run(
        app,
        Arc::new(log),
        &registry,
        Default::default(),
        ready,
    )?)
}
