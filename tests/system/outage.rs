//! Tests of outages of Kafka and of the dataflow: accepted reactions are in the topic once, counting resumes soon after
//! the outage, and subscribers are notified that it has stopped.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emostream_log::{Log, NewRecord, read_to_end};
use emostream_model::Batch;
use serde_json::{Value, json};

use crate::harness::{
    self,
    browser::{Driver, holds, in_browsers, joined},
    http,
    kafka::{self, Broker},
    node::{self, Node},
    seed,
    supervised::{Supervised, free_addresses},
    until,
    ws::Subscriber,
};

const REACTIONS: &str = "emostream.reactions";

/// The text of a response if no reaction of the request was buffered.
const NOTHING_KEPT: &str = "no reaction was accepted";

/// If a refusal took less than this time, the server sent it at once. Otherwise the server waited for the log until its
/// timeout.
const AT_LENGTH: Duration = Duration::from_secs(6);

/// Threads that send reactions. Each reaction has a user of its own, and every third request waits until its reaction
/// is stored.
struct Producers {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Reacted>>>,
    posting: Vec<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Reacted {
    user: String,
    status: u16,
    body: String,
    began: Instant,
    took: Duration,
}

impl Producers {
    fn start(address: &str) -> Producers {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let post = |thread| {
            let (stop, answers) = (stop.clone(), answers.clone());
            let address = address.to_owned();
            thread::spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let user = format!("{thread}-{number}");
                    let reacted = react(&address, user, number % 3 == 0);
                    answers.lock().unwrap().push(reacted);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        };
        Producers {
            posting: (0..6).map(post).collect(),
            stop,
            answers,
        }
    }

    /// Waits until a request that was sent after `since` has got a response for which `is_so` returns true.
    fn until(&self, what: &str, since: Instant, is_so: impl Fn(&Reacted) -> bool) {
        until(what, || {
            let answers = self.answers.lock().unwrap();
            let mut newest = answers.iter().rev();
            newest
                .any(|answer| answer.began >= since && is_so(answer))
                .then_some(())
        });
    }

    fn is_accepted_and_stored_again(&self) {
        let since = Instant::now();
        self.until("accepted", since, |answer| answer.status == 202);
        self.until("stored", since, |answer| answer.status == 200);
    }

    fn end(self) -> Vec<Reacted> {
        self.stop.store(true, Ordering::SeqCst);
        for posting in self.posting {
            posting.join().unwrap();
        }
        std::mem::take(&mut *self.answers.lock().unwrap())
    }
}

/// Sends a reaction. A missing response fails the test.
fn react(address: &str, user: String, waits: bool) -> Reacted {
    react_in("default", address, user, waits)
}

fn react_in(room: &str, address: &str, user: String, waits: bool) -> Reacted {
    let path = match waits {
        true => "/v1/reactions?wait=stored",
        false => "/v1/reactions",
    };
    let body = json!({"user_id": user, "emoji_type": "🔥", "room": room}).to_string();
    let began = Instant::now();
    let answer = http::post(address, path, &body).unwrap();
    Reacted {
        user,
        status: answer.status,
        body: answer.body,
        began,
        took: began.elapsed(),
    }
}

fn ingest(dir: &Path, broker: &Broker) -> Node {
    let arguments = [
        "ingest",
        "--kafka",
        &broker.address(),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    Node::start(&arguments, &dir.join("ingest"))
}

fn create_topics(broker: &Broker, more: &[&str]) {
    let address = broker.address();
    let create = ["topics", "create", "--kafka", &address, "--partitions", "4"];
    node::output(&[&create[..], more].concat());
}

/// Writes until the disk of the broker is full.
fn fill(broker: &Broker) {
    let log = kafka::connect(&broker.address());
    let appender = log.appender(AT_LENGTH).unwrap();
    loop {
        let mut incompressible = vec![0; 900_000];
        rand::fill(&mut incompressible[..]);
        let record = NewRecord {
            topic: "emostream.live".to_owned(),
            partition: Some(0),
            time_ms: None,
            key: None,
            value: incompressible.into(),
            headers: Vec::new(),
        };
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        appender.append(record, done).unwrap();
        if receiver.recv().unwrap().is_err() {
            return;
        }
    }
}

/// Returns the number of reactions of each user in the topic.
fn written(broker: &Broker) -> HashMap<String, usize> {
    let log = kafka::connect(&broker.address());
    let mut users = HashMap::new();
    read_to_end(&log, REACTIONS, &mut |record| {
        for reaction in Batch::decode(record.value).unwrap().reactions().unwrap() {
            *users.entry(reaction.user.to_owned()).or_default() += 1;
        }
    })
    .unwrap();
    users
}

/// Returns the number of reactions in the final results of each room.
fn counted(brokers: &str) -> HashMap<String, u64> {
    let inspect = ["inspect", "windows", "--kafka", brokers, "--format", "json"];
    let mut totals = HashMap::new();
    // The command fails while the cluster reports no broker. Then it prints no final results.
    let finals = String::from_utf8(node::run(&inspect).stdout).unwrap();
    for line in finals.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let (room, total) = (&record["value"]["room"], &record["value"]["total"]);
        *totals.entry(room.as_str().unwrap().to_owned()).or_default() += total.as_u64().unwrap();
    }
    totals
}

/// Asserts that each acknowledged reaction is in the topic once, and that no refused reaction is in the topic. A
/// reaction whose request timed out may be in the topic or not.
fn promises_are_kept(answers: &[Reacted], written: &HashMap<String, usize>) {
    for answer in answers {
        let times = written.get(&answer.user).copied().unwrap_or(0);
        let may_be = match answer.status {
            200 | 202 => 1..=1,
            503 if answer.body.contains(NOTHING_KEPT) => 0..=0,
            503 => 0..=1,
            _ => panic!("{answer:?}"),
        };
        assert!(
            may_be.contains(&times),
            "{times} times in the topic: {answer:?}"
        );
    }
    let known = answers
        .iter()
        .filter(|answer| written.contains_key(&answer.user));
    assert_eq!(known.count(), written.len());
}

#[test]
fn outages_of_kafka_lose_and_double_no_reaction() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    create_topics(&broker, &[]);
    let node = ingest(dir.path(), &broker);
    let producers = Producers::start(&node.address);
    producers.is_accepted_and_stored_again();

