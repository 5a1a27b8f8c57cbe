//! Topics of one test, producers of reactions, and the outcomes of these reactions.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emostream_log::{Log, kafka::KafkaLog};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    http, kafka,
    node::{self, Node},
    unique, until, within,
};

pub const PARTITIONS: u32 = 4;
pub const WINDOW: Duration = Duration::from_secs(1);
/// Flags for windows of one second, and an idle timeout of three windows.
pub const QUICK: [&str; 4] = ["--window", "1s", "--idle-timeout", "3s"];

/// Timeout of a start that is refused. The refusal comes as soon as the topics are read, so only a test that fails
/// waits this long.
const REFUSED_WITHIN: Duration = Duration::from_secs(20);
/// Interval at which the topics are read. A new process is started for each read.
const READ_EVERY: Duration = Duration::from_millis(300);

/// The topics of a dataflow.
pub struct Fixture {
    pub dir: TempDir,
    pub brokers: String,
    pub prefix: String,
}

impl Fixture {
    /// Creates topics with [`PARTITIONS`] partitions on the Kafka that all tests share.
    pub fn new(name: &str) -> Fixture {
        let fixture = Fixture::without_topics(name);
        fixture.create_topics();
        fixture
    }

    /// Returns a fixture without creating topics.
    pub fn without_topics(name: &str) -> Fixture {
        Fixture::on(kafka::brokers(), unique(name))
    }

    /// Returns a fixture for the topics with `prefix` on another Kafka.
    pub fn on(brokers: String, prefix: String) -> Fixture {
        Fixture {
            dir: tempfile::tempdir().unwrap(),
            brokers,
            prefix,
        }
    }

    pub fn create_topics(&self) {
        kafka::create_topics(&self.brokers, &self.prefix, PARTITIONS);
    }

    /// Deletes a topic with its records, and creates it again.
    pub fn recreate(&self, name: &str) {
        let (log, topic) = (self.connect(), self.topic(name));
        kafka::delete_topic(&self.brokers, &topic);
        until("the topic is gone", || {
            log.partitions(&topic).is_err().then_some(())
        });
        self.create_topics();
    }

    pub fn connect(&self) -> KafkaLog {
        kafka::connect(&self.brokers)
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Returns the flags that name the topics.
    pub fn store(&self) -> [&str; 4] {
        ["--kafka", &self.brokers, "--topic-prefix", &self.prefix]
    }

    /// Returns the arguments of a dataflow with [`QUICK`] windows.
    pub fn dataflow_arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let admin = ["--admin", "127.0.0.1:0"];
        [&["dataflow"], &self.store()[..], &QUICK, &admin, more].concat()
    }

    /// Starts a dataflow, and returns it with its admin address.
    pub fn dataflow(&self, name: &str, more: &[&str]) -> (Node, String) {
        let arguments = self.dataflow_arguments(more);
        let node = Node::start_silent(&arguments, &self.log(name));
        let admin = node.admin();
        (node, admin)
    }

    pub fn ingest(&self) -> Node {
        let listen = ["--listen", "127.0.0.1:0", "--admin", "off"];
        let arguments = [&["ingest"], &self.store()[..], &listen].concat();
        Node::start(&arguments, &self.log("ingest"))
    }

    pub fn up(&self, more: &[&str]) -> Node {
        let more = [&QUICK[..], more].concat();
        Node::up_on_kafka(self.dir.path(), &self.brokers, &self.prefix, &more)
    }

    /// Returns the log file of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn outcome(&self) -> Outcome {
        Outcome::read(&self.store())
    }
}

/// Returns the arguments with another value of `flag`.
pub fn with<'a>(mut arguments: Vec<&'a str>, flag: &str, value: &'a str) -> Vec<&'a str> {
    let at = arguments.iter().position(|argument| *argument == flag);
    arguments[at.unwrap() + 1] = value;
    arguments
}

