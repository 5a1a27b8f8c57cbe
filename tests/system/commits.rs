//! Tests of commits that fail. They are retried. A commit that can never succeed ends the dataflow with a sentence that
//! names the cause.

use std::time::Duration;

use emostream_log::{
    kafka::KafkaLog,
    read_to_end,
    testing::{append, now_ms, record},
};
use emostream_model::{Batch, Emoji, Reaction, Room, Topics, UserId, WindowRecord};
use tempfile::TempDir;

use crate::harness::{http, kafka, node::Node, unique, until, until_within};

/// Maximum time of a wait; only a test that fails waits this long.
const DEADLINE: Duration = Duration::from_secs(180);

/// A deployment on the Kafka that all tests share.
struct Fixture {
    dir: TempDir,
    brokers: String,
    prefix: String,
    topics: Topics,
    log: KafkaLog,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let (brokers, prefix) = (kafka::brokers(), unique(name));
        kafka::create_topics(&brokers, &prefix, 1);
        Fixture {
            dir: tempfile::tempdir().unwrap(),
            topics: Topics::with_prefix(&prefix).unwrap(),
            log: kafka::connect(&brokers),
            brokers,
            prefix,
        }
    }

    /// Starts a dataflow with a short idle timeout, so that windows close without further reactions.
    fn dataflow(&self, more: &[&str]) -> Node {
        let on = ["dataflow", "--kafka", &self.brokers, "--topic-prefix"];
        let with = [
            &self.prefix,
            "--admin",
            "127.0.0.1:0",
            "--idle-timeout",
            "1s",
        ];
        let log = self.dir.path().join("dataflow");
        Node::start_silent(&[&on[..], &with, more].concat(), &log)
    }

    fn append(&self, value: Vec<u8>) {
        append(&self.log, [record(self.topics.reactions(), value)]);
    }

    /// Appends one reaction for each room and emoji, and returns their number.
    fn react(&self, rooms: usize, emojis: usize) -> u64 {
        let at_ms = now_ms();
        let in_room = |room: usize| {
            let room = Room::new(&format!("room-{room}")).unwrap();
            Emoji::all().take(emojis).map(move |emoji| Reaction {
                user: UserId::new("u").unwrap(),
                emoji,
                room: room.clone(),
                at_ms,
            })
        };
        let reactions: Vec<Reaction> = (0..rooms).flat_map(in_room).collect();
        self.append(Batch::encode(at_ms, &reactions));
        reactions.len() as u64
    }

    /// Returns the number of reactions that finals contain.
    fn counted(&self) -> u64 {
        let mut counted = 0;
        read_to_end(&self.log, &self.topics.windows(), &mut |record| {
            let closed: WindowRecord = serde_json::from_slice(record.value).unwrap();
            counted += closed.total;
        })
        .unwrap();
        counted
    }

    fn until_counted(&self, reactions: u64) {
        until_within(DEADLINE, "all reactions in finals", || {
            let counted = self.counted();
            assert!(counted <= reactions, "{counted} of {reactions}");
            (counted == reactions).then_some(())
        });
    }
}

/// Waits until the dataflow ends. Asserts that its exit code is 78, and that the last line of its log contains `words`.
fn ends_with_78(mut dataflow: Node, words: &[&str]) {
    let code = dataflow.exit_code_within(DEADLINE);
    let logged = dataflow.logged();
    assert_eq!(code, Some(78), "{logged}");
    let sentence = logged.lines().last().unwrap();
    let missing: Vec<_> = words
        .iter()
        .filter(|word| !sentence.contains(**word))
        .collect();
    assert!(missing.is_empty(), "{missing:?} in {sentence}");
}

/// Sets a write quota for a new client id, and returns the properties of a client with this id.
fn slow_client(fixture: &Fixture, bytes_per_second: u32) -> [String; 3] {
    let client_id = unique("slow");
    kafka::limit_writes(&fixture.brokers, &client_id, bytes_per_second);
    [
        format!("client.id={client_id}"),
        // Compression is off, so that the test can compute the bytes that the quota counts.
        "compression.codec=none".to_owned(),
        "batch.size=20000".to_owned(),
    ]
}

fn properties(of: &[String; 3]) -> Vec<&str> {
    of.iter()
        .flat_map(|property| ["-X", property.as_str()])
        .collect()
}