    let killed = Instant::now();
    broker.kill();
    producers.until("refused at once", killed, |answer| {
        answer.status == 503 && answer.body.contains(NOTHING_KEPT)
    });
    producers.until("refused at length", killed - AT_LENGTH, |answer| {
        answer.status == 503 && answer.took > AT_LENGTH
    });
    let ready = http::get(&node.admin(), "/readyz").unwrap();
    assert_eq!(ready.status, 503, "{ready:?}");
    broker.come_back();
    producers.is_accepted_and_stored_again();

    let stopped = Instant::now();
    broker.go_away();
    producers.until("refused", stopped, |answer| answer.status == 503);
    broker.come_back();
    producers.is_accepted_and_stored_again();

    let answers = producers.end();
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    promises_are_kept(&answers, &written(&broker));
}

/// Maximum size of a file of the broker. It is a little larger than Kafka's index files, each of which has 10 MB.
const SMALL_DISK_KB: u32 = 12_000;

/// A broker that cannot write to its disk stops itself. For clients this is an outage like any other.
#[test]
fn a_full_disk_of_the_broker_loses_and_doubles_no_reaction() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start_with_room_for(SMALL_DISK_KB);
    create_topics(&broker, &[]);
    let node = ingest(dir.path(), &broker);
    let producers = Producers::start(&node.address);
    producers.is_accepted_and_stored_again();

    let filled = Instant::now();
    fill(&broker);
    broker.until_it_gives_up();
    producers.until("refused at once", filled, |answer| {
        answer.status == 503 && answer.body.contains(NOTHING_KEPT)
    });
    let ready = http::get(&node.admin(), "/readyz").unwrap();
    assert_eq!(ready.status, 503, "{ready:?}");
    broker.come_back();
    producers.is_accepted_and_stored_again();
    let answers = producers.end();
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    promises_are_kept(&answers, &written(&broker));
}

#[test]
fn a_change_of_leaders_loses_and_doubles_no_reaction() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start_for_a_cluster();
    let other = broker.joined();
    // With a minimum of 2 in-sync replicas, nothing could be stored while one of the two brokers is down. So the
    // minimum is 1.
    create_topics(&broker, &["--replication", "2", "--min-isr", "1"]);
    let node = ingest(dir.path(), &broker);
    let producers = Producers::start(&node.address);
    producers.is_accepted_and_stored_again();
    for _ in 0..2 {
        kafka::until_in_sync(&broker.address());
        other.kill();
        producers.is_accepted_and_stored_again();
        other.come_back();
        producers.is_accepted_and_stored_again();
    }
    let answers = producers.end();
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    promises_are_kept(&answers, &written(&broker));
}

