//! Tests of a topic that accepts records with times in the future, and of a record with a time in the future.

use std::time::Duration;

use emostream_log::{
    Log, NewRecord,
    testing::{append, keep_for, record, topic},
};
use serde_json::json;

use super::fixture::{
    CROWD, Fixture, Outcome, PARTITIONS, Producers, WINDOW, assert_contains, ended, held,
    readiness, refusal,
};
use crate::harness::{node, now_ms, until, within};

const FUTURE: &str = "future";
const AHEAD: u32 = 1;
const AHEAD_MS: u64 = 50 * 60 * 1000;
const REJECT: &str = "emostream reset --reject-ahead";

/// Creates a reactions topic with Kafka's default settings, with which it accepts records of every time.
fn create_unbounded(fixture: &Fixture) {
    let kept = keep_for(Duration::from_secs(24 * 3600));
    let spec = topic(fixture.topic("reactions"), PARTITIONS, kept);
    fixture.connect().create_topic(&spec).unwrap();
    fixture.create_topics();
}

/// Writes a plain reaction with a time in the future, and returns its offset.
fn append_ahead(fixture: &Fixture, time_ms: u64) -> u64 {
    let reaction = json!({"user_id": 1, "emoji_type": "👏", "room": FUTURE});
    let record = NewRecord {
        partition: Some(AHEAD),
        time_ms: Some(time_ms),
        ..record(fixture.topic("reactions"), reaction.to_string())
    };
    append(&fixture.connect(), [record])[0]
}

#[test]
fn a_record_of_the_future_holds_its_partition_until_it_is_rejected() {
    let fixture = Fixture::without_topics("ahead");
    create_unbounded(&fixture);
    let refused = ended(&fixture.dataflow_arguments(&[]), fixture.log("refused"));
    let bound = format!(
        "--alter --entity-type topics --entity-name {} --add-config message.timestamp.after.max.ms=5000",
        fixture.topic("reactions")
    );
    assert_contains(&refusal(refused), &["kafka-configs.sh", &bound]);

    let unbounded = ["--unbounded-timestamps"];
    let ingest = fixture.ingest();
    let (dataflow, admin) = fixture.dataflow("held", &unbounded);
    until("ready", || readiness(&admin).ok());
    let producers = Producers::start(&ingest.address);
    producers.continue_for(2 * WINDOW);
    let time_ms = now_ms() + AHEAD_MS;
    let offset = append_ahead(&fixture, time_ms);
    let reason = within(10 * WINDOW, || readiness(&admin).err());
    producers.continue_for(5 * WINDOW);
    assert_eq!(fixture.outcome().rejected_as("late"), 0);

    let place = format!("{}/{AHEAD}", fixture.topic("reactions"));
    let time = Duration::from_millis(time_ms).as_secs();
    let (hour, minute, second) = (time / 3600 % 24, time / 60 % 60, time % 60);
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    let named = [&place, &offset.to_string(), &clock, REJECT];
    assert_contains(&reason.expect("a reason"), &["ahead", &place, REJECT]);
    let logged = dataflow.logged();
    let mut lines = logged.lines();
    let named_in = |line: &&str| named.iter().all(|word| line.contains(*word));
    assert!(lines.any(|line| named_in(&line)), "{named:?}: {logged}");
    assert_eq!(held(&admin, AHEAD, "ahead"), Some(1.0));
    assert_eq!(dataflow.stop(Duration::from_secs(10)).code(), Some(0));

    let reset = ["reset", "--reject-ahead", "--yes"];
    node::output(&[&reset[..], &fixture.store()].concat());
    let (_dataflow, admin) = fixture.dataflow("again", &unbounded);
    until("ready again", || readiness(&admin).ok());
    producers.continue_for(2 * WINDOW);
    let acknowledged = producers.end();
    let mut outcome = Outcome::of(acknowledged + 1, &fixture.store());
    let ahead = ("ahead".to_owned(), AHEAD, FUTURE.to_owned());
    assert_eq!(outcome.rejected.remove(&ahead), Some(1), "{outcome:?}");
    outcome.assert_all_counted(&[(CROWD, acknowledged)]);
}