/// Earlier versions had a commit timeout of 10 s, so each attempt to commit a close of this size was aborted.
#[test]
fn a_close_that_takes_longer_than_ten_seconds_is_committed() {
    let fixture = Fixture::new("long-close");
    // The close has about 2.8 MB of finals, totals and trending records, so its commit takes longer than 10 s.
    let slow = slow_client(&fixture, 100_000);
    let mut dataflow = fixture.dataflow(&properties(&slow));
    let reactions = fixture.react(800, 40);
    fixture.until_counted(reactions);
    let metrics = http::get(&dataflow.admin(), "/metrics").unwrap().body;
    assert!(metrics.contains("emostream_dataflow_transactions_total{outcome=\"failed\"} 0"));
    let seconds = metrics.lines().find_map(|line| {
        let sum = line.strip_prefix("emostream_dataflow_commit_seconds_sum ")?;
        sum.parse::<f64>().ok()
    });
    assert!(seconds > Some(10.0), "{seconds:?}: the quota did not bite");
    assert!(dataflow.runs());
}

#[test]
fn a_close_that_is_too_slow_three_times_ends_with_78_and_names_its_size_and_the_flag() {
    let fixture = Fixture::new("slow-close");
    let slow = slow_client(&fixture, 50_000);
    let more = [&properties(&slow)[..], &["--commit-timeout", "10s"]].concat();
    let dataflow = fixture.dataflow(&more);
    fixture.react(800, 40);
    ends_with_78(dataflow, &["--commit-timeout", "3 attempts", " MB ", "10s"]);
    assert_eq!(fixture.counted(), 0);
}

#[test]
fn a_commit_timeout_that_the_brokers_do_not_allow_is_refused_at_the_start() {
    let fixture = Fixture::new("too-long");
    // The brokers' default limit is 15 minutes.
    let mut dataflow = fixture.dataflow(&["--commit-timeout", "20m"]);
    let code = dataflow.exit_code_within(DEADLINE);
    let logged = dataflow.logged();
    assert_eq!(code, Some(64), "{logged}");
    let sentence = logged.lines().last().unwrap();
    for word in ["--commit-timeout", "transaction.max.timeout.ms"] {
        assert!(sentence.contains(word), "{word} in {sentence}");
    }
}

#[test]
fn a_rejected_record_that_is_too_large_is_written_as_its_headers_alone() {
    let fixture = Fixture::new("large-rejected");
    kafka::limit_records(&fixture.brokers, &fixture.topics.rejected(), 2000);
    let mut dataflow = fixture.dataflow(&["-X", "compression.codec=none"]);
    fixture.append(vec![b'x'; 5000]);
    fixture.append(b"short".to_vec());
    let reactions = fixture.react(1, 1);
    fixture.until_counted(reactions);
    let values = until("both rejected", || {
        let mut values = Vec::new();
        read_to_end(&fixture.log, &fixture.topics.rejected(), &mut |record| {
            let headers = record.headers.read();
            assert!(headers.iter().any(|header| header.name == "reason"));
            values.push(record.value.to_vec());
        })
        .unwrap();
        (values.len() == 2).then_some(values)
    });
    assert_eq!(values, [Vec::new(), b"short".to_vec()]);
    assert!(dataflow.runs());
}

/// Brokers reject a batch that is larger than the topic's limit, even if each of its records is smaller. After that the
/// dataflow sends each record in a batch of its own.
#[test]
fn a_topic_that_accepts_small_batches_only_gets_all_finals() {
    let fixture = Fixture::new("small-batches");
    kafka::limit_records(&fixture.brokers, &fixture.topics.windows(), 1500);
    let mut dataflow = fixture.dataflow(&["-X", "compression.codec=none"]);
    let reactions = fixture.react(50, 5);
    fixture.until_counted(reactions);
    assert!(dataflow.runs());
}

#[test]
fn a_final_that_its_topic_never_accepts_ends_with_78_and_names_the_topic() {
    let fixture = Fixture::new("large-final");
    let windows = fixture.topics.windows();
    kafka::limit_records(&fixture.brokers, &windows, 400);
    let dataflow = fixture.dataflow(&["-X", "compression.codec=none"]);
    fixture.react(1, 50);
    ends_with_78(dataflow, &[&windows, "max.message.bytes"]);
    assert_eq!(fixture.counted(), 0);
}