/// A client may request metadata from any broker, also from the one that does not respond. Even then the client must
/// get the end offsets of the partitions that the other broker leads.
#[test]
fn a_leader_that_is_silent_hides_the_ends_of_its_own_partitions_only() {
    const PATIENCE: Duration = Duration::from_millis(500);
    let broker = Broker::start_for_a_cluster();
    let silent = broker.joined();
    create_topics(&broker, &[]);
    let leaders = ["1", "1", "1", "1", "1", silent.id()];
    kafka::add_partitions_at(&broker.address(), REACTIONS, &leaders);
    let log = kafka::connect(&broker.address());
    let are_known = || {
        let ends = log.high_watermarks(REACTIONS, PATIENCE).ok()?;
        Some((ends.get(4)?.is_ok(), ends.get(5)?.is_ok()))
    };
    until("both leaders", || {
        (are_known() == Some((true, true))).then_some(())
    });
    silent.signal("STOP");
    for _ in 0..8 {
        assert_eq!(are_known(), Some((true, false)));
    }
    silent.signal("CONT");
    until("both leaders again", || {
        (are_known() == Some((true, true))).then_some(())
    });
}

/// The controller regards a stopped broker as failed. When the broker continues, it reports an empty list of brokers
/// for a moment. librdkafka then has no broker to connect to, and would request metadata again only after minutes.
#[test]
fn a_broker_that_was_frozen_is_used_again() {
    const SINCE: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    let address = broker.address();
    create_topics(&broker, &[]);
    let node = ingest(dir.path(), &broker);
    let dataflow = [
        "dataflow", "--kafka", &address, "-w", "3", "--window", "1s", "--admin", "off",
    ];
    let dataflow = Supervised::start(
        dataflow.map(str::to_owned).to_vec(),
        dir.path().join("dataflow"),
        seed(),
    );
    let producers = Producers::start(&node.address);
    producers.is_accepted_and_stored_again();

    let stood_still = Instant::now();
    broker.signal("STOP");
    producers.until("refused at length", stood_still - AT_LENGTH, |answer| {
        answer.status == 503 && answer.took > AT_LENGTH
    });
    broker.signal("CONT");
    producers.is_accepted_and_stored_again();
    // Reactions that arrive before the dataflow reads all partitions again may be late. So reactions are sent to new
    // rooms until all reactions of one room are counted.
    let mut rooms = 0;
    until("all reactions of a new room are counted", || {
        let room = format!("since-{rooms}");
        rooms += 1;
        for number in 0..SINCE {
            let user = format!("{room}-{number}");
            let reacted = react_in(&room, &node.address, user, false);
            assert_eq!(reacted.status, 202, "{reacted:?}");
        }
        counted(&address)
            .iter()
            .any(|(room, total)| room.starts_with("since-") && *total == SINCE as u64)
            .then_some(())
    });
    let answers = producers.end();
    drop(dataflow);
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    let mut written = written(&broker);
    written.retain(|user, _| !user.starts_with("since"));
    promises_are_kept(&answers, &written);
}

#[test]
fn a_deleted_topic_is_reported_and_its_successor_is_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    create_topics(&broker, &[]);
    let node = ingest(dir.path(), &broker);
    let producers = Producers::start(&node.address);
    producers.is_accepted_and_stored_again();
    kafka::delete_topic(&broker.address(), REACTIONS);
    let deleted = Instant::now();
    producers.until("refused", deleted, |answer| answer.status == 503);
    let reason = until("the reason", || {
        let ready = http::get(&node.admin(), "/readyz").unwrap();
        ready.body.contains("does not exist").then_some(ready.body)
    });
    assert!(reason.contains("emostream topics create"), "{reason}");
    create_topics(&broker, &[]);
    let created = Instant::now();
    producers.is_accepted_and_stored_again();
    let answers = producers.end();
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    let written = written(&broker);
    let since: Vec<Reacted> = answers
        .into_iter()
        .filter(|answer| answer.began >= created && answer.status == 200)
        .collect();
    assert!(since.iter().all(|answer| written[&answer.user] == 1));
}

#[test]
fn adding_partitions_loses_no_reaction() {
    let dir = tempfile::tempdir().unwrap();
    let broker = Broker::start();
    create_topics(&broker, &[]);
    let node = ingest(dir.path(), &broker);
    let producers = Producers::start(&node.address);
    producers.is_accepted_and_stored_again();
    kafka::add_partitions(&broker.address(), REACTIONS, 8);
    harness::until_within(Duration::from_secs(150), "all are written to", || {
        let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
        let all = metrics.contains("emostream_ingest_partitions 8\n");
        (all && metrics.contains("emostream_ingest_partitions_away 0\n")).then_some(())
    });
    producers.is_accepted_and_stored_again();
    let answers = producers.end();
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    let mut statuses = answers.iter().map(|answer| answer.status);
    let other = statuses.find(|status| !matches!(status, 200 | 202));
    assert_eq!(other, None, "a refusal");
    promises_are_kept(&answers, &written(&broker));
}

