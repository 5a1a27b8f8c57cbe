//! Tests the example `distinct_users` with the source topic of EmoStream.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{sync::Arc, thread};

use emostream_dataflow::Stop;
use emostream_log::{
    Log, NewRecord,
    embedded::EmbeddedLog,
    testing::{append, now_ms, record, until, values},
};
use emostream_model::{Batch, ReactionRef};
use emostream_streams::runtime::{app::Application, run::run};
use prometheus::Registry;

#[allow(dead_code, reason = "its main function runs on Kafka alone")]
#[path = "../examples/distinct_users.rs"]
mod distinct_users;

#[test]
fn each_user_is_counted_once_in_each_window_also_across_runs() {
    let begin_ms = now_ms() / 2000 * 2000 - 60_000;
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::in_memory().unwrap());
    let app = distinct_users::DistinctUsers::default();
    for topic in app.config().topics.specs(1, 1) {
        log.create_topic(&topic).unwrap();
    }
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
    let finals_after = |count: usize| {
        let (app, log_of_run, stop) = (app.clone(), log.clone(), Stop::default());
        let stop_of_run = stop.clone();
        let ready = Arc::new(|_| {});
        let run = move || run(app, log_of_run, &Registry::new(), stop_of_run, ready);
        let thread = thread::spawn(run);
        let finals = || values(&*log, "emostream.users");
        until("finals", || {
            assert!(!thread.is_finished(), "the run has ended");
            finals().len() >= count
        });
        stop.request();
        thread.join().unwrap().unwrap();
        let finals = finals().into_iter();
        finals
            .map(|json| String::from_utf8(json).unwrap())
            .collect::<Vec<_>>()
    };
    let expected = |start_ms: u64, users: u64| {
        let start = begin_ms + start_ms;
        format!(r#"{{"room":"a","start":{start},"users":{users}}}"#)
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
    assert_eq!(finals_after(1), [expected(0, 2)]);
    append(&*log, [react(3900, &["w", "u", "x"]), react(10_000, &[])]);
    assert_eq!(finals_after(2), [expected(0, 2), expected(2000, 3)]);
}
