//! Runs each example on the embedded log and on Kafka, in two runs each.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::sync::Arc;

use emostream_log::{
    Log, NewRecord,
    embedded::EmbeddedLog,
    kafka::{KafkaLog, KafkaOptions},
    testing::{append, now_ms, record},
};
use emostream_streams::testing::{create_topics_of, run_until_finals};

#[allow(dead_code, reason = "its main function runs on Kafka alone")]
#[path = "../examples/word_count.rs"]
mod word_count;

/// The logs on which each example is run.
fn logs() -> [Arc<dyn Log>; 2] {
    let brokers = std::env::var("EMOSTREAM_TEST_KAFKA")
        .expect("no Kafka to test on: run `make test`, or tests/kafka/kafka.sh run cargo test");
    let kafka = KafkaLog::connect(KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    });
    [
        Arc::new(EmbeddedLog::in_memory().unwrap()),
        Arc::new(kafka.unwrap()),
    ]
}

#[test]
fn words_are_counted_once_in_each_window_also_across_runs() {
    let begin_ms = now_ms() / 2000 * 2000 - 60_000;
    let prefix = format!("words-{begin_ms}-{}", std::process::id());
    let line = |after_ms: u64, text: &'static str| NewRecord {
        time_ms: Some(begin_ms + after_ms),
        ..record(format!("{prefix}.lines"), text)
    };
    for log in logs() {
        let app = word_count::word_count(&prefix).unwrap();
        create_topics_of(&app, &*log);
        // The second line is in a window that is still open when the first run ends. The empty line advances the
        // watermark, so that the first window is closed.
        let lines = [(0, "to be or not to be"), (2100, "to be"), (3000, "")];
        append(&*log, lines.map(|(after_ms, text)| line(after_ms, text)));
        let first = run_until_finals(&app, &log, 4);
        append(&*log, [line(3900, "be"), line(10_000, "")]);
        let all = run_until_finals(&app, &log, 6);
        let count = |word: &str, after_ms: u64, count: u64| {
            let (start, end) = (begin_ms + after_ms, begin_ms + after_ms + 2000);
            format!(r#"{{"key":"{word}","start":{start},"end":{end},"count":{count}}}"#)
        };
        let of_first = [("to", 2), ("be", 2), ("or", 1), ("not", 1)];
        let mut expected: Vec<String> = of_first.map(|(word, n)| count(word, 0, n)).into();
        let sorted = |mut finals: Vec<String>| {
            finals.sort();
            finals
        };
        assert_eq!(sorted(first), sorted(expected.clone()));
        expected.extend([count("be", 2000, 2), count("to", 2000, 1)]);
        assert_eq!(sorted(all), sorted(expected));
    }
}