/// Waits for a heartbeat with this value of `counting`.
fn until_notified(subscriber: &mut Subscriber, counting: &Value) {
    const TICK: Duration = Duration::from_millis(50);
    until("a heartbeat with the value of `counting`", || {
        let frame = subscriber.next(TICK).unwrap()?;
        let is_so = frame["type"] == "heartbeat" && frame["counting"] == *counting;
        is_so.then_some(())
    });
}

#[test]
fn subscribers_are_notified_while_only_the_dataflow_is_stopped() {
    const COUNTED: usize = 5;
    let dir = tempfile::tempdir().unwrap();
    let log = |name: &str| dir.path().join(name);
    let broker = Broker::start();
    let kafka = broker.address();
    create_topics(&broker, &[]);
    let [feed] = &free_addresses(1)[..] else {
        unreachable!("one address is requested");
    };
    let ingest = ingest(dir.path(), &broker);
    let dataflow = ["dataflow", "--kafka", &kafka, "--admin", "off"];
    let dataflow = Supervised::start(
        dataflow.map(str::to_owned).to_vec(),
        log("dataflow"),
        seed(),
    );
    let react = |users: std::ops::Range<usize>| {
        for user in users {
            let reacted = react(&ingest.address, user.to_string(), true);
            assert_eq!(reacted.status, 200, "{reacted:?}");
        }
    };
    let any = ["--listen", "127.0.0.1:0", "--admin", "off"];
    let publisher = ["publisher", "--kafka", &kafka, "--relay-listen", feed];
    let publisher = Node::start(&[&publisher[..], &any].concat(), &log("publisher"));
    let relay = Node::start(
        &[&["relay", "--upstream", feed][..], &any].concat(),
        &log("relay"),
    );
    // A subscriber that does not read for long is disconnected, so these are connected when they are needed.
    let subscribers = |counting: &Value| {
        [&publisher, &relay].map(|node| {
            let mut subscriber = Subscriber::connect(&node.address, "default", None).unwrap();
            let hello = until("hello", || {
                subscriber.next(Duration::from_millis(50)).unwrap()
            });
            assert_eq!(hello["counting"], *counting, "{hello}");
            subscriber
        })
    };
    react(0..COUNTED);
    let state = || {
        http::get(&relay.address, "/v1/rooms/default")
            .unwrap()
            .json()
    };
    until("all are counted", || {
        (state()["total"] == COUNTED).then_some(())
    });
    let driver = Driver::start();
    in_browsers(async {
        let viewer = driver.browser().await;
        let page = format!("http://{}/", relay.address);
        viewer.goto(&page).await.unwrap();
        joined(&viewer).await;
        let dashboard = driver.browser().await;
        dashboard.goto(&format!("{page}dashboard")).await.unwrap();
        let notice = "document.querySelector('emostream-room').shadowRoot.querySelector('.notice')";
        holds(&viewer, &format!("{notice}.hidden")).await;
        holds(
            &dashboard,
            "document.querySelector('#problem').hidden && document.querySelector('#now-rate').textContent !== '–'",
        )
        .await;

        let counted = subscribers(&Value::Null);
        dataflow.signal("STOP");
        for mut subscriber in counted {
            until_notified(&mut subscriber, &json!(false));
        }
        react(COUNTED..2 * COUNTED);
        for (browser, element) in [
            (&viewer, notice),
            (&dashboard, "document.querySelector('#problem')"),
        ] {
            let says = "textContent.startsWith('Counting has stopped.')";
            holds(browser, &format!("!{element}.hidden && {element}.{says}")).await;
        }
        // Nothing claims that the room is quiet.
        holds(
            &viewer,
            "document.querySelector('#rate').textContent === ''",
        )
        .await;
        holds(
            &viewer,
            "document.querySelector('#now-empty').textContent === 'Unknown until counting continues.'",
        )
        .await;
        holds(
            &dashboard,
            "document.querySelector('#now-rate').textContent === '–'",
        )
        .await;

        let uncounted = subscribers(&json!(false));
        dataflow.signal("CONT");
        for mut subscriber in uncounted {
            until_notified(&mut subscriber, &Value::Null);
        }
        until("the reactions of the outage are counted", || {
            (state()["total"] == 2 * COUNTED).then_some(())
        });
        holds(&viewer, &format!("{notice}.hidden")).await;
        holds(&dashboard, "document.querySelector('#problem').hidden").await;
    });
}
