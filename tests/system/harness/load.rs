//! A load of random reactions, and a comparison of the dataflow's final results with the reactions in the log.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use emostream_log::{Log, LogError, NewRecord, kafka::KafkaLog, read_to_end};
use emostream_model::{Batch, Emoji, Reaction, Room, Topics, UserId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::{kafka, node, now_ms};

pub const WINDOW_MS: u64 = 500;
/// Interval at which the load writes one record to every partition.
const BEAT: Duration = Duration::from_millis(50);
/// Timeout for a restart with a killed broker on two busy cores.
pub const LONG: Duration = Duration::from_secs(150);
/// Counts of reactions. The key is the window start, the room and the emoji.
pub type Counts = BTreeMap<(u64, String, String), u64>;

pub fn topics(prefix: &str) -> Topics {
    Topics::with_prefix(prefix).unwrap()
}

/// A thread that writes batches to every partition until it is stopped. If a test fails, it prints the outcomes of the
/// writes.
pub struct Load {
    /// Number of partitions.
    pub partitions: Arc<AtomicU32>,
    answers: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
    /// The thread that writes. It returns the time of the last reaction.
    writing: Option<JoinHandle<u64>>,
}

/// The outcomes of the writes.
#[derive(Debug, Default)]
struct Answers {
    stored: u64,
    failed: u64,
    last_failure: Option<LogError>,
}

impl Answers {
    fn add(answers: &Mutex<Self>, answer: Result<u64, LogError>) {
        let mut answers = answers.lock().unwrap();
        match answer {
            Ok(_) => answers.stored += 1,
            Err(error) => {
                answers.failed += 1;
                answers.last_failure = Some(error);
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("the load's records: {:?}", self.answers.lock());
        }
    }
}

impl Load {
    pub fn start(brokers: &str, prefix: &str, partitions: u32, seed: u64) -> Load {
        let (brokers, topic) = (brokers.to_owned(), topics(prefix).reactions());
        let partitions = Arc::new(AtomicU32::new(partitions));
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::<Mutex<Answers>>::default();
        let (count, stopping, answered) = (partitions.clone(), stop.clone(), answers.clone());
        let writing = thread::spawn(move || {
            let log = kafka::connect(&brokers);
            // The timeout is longer than every outage of a broker, so each record is in the log once.
            let appender = log.appender(LONG).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let mut last_ms = 0;
            while !stopping.load(Ordering::SeqCst) {
                let base_ms = now_ms();
                for partition in 0..count.load(Ordering::SeqCst) {
                    let reaction = |rng: &mut StdRng| Reaction {
                        user: UserId::new("u").unwrap(),
                        emoji: Emoji::from_text(["🔥", "👏", "😂"][rng.random_range(0..3)])
                            .unwrap(),
                        room: Room::new(["a", "b", "c", "d"][rng.random_range(0..4)]).unwrap(),
                        at_ms: base_ms,
                    };
                    let reactions: Vec<Reaction> = (0..rng.random_range(0..20))
                        .map(|_| reaction(&mut rng))
                        .collect();
                    let record = NewRecord {
                        topic: topic.clone(),
                        partition: Some(partition),
                        time_ms: Some(base_ms),
                        key: None,
                        value: Batch::encode(base_ms, &reactions).into(),
                        headers: Vec::new(),
                    };
                    // A refused record is not in the log, so it needs no further treatment: the comparison counts the
                    // log.
                    let answers = answered.clone();
                    let done = Box::new(move |answer| Answers::add(&answers, answer));
                    if let Err(error) = appender.append(record, done) {
                        Answers::add(&answered, Err(error));
                    }
                }
                last_ms = base_ms;
                thread::sleep(BEAT);
            }
            last_ms
        });
        Load {
            partitions,
            answers,
            stop,
            writing: Some(writing),
        }
    }

    /// Sends reactions until every earlier window can close, and then stops. Returns the time up to which all windows
    /// are closed.
    pub fn end(mut self) -> u64 {
        thread::sleep(2 * Duration::from_millis(WINDOW_MS) + Duration::from_secs(1));
        self.stop.store(true, Ordering::SeqCst);
        // Windows are closed up to the last reaction's time, less the lateness (750 ms) and one window.
        self.writing.take().unwrap().join().unwrap() - 750 - WINDOW_MS
    }
}

/// Counts the reactions in the log without a dataflow. It skips windows that end after `until_ms`.
pub fn written(log: &KafkaLog, prefix: &str, until_ms: u64) -> Counts {
    count_batches(log, &topics(prefix).reactions(), until_ms)
}

fn count_batches(log: &KafkaLog, topic: &str, until_ms: u64) -> Counts {
    let mut counts = Counts::new();
    read_to_end(log, topic, &mut |record| {
        let batch = Batch::decode(record.value).unwrap();
        for reaction in batch.reactions().unwrap() {
            let start = reaction.at_ms / WINDOW_MS * WINDOW_MS;
            if start + WINDOW_MS <= until_ms {
                let key = (start, reaction.room.to_string(), reaction.emoji.to_string());
                *counts.entry(key).or_default() += 1;
            }
        }
    })
    .unwrap();
    counts
}

/// Returns the counts of reactions in final results, as Kafka's own consumer reads them, and of rejected reactions.
/// Asserts that each window of a room has one final result.
fn finals(log: &KafkaLog, brokers: &str, prefix: &str, until_ms: u64) -> Counts {
    let mut counts = Counts::new();
    let mut seen = BTreeMap::new();
    for record in kafka::consume(brokers, &topics(prefix).windows()) {
        let json: Value = serde_json::from_str(&record.value).unwrap();
        let start = json["start"].as_u64().unwrap();
        let place = (record.partition, record.offset);
        if let Some(other) = seen.insert((record.key.clone(), start), place) {
            panic!(
                "{} {start} is final twice: at {other:?} and {place:?}",
                record.key
            );
        }
        if start + WINDOW_MS > until_ms {
            continue;
        }
        for tally in json["counts"].as_array().unwrap() {
            let emoji = tally["emoji"].as_str().unwrap().to_owned();
            let key = (start, record.key.clone(), emoji);
            *counts.entry(key).or_default() += tally["count"].as_u64().unwrap();
        }
    }
    for (key, late) in count_batches(log, &topics(prefix).rejected(), until_ms) {
        *counts.entry(key).or_default() += late;
    }
    counts
}

pub fn check(log: &KafkaLog, brokers: &str, prefix: &str, until_ms: u64) {
    let expected = written(log, prefix, until_ms);
    assert!(expected.values().sum::<u64>() > 100, "there was a load");
    let found = finals(log, brokers, prefix, until_ms);
    for (key, count) in &expected {
        assert_eq!(found.get(key), Some(count), "{key:?}");
    }
    assert_eq!(found, expected);
}

/// Returns the final-until time, up to which all windows are final, as `inspect progress` prints it.
pub fn final_until_ms(brokers: &str, prefix: &str) -> u64 {
    let arguments = [
        "inspect",
        "progress",
        "--kafka",
        brokers,
        "--topic-prefix",
        prefix,
    ];
    let output = node::run(&[&arguments[..], &["--format", "json"]].concat());
    let lines = String::from_utf8(output.stdout).unwrap();
    let newest = lines.lines().last().unwrap_or("null");
    let json: Value = serde_json::from_str(newest).unwrap_or_default();
    json["value"]["final_until_ms"].as_u64().unwrap_or(0)
}

pub fn arguments(brokers: &str, prefix: &str, workers: u32, processes: &[&str]) -> Vec<String> {
    let workers = workers.to_string();
    let arguments = [
        "dataflow",
        "--kafka",
        brokers,
        "--topic-prefix",
        prefix,
        "--admin",
        "off",
        "--window",
        "500ms",
        "-w",
        &workers,
    ];
    arguments
        .iter()
        .chain(processes)
        .map(ToString::to_string)
        .collect()
}

/// Returns the sum of the end offsets of the `windows` topic. It grows only with closes that have final results.
pub fn closes(log: &KafkaLog, prefix: &str) -> Result<u64, LogError> {
    let windows = topics(prefix).windows();
    Ok(log.offsets(&windows)?.iter().map(|kept| kept.end).sum())
}
