//! Counts words in windows of two seconds, exactly once: each line of `word_count.lines` is split into words, and each
//! final in `word_count.counts` contains the number of times that a word was written in a window.
//!
//! ```text
//! cargo run -p emostream-streams --example word_count -- topics create --kafka BROKERS
//! cargo run -p emostream-streams --example word_count -- --kafka BROKERS
//! ```

use emostream_app::App;
use emostream_streams::prelude::*;

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

/// Returns the application. The names of its topics begin with its id.
pub fn word_count(config: AppConfig) -> Result<Application<Lines>, StreamsError> {
    let id = config.application_id.clone();
    Application::new(config, |t: &Topology<Lines>| {
        t.source(format!("{id}.lines"), Lines)
            .group_by_key()
            .window(Tumbling::of(WindowSize::from_ms(2000).expect("above 0")))
            .count_by_item()
            .finals()
            .to(format!("{id}.counts"), JsonFinals::Events);
    })
}

fn main() -> std::process::ExitCode {
    App::new("word_count", "Counts words in windows, exactly once")
        .run(|(), config| word_count(config))
}
