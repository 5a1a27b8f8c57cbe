//! Tests that no final is lost, doubled or changed when `up` is killed at random times.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::harness::{
    finals::{self, Final},
    http, kafka,
    node::{self, Node},
    rooms::{Address, Watcher},
    seed, unique, until, until_within,
};

const KILLS_EMBEDDED: usize = 50;
const KILLS_KAFKA: usize = 50;
/// Maximum time between two kills. The times are random: some kills happen during the start, others after several
/// windows have closed.
const LONGEST_LIFE_MS: u64 = 2000;
/// Short windows and flushes, so that more kills happen during a commit.
const WINDOW_MS: u64 = 500;
const QUICK: [&str; 6] = [
    "--window",
    "500ms",
    "--lateness",
    "250ms",
    "--flush",
    "100ms",
];
/// Number of threads that send reactions. A request has 25 reactions and ends with the next flush, after about 100 ms.
/// So 8 threads send about 2000 reactions per second.
const POSTERS: usize = 8;
const BATCH: usize = 25;
const ROOMS: [&str; 3] = ["a", "b", "c"];
const EMOJIS: [&str; 4] = ["🔥", "👏", "😂", "❤️"];
const LAST: &str = "🏁";

#[test]
fn kill_9_at_any_moment_changes_no_final() {
    let dir = tempfile::tempdir().unwrap();
    let finals = survive(KILLS_EMBEDDED, dir.path(), |dir| Node::up(dir, &QUICK));
    let data = dir.path().join("data");
    let text = node::output(&[
        "inspect",
        "windows",
        "--format",
        "json",
        "--data",
        data.to_str().unwrap(),
    ]);
    let records = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        let id = format!("{}-{}", record["partition"], record["offset"]);
        (id, record["value"].clone())
    });
    the_topic_holds_each_once(records, &finals);
}

#[test]
fn kill_9_at_any_moment_changes_no_final_on_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("crash"));
    let finals = survive(KILLS_KAFKA, dir.path(), |dir| {
        Node::up_on_kafka(dir, &brokers, &prefix, &QUICK)
    });
    let consumed = kafka::consume(&brokers, &format!("{prefix}.windows"));
    let records = consumed.into_iter().map(|record| {
        let value: Value = serde_json::from_str(&record.value).unwrap();
        assert_eq!(value["room"], record.key);
        (format!("{}-{}", record.partition, record.offset), value)
    });
    the_topic_holds_each_once(records, &finals);
}

/// A record of the `windows` topic: its id, start and counts.
type Kept = (String, u64, BTreeMap<String, u64>);

/// Asserts that the topic contains each final that the subscribers received once. The topic is read without the
/// publisher.
fn the_topic_holds_each_once(
    records: impl Iterator<Item = (String, Value)>,
    seen: &HashMap<&str, Vec<Final>>,
) {
    let mut of_room: HashMap<String, Vec<Kept>> = HashMap::new();
    for (id, value) in records {
        let room = value["room"].as_str().unwrap().to_owned();
        let start = value["start"].as_u64().unwrap();
        of_room
            .entry(room)
            .or_default()
            .push((id, start, finals::counts(&value["counts"])));
    }
    for (room, seen) in seen {
        let seen: Vec<Kept> = seen
            .iter()
            .map(|f| (f.id.clone(), f.start, f.counts.clone()))
            .collect();
        assert_eq!(of_room[*room], seen, "room {room}");
    }
}

/// Kills the process `kills` times under load, and then checks all counts. Returns the finals of each room.
fn survive(
    kills: usize,
    dir: &Path,
    start: impl Fn(&Path) -> Node,
) -> HashMap<&'static str, Vec<Final>> {
    let mut random = StdRng::seed_from_u64(seed());
    let mut node = start(dir);
    let address: Address = Arc::new(Mutex::new(node.address.clone()));
    let watchers: Vec<_> = ROOMS
        .iter()
        .map(|room| (*room, Watcher::follow(address.clone(), room)))
        .collect();
    let producers = Producers::start(&address, random.random());
    // A watcher resumes after the last final that it has received, so it needs one before the first kill.
    until("a final of every room", || {
        let seen = |(_, watcher): &(_, Watcher)| !watcher.finals().is_empty();
        watchers.iter().all(seen).then_some(())
    });

    for kill in 1..=kills {
        thread::sleep(Duration::from_millis(
            random.random_range(0..LONGEST_LIFE_MS),
        ));
        node.kill();
        node = start(dir);
        *address.lock().unwrap() = node.address.clone();
        for (room, watcher) in &watchers {
            history_continues(&node.address, room, &watcher.finals(), kill);
        }
    }
    let booked = producers.stop();
    let mut all = HashMap::new();
    for (room, watcher) in watchers {
        post_last(&node.address, room);
        let finals = until(&format!("the last window of room {room}"), || {
            let finals = watcher.finals();
            finals
                .iter()
                .any(|f| f.counts.contains_key(LAST))
                .then_some(finals)
        });
        assert_eq!(watcher.gaps(), 0, "room {room}");
        exactly_once(room, &finals, &booked);
        all.insert(room, finals);
    }
    all
}

