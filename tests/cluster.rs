//! The dataflow as a cluster of real processes on a real Kafka: whatever is killed, frozen or added,
//! the finals hold every reaction once, as a consumer that is not ours reads them.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod harness;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emostream_log::{
    Log, LogError, NewRecord,
    kafka::{KafkaLog, KafkaOptions},
    read_to_end,
};
use emostream_model::{Batch, Emoji, Reaction, Room, Topics, UserId};
use harness::{
    kafka::{self, Broker, add_partitions},
    node::{self, Node, said_at_last},
    seed,
    supervised::{Supervised, free_addresses},
    unique, until, until_within,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;

const WINDOW_MS: u64 = 500;
/// How often the load writes one record to every partition.
const BEAT: Duration = Duration::from_millis(50);
/// A restart with a broker that was killed takes its time on two busy cores.
const LONG: Duration = Duration::from_secs(150);
/// What a process of a group may end with: restart me; Kafka or a peer is not there; killed.
const GOOD_ENDS: [i32; 3] = [75, 69, -9];

/// By (window start, room, emoji).
type Counts = BTreeMap<(u64, String, String), u64>;

fn connect(brokers: &str) -> KafkaLog {
    let (brokers, properties) = (brokers.to_owned(), Vec::new());
    KafkaLog::connect(KafkaOptions {
        brokers,
        properties,
        ..KafkaOptions::default()
    })
    .unwrap()
}

fn topics(prefix: &str) -> Topics {
    Topics::with_prefix(prefix).unwrap()
}

fn create(brokers: &str, prefix: &str, partitions: u32) {
    let partitions = partitions.to_string();
    let create = [
        "topics",
        "create",
        "--kafka",
        brokers,
        "--topic-prefix",
        prefix,
    ];
    node::output(&[&create[..], &["--partitions", &partitions]].concat());
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

/// Writes batches to every partition until it is stopped. If a test fails, what became of them is shown.
struct Load {
    partitions: Arc<AtomicU32>,
    answers: Arc<Mutex<Answers>>,
    stop: Arc<AtomicBool>,
    /// At last it tells the time of the last reaction.
    writing: Option<JoinHandle<u64>>,
}

/// What the log answered the load.
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
    fn start(brokers: &str, prefix: &str, partitions: u32, seed: u64) -> Load {
        let (brokers, topic) = (brokers.to_owned(), topics(prefix).reactions());
        let partitions = Arc::new(AtomicU32::new(partitions));
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::<Mutex<Answers>>::default();
        let (count, stopping, answered) = (partitions.clone(), stop.clone(), answers.clone());
        let writing = thread::spawn(move || {
            let log = connect(&brokers);
            // Longer than any broker is away: what is written is in the log once, sooner or later.
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
                    // What is not taken is not in the log, and nobody expects it.
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

    /// Stops after reactions that close every earlier window; the time before which all is closed.
    fn end(mut self) -> u64 {
        thread::sleep(2 * Duration::from_millis(WINDOW_MS) + Duration::from_secs(1));
        self.stop.store(true, Ordering::SeqCst);
        // The lateness, and a window.
        self.writing.take().unwrap().join().unwrap() - 750 - WINDOW_MS
    }
}

/// What the log holds, counted by hand; what lies in windows that begin after `until_ms` is left out.
fn written(log: &KafkaLog, prefix: &str, until_ms: u64) -> Counts {
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

/// The finals as Kafka's own consumer reads them, each window of a room once; and the rejected.
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

fn check(log: &KafkaLog, brokers: &str, prefix: &str, until_ms: u64) {
    let expected = written(log, prefix, until_ms);
    assert!(expected.values().sum::<u64>() > 100, "there was a load");
    let found = finals(log, brokers, prefix, until_ms);
    for (key, count) in &expected {
        assert_eq!(found.get(key), Some(count), "{key:?}");
    }
    assert_eq!(found, expected);
}

/// F, as `inspect` tells it.
fn final_until_ms(brokers: &str, prefix: &str) -> u64 {
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

fn arguments(brokers: &str, prefix: &str, workers: u32, processes: &[&str]) -> Vec<String> {
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

/// A group of supervised processes. If a test fails, what they said at last is shown.
struct Group {
    processes: Vec<Supervised>,
    dir: PathBuf,
}

impl Drop for Group {
    fn drop(&mut self) {
        if thread::panicking() {
            for index in 0..self.processes.len() {
                println!("{}", said_at_last(&self.log(index)));
            }
        }
    }
}

impl Group {
    fn start(
        dir: &Path,
        brokers: &str,
        prefix: &str,
        workers: u32,
        processes: usize,
        seed: u64,
    ) -> Group {
        let hosts = free_addresses(processes).join(",");
        let count = processes.to_string();
        let start = |index: usize| {
            let (place, log) = (index.to_string(), dir.join(format!("process-{index}")));
            let cluster = ["-n", &count, "-p", &place, "--hosts", &hosts];
            Supervised::start(
                arguments(brokers, prefix, workers, &cluster),
                log,
                seed + index as u64,
            )
        };
        Group {
            processes: (0..processes).map(start).collect(),
            dir: dir.to_owned(),
        }
    }

    fn log(&self, index: usize) -> PathBuf {
        self.dir.join(format!("process-{index}"))
    }

    /// SIGTERM to one of them ends all with 0.
    fn drain(mut self, asked: usize) {
        self.processes.iter_mut().for_each(Supervised::leave_alone);
        self.processes[asked].signal("TERM");
        for process in &mut self.processes {
            assert_eq!(process.ended().code(), Some(0));
        }
    }

    fn check_ends(&self) {
        for (index, process) in self.processes.iter().enumerate() {
            let codes = process.codes();
            let good = codes.iter().all(|code| GOOD_ENDS.contains(code));
            assert!(good, "process {index} ended with {codes:?}");
        }
    }
}

/// What a test sees of the log. If it fails, what it saw last is shown: whether the program, the load or the
/// test's own client stood still.
struct Seen<'a> {
    log: &'a KafkaLog,
    topics: Topics,
    answer: Mutex<Result<u64, LogError>>,
}

impl<'a> Seen<'a> {
    fn of(log: &'a KafkaLog, prefix: &str) -> Self {
        Self {
            log,
            topics: topics(prefix),
            answer: Mutex::new(Ok(0)),
        }
    }

    /// The end of the progress: it grows with every commit.
    fn commits(&self) -> u64 {
        let answer = self.log.offsets(&self.topics.progress());
        let answer = answer.map(|kept| kept[0].end);
        self.answer.lock().unwrap().clone_from(&answer);
        answer.unwrap_or(0)
    }
}

impl Drop for Seen<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        println!("the progress ended at {:?}", self.answer.lock());
        for topic in [self.topics.reactions(), self.topics.windows()] {
            println!("{topic} holds {:?}", self.log.offsets(&topic));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Freeze,
    KillBroker,
}

#[test]
fn nothing_that_is_killed_or_frozen_changes_a_final() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    // One that is silent for 2 s would be fenced, and no transaction ends without a leader.
    let broker = Broker::start_for_a_cluster();
    let (brokers, prefix) = (broker.address(), unique("chaos"));
    create(&brokers, &prefix, 4);
    let log = connect(&brokers);
    let load = Load::start(&brokers, &prefix, 4, seed);
    let group = Group::start(dir.path(), &brokers, &prefix, 2, 3, seed);
    let seen = Seen::of(&log, &prefix);
    let commits = || seen.commits();
    let committed_since = |before: u64| {
        until_within(LONG, "a commit", || (commits() > before).then_some(()));
    };
    committed_since(0);

    let mut faults = [
        vec![Fault::Kill; 20],
        vec![Fault::Freeze; 3],
        vec![Fault::KillBroker; 3],
    ];
    faults[1].append(&mut faults[2].clone());
    let mut faults: Vec<Fault> = faults[..2].concat();
    faults.shuffle(&mut rng);
    for (number, fault) in faults.into_iter().enumerate() {
        let victim = rng.random_range(0..3);
        println!("{number}: {fault:?} {victim}");
        // Sometimes in the midst of a recovery, sometimes once it counts again.
        if rng.random_bool(0.6) {
            committed_since(commits());
        } else {
            thread::sleep(Duration::from_millis(rng.random_range(0..1500)));
        }
        match fault {
            Fault::Kill => group.processes[victim].signal("KILL"),
            Fault::Freeze => freeze(&group, victim),
            Fault::KillBroker => {
                broker.kill();
                thread::sleep(Duration::from_millis(rng.random_range(0..3000)));
                broker.come_back();
            }
        }
    }
    committed_since(commits());
    let until_ms = load.end();
    until_within(LONG, "everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    group.check_ends();
    group.drain(rng.random_range(0..3));
    check(&log, &brokers, &prefix, until_ms);
}

/// The others notice that one is frozen, and end; thawed, it ends too.
fn freeze(group: &Group, victim: usize) {
    // A group that forms just now waits for the frozen one as for any that is not there yet.
    let pid = group.processes[victim].pid();
    let ends: Vec<usize> = group.processes.iter().map(Supervised::ends).collect();
    let frozen = Instant::now();
    harness::signal::signal(pid, "STOP");
    let others = (0..3).filter(|index| *index != victim);
    until_within(LONG, "the others notice, or had no group", || {
        let noticed = others
            .clone()
            .all(|index| group.processes[index].ends() > ends[index]);
        (noticed || frozen.elapsed() > Duration::from_secs(15)).then_some(())
    });
    harness::signal::signal(pid, "CONT");
}

#[test]
fn a_frozen_process_is_noticed_and_cannot_commit_once_it_thaws() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("frozen"));
    create(&brokers, &prefix, 4);
    let log = connect(&brokers);
    let load = Load::start(&brokers, &prefix, 4, 1);
    let commits = || {
        log.offsets(&topics(&prefix).progress())
            .map_or(0, |kept| kept[0].end)
    };
    let hosts = free_addresses(2).join(",");
    let start = |index: &str, name: &str| {
        let cluster = ["-n", "2", "-p", index, "--hosts", &hosts];
        let arguments = arguments(&brokers, &prefix, 1, &cluster);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Node::start_silent(&arguments, &dir.path().join(name))
    };
    let (first, second) = (start("0", "0"), start("1", "1"));
    until("a commit", || (commits() > 0).then_some(()));
    // The one that commits is frozen; another takes its place meanwhile.
    harness::signal::signal(first.pid(), "STOP");
    assert_eq!(second.ended().code(), Some(75));
    let said = std::fs::read_to_string(dir.path().join("1")).unwrap();
    assert!(
        said.contains("process 0") && said.contains("was lost"),
        "{said}"
    );
    let (newer, second) = (start("0", "newer"), start("1", "1"));
    let before = commits();
    until("the newer group commits", || {
        (commits() > before).then_some(())
    });
    harness::signal::signal(first.pid(), "CONT");
    assert_eq!(first.ended().code(), Some(75));
    let until_ms = load.end();
    until("everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    assert_eq!(second.stop(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(newer.ended().code(), Some(0));
    check(&log, &brokers, &prefix, until_ms);
}

#[test]
fn a_group_comes_back_with_other_workers_and_with_new_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("rescale"));
    create(&brokers, &prefix, 2);
    let log = connect(&brokers);
    let load = Load::start(&brokers, &prefix, 2, 2);
    let commits = || {
        log.offsets(&topics(&prefix).progress())
            .map_or(0, |kept| kept[0].end)
    };
    let counts_again = || {
        let before = commits();
        until_within(LONG, "commits", || (commits() > before + 2).then_some(()));
    };
    for (workers, processes) in [(1, 1), (2, 3), (3, 1)] {
        let group = Group::start(dir.path(), &brokers, &prefix, workers, processes, 3);
        counts_again();
        group.drain(processes - 1);
    }
    // More partitions while it runs: it comes back by itself and reads them too.
    let group = Group::start(dir.path(), &brokers, &prefix, 1, 2, 4);
    counts_again();
    add_partitions(&brokers, &topics(&prefix).reactions(), 4);
    until_within(LONG, "a restart", || {
        group
            .processes
            .iter()
            .all(|process| process.codes() == [75])
            .then_some(())
    });
    load.partitions.store(4, Ordering::SeqCst);
    counts_again();
    let until_ms = load.end();
    until_within(LONG, "everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    group.drain(0);
    check(&log, &brokers, &prefix, until_ms);
}