/// Runs the program until it ends by itself. Returns its exit code (`None` if it did not end in time) and its standard
/// error.
pub fn ended(arguments: &[&str], log: PathBuf) -> (Option<i32>, String) {
    let mut node = Node::start_silent(arguments, &log);
    let code = node.exit_code_within(REFUSED_WITHIN);
    (code, node.logged())
}

/// Returns the sentence of a refusal, and asserts that the exit code is 78.
pub fn refusal((code, logged): (Option<i32>, String)) -> String {
    assert_eq!(code, Some(78), "{logged}");
    let mut sentences = logged
        .lines()
        .filter(|line| line.starts_with("emostream: "));
    let sentence = sentences.next().unwrap().to_owned();
    assert_eq!(sentences.next(), None, "{logged}");
    sentence
}

/// Asserts that `text` contains each of `words`.
pub fn assert_contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}

/// The outcomes of reactions, read from the result topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Reactions in finals, by room.
    pub counted: BTreeMap<String, u64>,
    /// Reactions that were rejected, by reason, partition and room.
    pub rejected: BTreeMap<(String, u32, String), u64>,
    /// Room and start of each final whose window has a final already.
    pub doubled: Vec<(String, u64)>,
    /// The end of the newest final.
    pub final_until_ms: u64,
}

impl Outcome {
    /// Reads the topics that the flags in `store` select.
    pub fn read(store: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut windows = BTreeSet::new();
        for record in inspect("windows", store) {
            let of = |name: &str| record["value"][name].as_u64().unwrap();
            let room = record["value"]["room"].as_str().unwrap().to_owned();
            let window = (room.clone(), of("start"));
            if !windows.insert(window.clone()) {
                outcome.doubled.push(window);
            }
            *outcome.counted.entry(room).or_default() += of("total");
            outcome.final_until_ms = outcome.final_until_ms.max(of("end"));
        }
        for record in inspect("rejected", store) {
            let header = |name: &str| record["headers"][name].as_str().unwrap().to_owned();
            let value = &record["value"];
            let batch = value["batch"]["reactions"].as_array().into_iter().flatten();
            let plain = value.get("plain").into_iter();
            for reaction in batch.chain(plain) {
                let room = reaction["room"].as_str().unwrap().to_owned();
                let key = (header("reason"), header("partition").parse().unwrap(), room);
                *outcome.rejected.entry(key).or_default() += 1;
            }
        }
        outcome
    }

    /// Reads the topics until `reactions` reactions are counted or rejected, and returns the last outcome.
    pub fn of(reactions: u64, store: &[&str]) -> Outcome {
        let mut newest = Outcome::default();
        let settled = within(Duration::from_secs(30), || {
            newest = Outcome::read(store);
            let settled = newest.reactions() >= reactions;
            (!settled).then(|| thread::sleep(READ_EVERY));
            settled.then_some(())
        });
        let found = newest.reactions();
        let news = "neither counted nor rejected";
        assert!(
            settled.is_some(),
            "{found} of {reactions}, the rest {news}: {newest:?}"
        );
        newest
    }

    /// Returns how many reactions are counted or rejected.
    fn reactions(&self) -> u64 {
        self.counted.values().chain(self.rejected.values()).sum()
    }

    /// Returns how many reactions were rejected for `reason`.
    pub fn rejected_as(&self, reason: &str) -> u64 {
        let of = self.rejected.iter().filter(|((of, ..), _)| of == reason);
        of.map(|(_, count)| count).sum()
    }

    /// Asserts that exactly these reactions were counted in each room, that each window has one final, and that no
    /// reaction was rejected.
    pub fn assert_all_counted(&self, rooms: &[(&str, u64)]) {
        let rooms = rooms
            .iter()
            .map(|(room, count)| ((*room).to_owned(), *count));
        let expected = Outcome {
            counted: rooms.collect(),
            final_until_ms: self.final_until_ms,
            ..Outcome::default()
        };
        assert_eq!(*self, expected);
    }
}

