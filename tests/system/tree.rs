//! Tests of all roles as processes on a real Kafka: two ingests, a dataflow of two processes, a publisher, and two
//! levels of relays. Each process is killed in turn under load. Subscribers at the lowest relays get every final once,
//! over both protocols, and these are the finals that Kafka's own consumer reads.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};

use crate::harness::{
    finals, http, kafka,
    node::{self, Node, last_lines},
    rooms::{Address, By, Watcher},
    seed,
    supervised::{Supervised, free_addresses},
    unique, until, until_within,
};

const ROOMS: [&str; 3] = ["a", "b", "c"];
const EMOJIS: [&str; 3] = ["🔥", "👏", "😂"];
const LAST: &str = "🏁";
/// Timeout until a killed process of the dataflow has joined its cluster again, on two busy cores.
const LONG: Duration = Duration::from_secs(150);
/// Exit codes that a process may have: -9 (killed), 75 (restart), 69 (its upstream, Kafka or another process was
/// unavailable at a start).
const GOOD_ENDS: [i32; 3] = [-9, 75, 69];

#[test]
fn the_leaves_get_every_final_once_while_each_process_is_killed() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(dir.path(), seed);
    let leaves: Vec<Address> = cluster.leaves.iter().map(|at| address(at)).collect();
    let watchers: Vec<(&str, Watcher)> = ROOMS
        .iter()
        .flat_map(|room| [(*room, By::WebSocket), (*room, By::Events)])
        .zip(0..)
        .map(|((room, by), nth)| {
            let mut leaves = leaves.clone();
            leaves.rotate_left(nth % 2);
            (room, Watcher::of(leaves, room, by))
        })
        .collect();
    until_within(LONG, "subscribers at the leaves", || {
        watchers.iter().all(|(_, w)| w.hellos() > 0).then_some(())
    });
    let producers = Producers::start(&cluster.ingests, seed);
    let seen = || -> Vec<usize> { watchers.iter().map(|(_, w)| w.finals().len()).collect() };
    let news_for_all = || {
        let before = seen();
        until_within(LONG, "a final for everybody", || {
            let more = seen().iter().zip(&before).all(|(now, then)| now > then);
            more.then_some(())
        });
    };
    news_for_all();

    let mut victims: Vec<usize> = (0..cluster.processes.len()).collect();
    victims.shuffle(&mut random);
    for victim in victims {
        let (name, process) = &cluster.processes[victim];
        println!("kill {name}");
        process.signal("KILL");
        // Some processes are killed before the previously killed one is ready again.
        if random.random_bool(0.3) {
            thread::sleep(Duration::from_millis(random.random_range(0..1500)));
        } else {
            news_for_all();
        }
    }
    news_for_all();
    producers.stop();
    for room in ROOMS {
        cluster.post_last(room);
    }
    until_within(LONG, "the last window of every room", || {
        let last = |watcher: &Watcher| {
            let finals = watcher.finals();
            finals.iter().any(|f| f.counts.contains_key(LAST))
        };
        watchers.iter().all(|(_, w)| last(w)).then_some(())
    });

    let kept = kept(&cluster.brokers, &cluster.prefix);
    for (room, watcher) in &watchers {
        assert_eq!(watcher.gaps(), 0, "room {room}");
        let seen: Vec<Kept> = watcher
            .finals()
            .iter()
            .map(|f| (f.id.clone(), f.start, f.counts.clone()))
            .collect();
        assert_eq!(seen, kept[*room], "room {room}");
    }
    for (name, process) in &cluster.processes {
        let codes = process.codes();
        assert!(
            codes.iter().all(|code| GOOD_ENDS.contains(code)),
            "{name} ended with {codes:?}"
        );
    }
}

/// A record of the `windows` topic: its id, start and counts.
type Kept = (String, u64, BTreeMap<String, u64>);

