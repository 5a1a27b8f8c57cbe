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
    aggregate::pre_aggregator::{Event, InternedKeys},
    config::Config,
    operators::{
        records::{Records, ValueFormat},
        tumbling::{ClosedWindow, tumbling_window},
    },
    recovery::restore::NoTables,
    runtime::{
        app::{Application, Counts, WorkerContext},
        run::run,
    },
    sink::result::ResultStreams,
    source::format::{Format, RecordTimes},
    topics::{FinalSummary, Topics},
};
use prometheus::Registry;
use serde_json::{Value, json};

const WINDOW_MS: u64 = 2000;

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
        let line = str::from_utf8(record.value).ok()?;
        events.extend(line.split_whitespace().map(|word| Event {
            at_ms: record.time_ms,
            key: words.number(word, |word| {
                (word.len() <= MAX_WORD_BYTES).then(|| word.to_owned())
            }),
            item: Some(()),
        }));
        Some(RecordTimes::of(&record))
    }
}

/// A final: `{"word":"to","start":1764000000000,"count":2}`.
#[derive(Debug)]
pub struct Finals;

impl ValueFormat<ClosedWindow<String, ()>> for Finals {
    fn bytes(&self, closed: &ClosedWindow<String, ()>) -> usize {
        closed.key.len() + 60
    }

    fn encode(&self, closed: &ClosedWindow<String, ()>) -> Vec<u8> {
        let (word, start) = (&closed.key, closed.window.start);
        let count: u64 = closed.counts.iter().map(|(_, count)| count).sum();
        json!({"word": word, "start": start, "count": count})
            .to_string()
            .into_bytes()
    }
}

/// The application that counts words.
#[derive(Clone)]
pub struct WordCount(Config);

impl WordCount {
    /// Creates the application. The names of its topics begin with `prefix`.
    pub fn new(prefix: &str) -> WordCount {
        let (lines, counts) = (format!("{prefix}.lines"), format!("{prefix}.counts"));
        let topics = Topics::new(prefix, &lines, &counts, |value| {
            let closed: Value = serde_json::from_slice(value).ok()?;
            Some(FinalSummary {
                end_ms: closed["start"].as_u64()? + WINDOW_MS,
                key: closed["word"].as_str()?.to_owned(),
                events: closed["count"].as_u64()?,
            })
        });
        let size = WindowSize::from_ms(WINDOW_MS).expect("windows are not empty");
        WordCount(Config::new(topics, size))
    }
}

impl Application for WordCount {
    type Format = Lines;
    type Stored = NoTables<String, ()>;
    const METRICS_PREFIX: &'static str = "word_count";

    fn config(&self) -> &Config {
        &self.0
    }

    fn format(&self) -> Lines {
        Lines
    }

    fn build<'scope>(
        &self,
        counts: Counts<'scope, Lines>,
        worker: WorkerContext<String, ()>,
        results: &mut ResultStreams<'scope>,
    ) {
        let windows = worker.windows(&self.0, None);
        let (finals, _) = tumbling_window(counts, windows, |_| ());
        results.add(
            finals,
            Records::new(&self.0.topics.finals, worker.resets, Finals),
        );
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let brokers = env::args().nth(1).unwrap_or("127.0.0.1:9092".to_owned());
    let log = KafkaLog::connect(KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    })?;
    let app = WordCount::new("words");
    for topic in app.config().topics.specs(4, 1) {
        log.create_topic(&topic)?;
    }
    let ready = Arc::new(|state| println!("{state:?}"));
    Ok(run(
        app,
        Arc::new(log),
        &Registry::new(),
        Default::default(),
        ready,
    )?)
}