/// Asserts that every final that was received before a kill is unchanged in the history after the kill.
fn history_continues(address: &str, room: &str, seen: &[Final], kill: usize) {
    let path = format!("/v1/rooms/{room}/history");
    until_within(
        Duration::from_secs(20),
        &format!("room {room}'s history after kill {kill}"),
        || {
            let answer = http::get(address, &path)
                .ok()
                .filter(|answer| answer.status == 200)?;
            let kept = http::finals(&answer);
            let missing = seen.iter().find(|one| !kept.contains(one));
            let changed = |one: &Final| {
                kept.iter()
                    .find(|k| k.start == one.start && *k != one)
                    .cloned()
            };
            if let Some(changed) = missing.and_then(changed) {
                panic!("kill {kill} changed {missing:?} into {changed:?}");
            }
            missing.is_none().then_some(())
        },
    );
}

fn exactly_once(room: &str, finals: &[Final], booked: &Booked) {
    for one in finals {
        one.check(WINDOW_MS, 1000);
    }
    assert!(
        finals.is_sorted_by(|a, b| a.start < b.start),
        "room {room}: a window twice"
    );
    assert!(
        finals.is_sorted_by(|a, b| a.offset() < b.offset()),
        "room {room}: ids fall"
    );
    let mut totals = BTreeMap::new();
    for one in finals {
        for (emoji, count) in &one.counts {
            *totals.entry(emoji.clone()).or_insert(0) += count;
        }
        assert_eq!(
            one.totals, totals,
            "room {room}: the totals are the sum of the finals"
        );
    }
    for emoji in EMOJIS {
        let (stored, unknown) = booked.of(room, emoji);
        let counted = totals.get(emoji).copied().unwrap_or(0);
        println!("room {room} {emoji}: {stored} stored, {unknown} unknown, {counted} counted");
        assert!(
            stored > 0,
            "room {room}: nothing of {emoji} was ever stored"
        );
        assert!(counted >= stored, "room {room}: {emoji} lost");
        assert!(counted <= stored + unknown, "room {room}: {emoji} doubled");
    }
}

fn post_last(address: &str, room: &str) {
    let body = json!({"user_id": "last", "emoji_type": LAST, "room": room}).to_string();
    until("the last reaction is stored", || {
        let answer = http::post(address, "/v1/reactions?wait=stored", &body).ok()?;
        (answer.status == 200).then_some(())
    });
}

/// Numbers of reactions by room and emoji: those that are stored, and those with an unknown outcome.
#[derive(Default)]
struct Booked(HashMap<(String, String), (u64, u64)>);

impl Booked {
    fn of(&self, room: &str, emoji: &str) -> (u64, u64) {
        self.0
            .get(&(room.to_owned(), emoji.to_owned()))
            .copied()
            .unwrap_or_default()
    }
}

struct Producers {
    stop: Arc<AtomicBool>,
    booked: Arc<Mutex<Booked>>,
    posters: Vec<JoinHandle<()>>,
}

impl Producers {
    fn start(address: &Address, seed: u64) -> Producers {
        let stop = Arc::new(AtomicBool::new(false));
        let booked = Arc::new(Mutex::new(Booked::default()));
        let poster = |number: usize| {
            let (stop, booked, address) = (stop.clone(), booked.clone(), address.clone());
            let mut random = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    post_some(&address, &booked, &mut random);
                }
            })
        };
        let posters = (0..POSTERS).map(poster).collect();
        Producers {
            stop,
            booked,
            posters,
        }
    }

    fn stop(self) -> Booked {
        self.stop.store(true, Ordering::Relaxed);
        for poster in self.posters {
            poster.join().unwrap();
        }
        std::mem::take(&mut *self.booked.lock().unwrap())
    }
}

/// Sends a request of [`BATCH`] reactions, waits until they are stored, and adds their number to `booked`.
fn post_some(address: &Address, booked: &Mutex<Booked>, random: &mut StdRng) {
    let mut pick = || {
        let room = ROOMS[random.random_range(0..ROOMS.len())];
        (room, EMOJIS[random.random_range(0..EMOJIS.len())])
    };
    let reactions: Vec<_> = (0..BATCH).map(|_| pick()).collect();
    let entry =
        |(room, emoji): &(&str, &str)| json!({"user_id": 7, "emoji_type": emoji, "room": room});
    let body = Value::Array(reactions.iter().map(entry).collect()).to_string();
    let server = address.lock().unwrap().clone();
    let answer = http::post(&server, "/v1/reactions?wait=stored", &body);
    let (stored, unknown) = match &answer {
        Ok(answer) if answer.status == 200 => (1, 0),
        // Any other status below 500 means that the server rejected a valid request, so the test fails.
        Ok(answer) if answer.status < 500 => panic!("{answer:?}"),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => (0, 0),
        Ok(_) | Err(_) => (0, 1),
    };
    if (stored, unknown) == (0, 0) {
        thread::sleep(Duration::from_millis(20));
    }
    let mut booked = booked.lock().unwrap();
    for (room, emoji) in reactions {
        let of = booked
            .0
            .entry((room.to_owned(), emoji.to_owned()))
            .or_default();
        *of = (of.0 + stored, of.1 + unknown);
    }
}