/// Returns the finals that Kafka's own consumer reads, by room.
fn kept(brokers: &str, prefix: &str) -> BTreeMap<String, Vec<Kept>> {
    let mut kept: BTreeMap<String, Vec<Kept>> = BTreeMap::new();
    for record in kafka::consume(brokers, &format!("{prefix}.windows")) {
        let value: Value = serde_json::from_str(&record.value).unwrap();
        let id = format!("{}-{}", record.partition, record.offset);
        let start = value["start"].as_u64().unwrap();
        kept.entry(record.key)
            .or_default()
            .push((id, start, finals::counts(&value["counts"])));
    }
    kept
}

fn address(at: &str) -> Address {
    Arc::new(Mutex::new(at.to_owned()))
}

struct Cluster {
    brokers: String,
    prefix: String,
    ingests: Vec<String>,
    leaves: Vec<String>,
    processes: Vec<(String, Supervised)>,
    logs: Vec<std::path::PathBuf>,
}

impl Cluster {
    fn start(dir: &Path, seed: u64) -> Cluster {
        let (brokers, prefix) = (kafka::brokers(), unique("tree"));
        let kafka = ["--kafka", &brokers, "--topic-prefix", &prefix];
        node::output(&[&["topics", "create"], &kafka[..], &["--partitions", "3"]].concat());
        let places = free_addresses(10);
        let [
            ingest_0,
            ingest_1,
            peer_0,
            peer_1,
            publisher,
            feed,
            relay,
            relay_feed,
            leaf_0,
            leaf_1,
        ] = &places[..]
        else {
            unreachable!("ten addresses are requested");
        };
        let hosts = format!("{peer_0},{peer_1}");
        let both = format!("{relay_feed},{feed}");
        let of = |command: &str, arguments: &[&str]| -> Vec<String> {
            let all = [&[command, "--admin", "off"], arguments].concat();
            all.iter().map(ToString::to_string).collect()
        };
        let on_kafka =
            |command: &str, arguments: &[&str]| of(command, &[&kafka[..], arguments].concat());
        let ingest = |at: &str| on_kafka("ingest", &["--listen", at, "--flush", "100ms"]);
        let dataflow = |index: &str| {
            let hosts = ["--hosts", &hosts, "-n", "2", "-p", index];
            on_kafka("dataflow", &[&hosts[..], &["--window", "500ms"]].concat())
        };
        let leaf = |at: &str| of("relay", &["--upstream", &both, "--listen", at]);
        let relay_listen = ["--listen", relay, "--relay-listen", relay_feed];
        let processes = [
            ("ingest-0", ingest(ingest_0)),
            ("ingest-1", ingest(ingest_1)),
            ("dataflow-0", dataflow("0")),
            ("dataflow-1", dataflow("1")),
            (
                "publisher",
                on_kafka(
                    "publisher",
                    &["--listen", publisher, "--relay-listen", feed],
                ),
            ),
            (
                "relay",
                of(
                    "relay",
                    &[&["--upstream", feed], &relay_listen[..]].concat(),
                ),
            ),
            ("leaf-0", leaf(leaf_0)),
            ("leaf-1", leaf(leaf_1)),
        ];
        let logs = processes.iter().map(|(name, _)| dir.join(name)).collect();
        let start = |(nth, (name, arguments)): (u64, (&str, Vec<String>))| {
            let process = Supervised::start(arguments, dir.join(name), seed.wrapping_add(nth));
            (name.to_owned(), process)
        };
        Cluster {
            ingests: vec![ingest_0.clone(), ingest_1.clone()],
            leaves: vec![leaf_0.clone(), leaf_1.clone()],
            processes: (0..).zip(processes).map(start).collect(),
            logs,
            brokers,
            prefix,
        }
    }

