//! Tests of stored progress that is lost or older than the finals, and of starts that are refused.

use std::{thread, time::Duration};

use emostream_log::{NewRecord, kafka::KafkaLog, read_to_end, testing::append};

use super::fixture::{
    CROWD, Fixture, Outcome, Producers, QUICK, WINDOW, assert_contains, ended, readiness, refusal,
    stored, with,
};
use crate::harness::{
    kafka::Broker,
    node::{self, Node},
    now_ms,
    supervised::free_addresses,
    until,
};

const RESET: &str = "emostream reset --final-until";
const DRAINED_WITHIN: Duration = Duration::from_secs(10);
const ROUNDS: u64 = 3;

/// Runs `up` until some windows with reactions are final, and returns the number of reactions.
fn count_some(fixture: &Fixture, room: &str) -> u64 {
    let node = fixture.up(&[]);
    let reactions = react(&node, room);
    fixture.until_counted(room, reactions);
    assert_eq!(node.stop(DRAINED_WITHIN).code(), Some(0));
    reactions
}

/// Sends reactions in several windows, and returns their number.
fn react(node: &Node, room: &str) -> u64 {
    let mut reactions = 0;
    for _ in 0..ROUNDS {
        reactions += stored(&node.address, room, 10);
        let window = |ms: u64| ms / WINDOW.as_millis() as u64;
        let now = window(now_ms());
        until("the next window", || (window(now_ms()) > now).then_some(()));
    }
    reactions
}

impl Fixture {
    /// Waits until the finals of a room contain `reactions` reactions.
    fn until_counted(&self, room: &str, reactions: u64) {
        until("all are counted", || {
            let outcome = self.outcome();
            let counted = outcome.counted.get(room).copied().unwrap_or(0);
            (counted >= reactions).then_some(())
        });
    }

    /// Asserts that a start is refused, because finals are later than the progress, and that no window has two finals.
    /// Then resets the dataflow to the present time, and asserts that the next run counts new reactions.
    fn is_refused_until_a_reset(&self, before: &[(&str, u64)], room: &str) {
        let up = ["up", "--listen", "127.0.0.1:0", "--admin", "off"];
        let arguments = [&up[..], &self.store(), &QUICK].concat();
        let (code, logged) = ended(&arguments, self.log("refused"));
        let outcome = self.outcome();
        assert_eq!((code, outcome.doubled), (Some(78), Vec::new()), "{logged}");
        assert_contains(&refusal((code, logged)), &[RESET]);

        let reset = ["reset", "--final-until", "now", "--yes"];
        node::output(&[&reset[..], &self.store()].concat());
        let reset_ms = now_ms();
        let node = self.up(&[]);
        until("the next window", || {
            let next = Duration::from_millis(reset_ms) + WINDOW;
            (Duration::from_millis(now_ms()) > next).then_some(())
        });
        let reactions = react(&node, room);
        self.until_counted(room, reactions);
        assert_eq!(node.stop(DRAINED_WITHIN).code(), Some(0));
        let after = [before, &[(room, reactions)]].concat();
        self.outcome().assert_all_counted(&after);
    }
}

#[test]
fn progress_that_is_lost_doubles_no_final() {
    let fixture = Fixture::new("lost");
    let before = count_some(&fixture, "before");
    fixture.recreate("progress");
    fixture.is_refused_until_a_reset(&[("before", before)], "after");
}

/// An older progress record is written again, as if the topic were restored from an older copy.
#[test]
fn progress_that_is_rolled_back_doubles_no_final() {
    let fixture = Fixture::new("rolled-back");
    let first = count_some(&fixture, "first");
    let (log, progress) = (fixture.connect(), fixture.topic("progress"));
    let older = newest(&log, &progress);
    let second = count_some(&fixture, "second");
    append(&log, [older]);
    fixture.is_refused_until_a_reset(&[("first", first), ("second", second)], "after");
}

/// Returns the records of a topic in a form in which they can be written again.
fn records(log: &KafkaLog, topic: &str) -> Vec<NewRecord> {
    let mut records = Vec::new();
    read_to_end(log, topic, &mut |record| {
        records.push(NewRecord {
            topic: topic.to_owned(),
            partition: Some(record.partition),
            time_ms: Some(record.time_ms),
            key: record.key.map(|key| key.to_vec().into()),
            value: record.value.to_vec().into(),
            headers: record.headers.read(),
        });
    })
    .unwrap();
    records
}

fn newest(log: &KafkaLog, topic: &str) -> NewRecord {
    records(log, topic).pop().unwrap()
}

#[test]
fn a_refused_start_leaves_the_running_dataflow_alone() {
    let fixture = Fixture::new("refused");
    let ingest = fixture.ingest();
    let (mut dataflow, admin) = fixture.dataflow("dataflow", &[]);
    until("ready", || readiness(&admin).ok());
    let producers = Producers::start(&ingest.address);
    producers.continue_for(2 * WINDOW);
    Outcome::of(1, &fixture.store());
    let arguments = with(fixture.dataflow_arguments(&[]), "--window", "4s");
    let sentence = refusal(ended(&arguments, fixture.log("refused")));
    assert_contains(&sentence, &["--window", "emostream reset"]);
    let refused_ms = now_ms();
    until("finals since then, or an end", || {
        thread::sleep(WINDOW);
        let continues = fixture.outcome().final_until_ms > refused_ms + 1000;
        (continues || !dataflow.runs()).then_some(())
    });
    assert!(dataflow.runs(), "{}", dataflow.logged());
    let acknowledged = producers.end();
    let outcome = Outcome::of(acknowledged, &fixture.store());
    outcome.assert_all_counted(&[(CROWD, acknowledged)]);
    assert_eq!(dataflow.stop(DRAINED_WITHIN).code(), Some(0));
}

/// Progress that was mirrored to another cluster matches the reactions there. A run there would not fence the run on
/// the first cluster, so such progress is refused.
#[test]
fn progress_of_another_kafka_cluster_is_refused() {
    let fixture = Fixture::new("mirrored");
    count_some(&fixture, CROWD);
    let broker = Broker::start();
    let mirror = Fixture::on(broker.address(), fixture.prefix.clone());
    mirror.create_topics();
    let (from, to) = (fixture.connect(), mirror.connect());
    for topic in ["reactions", "windows", "totals", "trending", "progress"] {
        append(&to, records(&from, &fixture.topic(topic)));
    }
    let refused = ended(&mirror.dataflow_arguments(&[]), mirror.log("refused"));
    assert_contains(&refusal(refused), &["cluster", "emostream reset"]);

    // The processes of one dataflow must read the same cluster. Otherwise they do not start.
    let hosts = free_addresses(2).join(",");
    let group = |index| ["-n", "2", "-p", index, "--hosts", &hosts];
    let (first, second) = (group("0"), group("1"));
    let here = fixture.dataflow_arguments(&first);
    let (log, elsewhere) = (fixture.log("first"), mirror.dataflow_arguments(&second));
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| ended(&here, log));
        let other = ended(&elsewhere, mirror.log("second"));
        (one.join().unwrap(), other)
    });
    for (code, logged) in [one, other] {
        assert_eq!(code, Some(64), "{logged}");
        assert_contains(
            &logged,
            &["cluster", "start all of them with the same flags"],
        );
    }
}
