//! Tests the example `distinct_users` with the source topic of EmoStream.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::sync::Arc;

use emostream_app::testing::ExampleProcess;
use emostream_log::{
    Log, NewRecord,
    embedded::EmbeddedLog,
    testing::{append, now_ms, record},
};
use emostream_model::{Batch, ReactionRef};
use emostream_streams::{
    config::AppConfig,
    testing::{create_topics_of, run_until_finals},
};

#[allow(dead_code, reason = "its main function is run as a process")]
#[path = "../examples/distinct_users.rs"]
mod distinct_users;

#[test]
fn each_user_is_counted_once_in_each_window_also_across_runs() {
    let begin_ms = now_ms() / 2000 * 2000 - 60_000;
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory().unwrap());
    let app = distinct_users::distinct_users(AppConfig::new("distinct_users")).unwrap();
    create_topics_of(&app, &*log);
    let react = |after_ms: u64, users: &[&'static str]| {
        let at_ms = begin_ms + after_ms;
        let reaction = |user: &&'static str| ReactionRef {
            user,
            emoji: "🔥",
            room: "a",
            at_ms,
        };
        NewRecord {
            time_ms: Some(at_ms),
            ..record(
                "emostream.reactions",
                Batch::encode(at_ms, users.iter().map(reaction)),
            )
        }
    };
    let expected = |start_ms: u64, users: u64| {
        let (start, end) = (begin_ms + start_ms, begin_ms + start_ms + 2000);
        format!(r#"{{"key":"a","start":{start},"end":{end},"count":{users}}}"#)
    };
    // The second batch opens a window that is still open when the first run ends. The empty batch advances event time,
    // so that the first window closes.
    append(
        &*log,
        [
            react(0, &["u", "v", "u"]),
            react(2100, &["u", "w"]),
            react(3000, &[]),
        ],
    );
    assert_eq!(run_until_finals(&app, &log, 1), [expected(0, 2)]);
    append(&*log, [react(3900, &["w", "u", "x"]), react(10_000, &[])]);
    let both = [expected(0, 2), expected(2000, 3)];
    assert_eq!(run_until_finals(&app, &log, 2), both);
}

#[test]
fn the_example_is_a_program_that_prints_its_topology() {
    let output = ExampleProcess::output("distinct_users", &["--describe", "--application-id", "u"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{:?}", output.stderr);
    assert!(text.contains("source: emostream.reactions"), "{text}");
    assert!(text.contains("sink: u.counts"), "{text}");
}