/// Returns the records of a topic as JSON.
pub fn inspect(topic: &str, store: &[&str]) -> Vec<Value> {
    let arguments = [&["inspect", topic, "--format", "json"], store].concat();
    let lines = node::output(&arguments);
    let records = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    records.collect()
}

/// Returns the result of `/readyz`: `Err` with the reason if the process is not ready.
pub fn readiness(admin: &str) -> Result<(), String> {
    let answer = http::get(admin, "/readyz").unwrap();
    match answer.status {
        200 => Ok(()),
        503 => Err(answer.body),
        _ => panic!("{answer:?}"),
    }
}

/// Returns the value of a series in `/metrics`.
pub fn metric(admin: &str, series: &str) -> Option<f64> {
    let metrics = http::get(admin, "/metrics").unwrap().body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(series))?;
    line.trim().parse().ok()
}

/// Returns the metric that shows whether a partition is held for `reason`, as 0 or 1.
pub fn held(admin: &str, partition: u32, reason: &str) -> Option<f64> {
    let labels = format!(r#"{{partition="{partition}",reason="{reason}"}}"#);
    metric(admin, &format!("emostream_dataflow_partition_held{labels}"))
}

const POSTERS: usize = 8;
const BATCH: u64 = 10;
/// The room of [`Producers`].
pub const CROWD: &str = "crowd";

/// Threads that send reactions all the time. Each request waits until its reactions are stored.
pub struct Producers {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Answers>>,
    posting: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Answers {
    stored: u64,
    /// The time at which the newest stored request was sent.
    newest: Option<Instant>,
    /// Responses other than 200.
    refused: Vec<String>,
}

impl Producers {
    pub fn start(address: &str) -> Producers {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(Answers::default()));
        let post = |_| {
            let (stop, answers) = (stop.clone(), answers.clone());
            let address = address.to_owned();
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    let answer = post(&address, CROWD, BATCH);
                    let mut answers = answers.lock().unwrap();
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            answers.stored += BATCH;
                            answers.newest = answers.newest.max(Some(began));
                        }
                        refused => {
                            answers.refused.push(format!("{refused:?}"));
                            // The server may refuse at once, so we pause before the next request.
                            drop(answers);
                            thread::sleep(READ_EVERY);
                        }
                    }
                }
            })
        };
        Producers {
            posting: (0..POSTERS).map(post).collect(),
            stop,
            answers,
        }
    }

    /// Lets the threads continue for `span`: waits until a request that was sent after this time is stored.
    pub fn continue_for(&self, span: Duration) {
        let from = Instant::now() + span;
        until("stored or refused reactions", || {
            let answers = self.answers.lock().unwrap();
            let newest = answers.newest.is_some_and(|newest| newest >= from);
            // If requests are refused, perhaps none is stored any more, so the wait ends. `end` reports the refusals.
            (newest || !answers.refused.is_empty() && Instant::now() > from).then_some(())
        });
    }

    /// Stops, asserts that all reactions were acknowledged, and returns their number.
    pub fn end(mut self) -> u64 {
        self.stop();
        let answers = self.answers.lock().unwrap();
        let (refused, newest) = (answers.refused.len(), answers.refused.last());
        let stored = answers.stored;
        assert_eq!(
            refused, 0,
            "{stored} reactions were stored, but: {newest:?}"
        );
        stored
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for posting in self.posting.drain(..) {
            posting.join().unwrap();
        }
    }
}

impl Drop for Producers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Posts `reactions` reactions to `room`, and waits until they are stored.
fn post(address: &str, room: &str, reactions: u64) -> io::Result<http::Answer> {
    let reaction = json!({"user_id": 1, "emoji_type": "🔥", "room": room});
    let body = Value::Array(vec![reaction; reactions as usize]).to_string();
    http::post(address, "/v1/reactions?wait=stored", &body)
}

/// Posts reactions, asserts that they are stored, and returns their number.
pub fn stored(address: &str, room: &str, reactions: u64) -> u64 {
    let answer = post(address, room, reactions).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    reactions
}