    fn post_last(&self, room: &str) {
        let body = json!({"user_id": "last", "emoji_type": LAST, "room": room}).to_string();
        until("the last reaction is stored", || {
            let answer = http::post(&self.ingests[0], "/v1/reactions?wait=stored", &body).ok()?;
            (answer.status == 200).then_some(())
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for log in &self.logs {
                println!("{}", last_lines(log));
            }
        }
    }
}

/// Threads that send reactions to both ingests until they are stopped.
struct Producers {
    stop: Arc<AtomicBool>,
    posters: Vec<JoinHandle<()>>,
}

impl Producers {
    fn start(ingests: &[String], seed: u64) -> Producers {
        let stop = Arc::new(AtomicBool::new(false));
        let poster = |(nth, at): (u64, &String)| {
            let (stop, at) = (stop.clone(), at.clone());
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(nth));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let reactions: Vec<Value> = (0..20).map(|_| reaction(&mut random)).collect();
                    // Errors are ignored. A killed ingest accepts no reactions, and the test compares the frames with
                    // the finals in Kafka, not with the reactions that were sent.
                    let _ = http::post(&at, "/v1/reactions", &Value::Array(reactions).to_string());
                    thread::sleep(Duration::from_millis(20));
                }
            })
        };
        let posters = (0..).zip(ingests).map(poster).collect();
        Producers { stop, posters }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for poster in self.posters {
            poster.join().unwrap();
        }
    }
}

fn reaction(random: &mut StdRng) -> Value {
    let room = ROOMS[random.random_range(0..ROOMS.len())];
    let emoji = EMOJIS[random.random_range(0..EMOJIS.len())];
    json!({"user_id": 7, "emoji_type": emoji, "room": room})
}

#[test]
fn a_relay_that_finds_no_upstream_ends_with_69_and_says_what_to_look_at() {
    let absent = free_addresses(1).remove(0);
    let output = node::run(&[
        "relay",
        "--upstream",
        &absent,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
    ]);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{printed}");
    let line = printed.lines().last().unwrap();
    assert!(
        line.contains(&absent) && line.contains("--relay-listen"),
        "{line}"
    );
}

#[test]
fn up_feeds_relays_too() {
    let dir = tempfile::tempdir().unwrap();
    let feed = free_addresses(1).remove(0);
    let token = dir.path().join("token");
    std::fs::write(&token, "a secret of the tree\n").unwrap();
    let known = ["--relay-token-file", token.to_str().unwrap()];
    let up = Node::up(
        dir.path(),
        &[&["--relay-listen", &feed], &known[..]].concat(),
    );
    let relay = ["relay", "--upstream", &feed, "--listen", "127.0.0.1:0"];
    let relay = [&relay[..], &["--admin", "127.0.0.1:0"]].concat();
    let relay_log = dir.path().join("relay");
    let node = Node::start(&[&relay[..], &known].concat(), &relay_log);
    let watcher = Watcher::follow(address(&node.address), "r");
    until("a subscriber", || (watcher.hellos() > 0).then_some(()));
    let body = json!({"user_id": "u", "emoji_type": "🔥", "room": "r"}).to_string();
    assert_eq!(
        http::post(&up.address, "/v1/reactions", &body)
            .unwrap()
            .status,
        202
    );
    until("its final", || (!watcher.finals().is_empty()).then_some(()));
    let subscribers = || {
        let state = http::get(&up.address, "/v1/rooms/r").unwrap().json();
        (state["subscribers"] == 1).then_some(())
    };
    until("the audience of the tree", subscribers);
    let admin = node.admin();
    let ready = || http::get(&admin, "/readyz").unwrap();
    assert_eq!(ready().status, 200);
    // A relay without the token gets an error from its upstream, so it ends with 69.
    let stranger = node::run(&relay);
    let printed = String::from_utf8(stranger.stderr).unwrap();
    assert_eq!(stranger.status.code(), Some(69), "{printed}");
    assert!(printed.contains("--relay-token-file"), "{printed}");
    // The relay continues to serve its state without its upstream.
    up.kill();
    until("not ready", || (ready().status == 503).then_some(()));
    assert!(ready().body.contains(&feed));
    let history = http::get(&node.address, "/v1/rooms/r/history").unwrap();
    assert_eq!(http::finals(&history).len(), 1);
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
}
