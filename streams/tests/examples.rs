//! Runs each example on the embedded log and on Kafka, in two runs each, and as a process.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::sync::Arc;

use emostream_app::testing::ExampleProcess;
use emostream_log::{
    Log, NewRecord,
    embedded::EmbeddedLog,
    kafka::{KafkaLog, KafkaOptions},
    testing::{append, now_ms, record, until, values},
};
use emostream_streams::{
    config::AppConfig,
    testing::{create_topics_of, run_until_finals},
};

#[allow(dead_code, reason = "its main function is run as a process")]
#[path = "../examples/word_count.rs"]
mod word_count;

/// Returns the brokers of the Kafka under test.
fn brokers() -> String {
    std::env::var("EMOSTREAM_TEST_KAFKA")
        .expect("no Kafka to test on: run `make test`, or tests/kafka/kafka.sh run cargo test")
}

fn kafka() -> KafkaLog {
    let options = KafkaOptions {
        brokers: brokers(),
        ..KafkaOptions::default()
    };
    KafkaLog::connect(options).unwrap()
}

/// The logs on which each example is run.
fn logs() -> [Arc<dyn Log>; 2] {
    [
        Arc::new(EmbeddedLog::in_memory().unwrap()),
        Arc::new(kafka()),
    ]
}

/// Returns the value of a final of the example.
fn count(word: &str, start: u64, count: u64) -> String {
    let end = start + 2000;
    format!(r#"{{"key":"{word}","start":{start},"end":{end},"count":{count}}}"#)
}

fn sorted(mut finals: Vec<String>) -> Vec<String> {
    finals.sort();
    finals
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
        let app = word_count::word_count(AppConfig::new(&prefix)).unwrap();
        create_topics_of(&app, &*log);
        // The second line is in a window that is still open when the first run ends. The empty line advances the
        // watermark, so that the first window is closed.
        let lines = [(0, "to be or not to be"), (2100, "to be"), (3000, "")];
        append(&*log, lines.map(|(after_ms, text)| line(after_ms, text)));
        let first = run_until_finals(&app, &log, 4);
        append(&*log, [line(3900, "be"), line(10_000, "")]);
        let all = run_until_finals(&app, &log, 6);
        let of_first = [("to", 2), ("be", 2), ("or", 1), ("not", 1)];
        let mut expected: Vec<String> = of_first.map(|(word, n)| count(word, begin_ms, n)).into();
        assert_eq!(sorted(first), sorted(expected.clone()));
        expected.extend([
            count("be", begin_ms + 2000, 2),
            count("to", begin_ms + 2000, 1),
        ]);
        assert_eq!(sorted(all), sorted(expected));
    }
}

/// The example was a main function without flags, metrics and exit codes.
#[test]
fn the_example_is_a_program_with_flags_topics_metrics_and_exit_codes() {
    let (brokers, begin_ms) = (brokers(), now_ms() / 2000 * 2000 - 60_000);
    let id = format!("words-{begin_ms}-{}-process", std::process::id());
    let on_kafka = ["--kafka", &brokers, "--application-id", &id];
    let output = |arguments: &[&str]| {
        let output = ExampleProcess::output("word_count", arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };

    let (code, _, why) = output(&[&on_kafka[..], &["--lateness", "20s"]].concat());
    assert_eq!(code, Some(64), "{why}");
    assert!(why.starts_with("word_count: --idle-timeout: "), "{why}");
    let (code, _, why) = output(&on_kafka);
    assert_eq!(code, Some(69), "{why}");
    let create = "create them with `word_count topics create --partitions N`";
    assert!(why.contains(create) && why.contains(&id), "{why}");
    let (code, topology, why) = output(&["--describe"]);
    assert_eq!(code, Some(0), "{why}");
    assert!(topology.contains("source: word_count.lines"), "{topology}");

    let partitions = ["topics", "create", "--partitions", "1"];
    let (code, created, why) = output(&[&partitions[..], &on_kafka].concat());
    assert_eq!(code, Some(0), "{why}");
    assert!(
        created.contains(&format!("created  {id}.lines")),
        "{created}"
    );

    let running = ExampleProcess::start("word_count", &[&on_kafka[..], &["-w", "2"]].concat());
    until("readiness", || {
        running.get("/readyz").starts_with("HTTP/1.1 200")
    });
    assert!(running.get("/readyz").contains("dataflow: active"));
    let log = kafka();
    let line = |after_ms: u64, text: &'static str| NewRecord {
        time_ms: Some(begin_ms + after_ms),
        ..record(format!("{id}.lines"), text)
    };
    append(&log, [line(0, "to be or not to be"), line(10_000, "")]);
    let finals = || values(&log, &format!("{id}.counts"));
    until("finals", || finals().len() == 4);
    let finals = finals()
        .into_iter()
        .map(|it| String::from_utf8(it).unwrap());
    let expected = [("to", 2), ("be", 2), ("or", 1), ("not", 1)];
    let expected = expected.map(|(word, n)| count(word, begin_ms, n));
    assert_eq!(sorted(finals.collect()), sorted(expected.into()));
    let metrics = running.get("/metrics");
    assert!(metrics.contains("\nword_count_active 1"), "{metrics}");
    assert!(metrics.contains("\nword_count_build_info{"), "{metrics}");
    assert!(running.get("/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(running.stop().code(), Some(0));
}
