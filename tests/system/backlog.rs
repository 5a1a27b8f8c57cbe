//! Tests that final results do not depend on the speed of reading: a backlog gives final results with the same bytes as
//! the same records that are read as they arrive.

use std::{
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emostream_log::{Log, NewRecord, WakeSignal};
use emostream_model::{Batch, Emoji, Reaction, Room, Topics, UserId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::harness::{
    self, http, kafka,
    node::{self, Node},
    unique, until,
};

const PARTITIONS: u32 = 3;
const LIVE_FOR: Duration = Duration::from_secs(20);
const BACKLOG_MS: u64 = 10 * 60 * 1000;
const FLUSH_MS: u64 = 500;
const WINDOW_MS: u64 = 2000;
const ROOMS: [&str; 4] = ["a", "b", "c", "d"];
const EMOJIS: [&str; 4] = ["🔥", "👏", "😂", "❤️"];

/// Keys and values of final results, byte for byte.
type Finals = Vec<(String, String)>;

#[test]
fn a_backlog_at_full_speed_gives_the_same_bytes_as_live() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, live, again) = (kafka::brokers(), unique("live"), unique("again"));
    kafka::create_topics(&brokers, &live, PARTITIONS);
    let dataflow = dataflow(dir.path(), &brokers, &live, "1");
    let ingest = Node::start(
        &[
            "ingest",
            "--kafka",
            &brokers,
            "--topic-prefix",
            &live,
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
        ],
        &dir.path().join("ingest"),
    );
    let posted = post_for(&ingest.address, LIVE_FOR);
    // The ingest continues to send heartbeats, so the last window closes.
    let by_live = finals_of(&brokers, &live, posted);
    assert_eq!(ingest.stop(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(dataflow.stop(Duration::from_secs(10)).code(), Some(0));

    kafka::create_topics(&brokers, &again, PARTITIONS);
    copy(&kafka::connect(&brokers), &live, &again);
    let backlog = self::dataflow(dir.path(), &brokers, &again, "2");
    let by_backlog = finals_of(&brokers, &again, posted);
    assert_eq!(backlog.stop(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(by_backlog, by_live);
}

#[test]
fn ten_minutes_of_event_time_give_the_same_bytes_with_any_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let brokers = kafka::brokers();
    let log = kafka::connect(&brokers);
    let mut seen: Vec<Finals> = Vec::new();
    let minutes = ten_minutes();
    for workers in ["1", "2"] {
        let prefix = unique("minutes");
        kafka::create_topics(&brokers, &prefix, PARTITIONS);
        append_all(&log, minutes.records(&prefix));
        let dataflow = dataflow(dir.path(), &brokers, &prefix, workers);
        seen.push(finals_of(&brokers, &prefix, minutes.reactions));
        assert_eq!(dataflow.stop(Duration::from_secs(10)).code(), Some(0));
    }
    assert_eq!(seen[0], minutes.expected(), "as counted by hand");
    assert_eq!(seen[1], seen[0], "one worker and two");
}

fn dataflow(dir: &Path, brokers: &str, prefix: &str, workers: &str) -> Node {
    let arguments = [
        "dataflow",
        "--kafka",
        brokers,
        "--topic-prefix",
        prefix,
        "-w",
        workers,
        "--admin",
        "off",
    ];
    Node::start_silent(&arguments, &dir.join("dataflow"))
}

/// Waits until the final results contain `reactions` reactions, and returns the final results in the order of room and
/// window.
fn finals_of(brokers: &str, prefix: &str, reactions: u64) -> Finals {
    let inspect = [
        "inspect",
        "windows",
        "--format",
        "json",
        "--kafka",
        brokers,
        "--topic-prefix",
        prefix,
    ];
    until("all reactions are in finals", || {
        let text = node::output(&inspect);
        let total = |line: &str| {
            let record: Value = serde_json::from_str(line).unwrap();
            record["value"]["total"].as_u64().unwrap()
        };
        let sum: u64 = text.lines().map(total).sum();
        assert!(sum <= reactions, "{sum} counted of {reactions}");
        (sum == reactions).then_some(())
    });
    // The final results are read by Kafka's own consumer, so that their bytes do not depend on our code.
    let consumed = kafka::consume(brokers, &format!("{prefix}.windows"));
    let mut finals: Finals = consumed.into_iter().map(|r| (r.key, r.value)).collect();
    finals.sort_by_key(|(room, value)| {
        let value: Value = serde_json::from_str(value).unwrap();
        (room.clone(), value["start"].as_u64())
    });
    finals
}

fn post_for(address: &str, span: Duration) -> u64 {
    let mut random = StdRng::seed_from_u64(harness::seed());
    let start = Instant::now();
    let mut posted = 0;
    while start.elapsed() < span {
        let size = random.random_range(1..200);
        let entry = |_| {
            let (room, emoji) = (
                random.random_range(0..ROOMS.len()),
                random.random_range(0..EMOJIS.len()),
            );
            json!({"user_id": 1, "emoji_type": EMOJIS[emoji], "room": ROOMS[room]})
        };
        let body = Value::Array((0..size).map(entry).collect()).to_string();
        let answer = http::post(address, "/v1/reactions?wait=stored", &body).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        posted += size;
        thread::sleep(Duration::from_millis(20));
    }
    posted
}

/// Copies the reactions to the topic of another prefix, with the same values, times and partitions.
fn copy(log: &dyn Log, from: &str, to: &str) {
    let topic = |prefix: &str| Topics::with_prefix(prefix).unwrap().reactions();
    let bell = WakeSignal::default();
    let mut records = Vec::new();
    for (partition, range) in (0..).zip(log.offsets(&topic(from)).unwrap()) {
        let mut reader = log
            .reader(&topic(from), &[(partition, range.start)], bell.wake())
            .unwrap();
        while reader.position(partition) < range.end {
            let read = reader.poll(partition, 1000, &mut |record| {
                records.push(NewRecord {
                    topic: topic(to),
                    partition: Some(partition),
                    time_ms: Some(record.time_ms),
                    key: None,
                    value: record.value.to_vec().into(),
                    headers: Vec::new(),
                });
            });
            if read.unwrap() == 0 {
                bell.wait(Duration::from_millis(100));
            }
        }
    }
    append_all(log, records);
}

fn append_all(log: &dyn Log, records: Vec<NewRecord>) {
    let appender = log.appender(Duration::from_secs(20)).unwrap();
    let (stored, done) = mpsc::channel();
    let count = records.len();
    for record in records {
        let stored = stored.clone();
        until("a place in the queue", || {
            let stored = stored.clone();
            let done = Box::new(move |result| stored.send(result).unwrap());
            appender.append(record.clone(), done).ok()
        });
    }
    for _ in 0..count {
        done.recv().unwrap().unwrap();
    }
}

/// Ten minutes of generated reactions that end now, with one entry for each flush and partition.
struct Minutes {
    flushes: Vec<(u64, u32, Vec<Reaction>)>,
    reactions: u64,
}

fn ten_minutes() -> Minutes {
    let mut random = StdRng::seed_from_u64(harness::seed());
    let now_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let start_ms = now_ms - BACKLOG_MS;
    let mut flushes = Vec::new();
    let mut reactions = 0;
    for base_ms in (start_ms..now_ms).step_by(FLUSH_MS as usize) {
        // The last seconds contain only heartbeats, so that every window before them closes.
        let busy = base_ms < now_ms - 3 * WINDOW_MS;
        for partition in 0..PARTITIONS {
            let size = if busy { random.random_range(0..40) } else { 0 };
            let reaction = |_| Reaction {
                user: UserId::new("u").unwrap(),
                emoji: Emoji::from_text(EMOJIS[random.random_range(0..EMOJIS.len())]).unwrap(),
                room: Room::new(ROOMS[random.random_range(0..ROOMS.len())]).unwrap(),
                at_ms: base_ms + random.random_range(0..FLUSH_MS),
            };
            let batch: Vec<Reaction> = (0..size).map(reaction).collect();
            reactions += batch.len() as u64;
            flushes.push((base_ms, partition, batch));
        }
    }
    Minutes { flushes, reactions }
}

impl Minutes {
    fn records(&self, prefix: &str) -> Vec<NewRecord> {
        let topic = Topics::with_prefix(prefix).unwrap().reactions();
        let record = |(base_ms, partition, batch): &(u64, u32, Vec<Reaction>)| NewRecord {
            topic: topic.clone(),
            partition: Some(*partition),
            time_ms: Some(base_ms + FLUSH_MS),
            key: None,
            value: Batch::encode(*base_ms, batch).into(),
            headers: Vec::new(),
        };
        self.flushes.iter().map(record).collect()
    }

    /// Counts the reactions without a dataflow, and returns the final results that a dataflow should write.
    fn expected(&self) -> Finals {
        use std::collections::BTreeMap;
        let mut windows: BTreeMap<(String, u64), BTreeMap<&str, u64>> = BTreeMap::new();
        for reaction in self.flushes.iter().flat_map(|(_, _, batch)| batch) {
            let start = reaction.at_ms - reaction.at_ms % WINDOW_MS;
            let window = windows
                .entry((reaction.room.to_string(), start))
                .or_default();
            *window.entry(reaction.emoji.as_str()).or_default() += 1;
        }
        let text = |((room, start), counts): ((String, u64), BTreeMap<&str, u64>)| {
            let total: u64 = counts.values().sum();
            let mut counts: Vec<_> = counts.into_iter().collect();
            counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
            let tally = |(emoji, count): &(&str, u64)| {
                format!(
                    r#"{{"emoji":"{emoji}","count":{count},"swarms":{},"loose":{}}}"#,
                    count / 1000,
                    count % 1000
                )
            };
            let counts: Vec<String> = counts.iter().map(tally).collect();
            let end = start + WINDOW_MS;
            let value = format!(
                r#"{{"room":"{room}","start":{start},"end":{end},"total":{total},"counts":[{}]}}"#,
                counts.join(",")
            );
            (room, value)
        };
        windows.into_iter().map(text).collect()
    }
}
