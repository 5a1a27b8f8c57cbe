//! Tests of partitions that are quiet but not idle: the dataflow cannot read them because of a frozen process, a closed
//! connection, or an open transaction of another producer.

use std::{thread, time::Duration};

use emostream_log::{Log, NewRecord, Transactor};
use serde_json::json;

use super::fixture::{
    CROWD, Fixture, Outcome, PARTITIONS, Producers, WINDOW, assert_contains, held, readiness, with,
};
use crate::harness::{
    kafka::{self, Broker},
    node::last_lines,
    now_ms,
    proxy::Proxy,
    seed,
    supervised::{Supervised, free_addresses},
    unique, until, within,
};

/// A time that is longer than the idle timeout. If the idle timeout alone decided, a partition that cannot be read for
/// this time would count as idle.
const LONGER_THAN_IDLE: Duration = Duration::from_secs(4);
/// The partition to which the transaction of another producer writes.
const PINNED: u32 = 0;
const TRANSACTION: &str = "transaction";
const TRANSACTION_REACTIONS: u64 = 50;
/// Timeout of the transaction. The test ends the transaction earlier.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(60);
const OPEN: &str = "open transaction";
const UNREACHABLE: &str = "unreachable";

/// A Kafka of two brokers, each of which leads half of the partitions, and a dataflow that connects to the second one
/// through a proxy. Ingests connect to both directly.
struct Halves {
    fixture: Fixture,
    proxy: Proxy,
    dataflow: Supervised,
    admin: String,
    _brokers: [Broker; 2],
}

/// The partitions that the second broker leads.
const OTHER_HALF: [u32; 2] = [2, 3];

impl Halves {
    fn start() -> Halves {
        let addresses = free_addresses(3);
        let port = |number: usize| addresses[number].rsplit_once(':').unwrap().1;
        let proxy = Proxy::start(addresses[1].clone());
        let broker = Broker::start_with_second_listener(port(0), port(0));
        let fixture = Fixture::on(broker.address(), unique("halves"));
        // Topics that exist before the second broker starts are led by the first one, so commits do not need the second
        // one.
        kafka::create_topics(&fixture.brokers, &fixture.prefix, PARTITIONS / 2);
        let coordinator = fixture.connect().transactor("first", LONGER_THAN_IDLE);
        drop(coordinator.unwrap());
        let other = broker.joined_with_second_listener(port(1), &proxy.port);
        let reactions = fixture.topic("reactions");
        let leaders = ["1", "1", other.id(), other.id()];
        kafka::add_partitions_at(&fixture.brokers, &reactions, &leaders);
        for address in [broker.address(), other.address()] {
            let log = kafka::connect(&address);
            until("all partitions are known", || {
                (log.partitions(&reactions).unwrap() == PARTITIONS).then_some(())
            });
        }
        let through_the_proxy = Fixture::on(addresses[0].clone(), fixture.prefix.clone());
        let admin = addresses[2].clone();
        let arguments = through_the_proxy.dataflow_arguments(&[]);
        let arguments = with(arguments, "--admin", &admin)
            .into_iter()
            .map(str::to_owned)
            .collect();
        Halves {
            // A commit that fails ends the dataflow, so a supervisor restarts it.
            dataflow: Supervised::start(arguments, fixture.log("dataflow"), seed()),
            fixture,
            proxy,
            admin,
            _brokers: [broker, other],
        }
    }

    /// Returns the reason why the dataflow is not ready, if it names a partition of the second broker, and if the
    /// metrics show both partitions of that broker as held.
    fn holds_the_other_half(&self) -> Option<String> {
        let reactions = self.fixture.topic("reactions");
        let named = |partition: &u32| format!("{reactions}/{partition}");
        let is_held = |partition: &u32| held(&self.admin, *partition, UNREACHABLE) == Some(1.0);
        let reason = readiness(&self.admin).err()?;
        let names_one = OTHER_HALF.iter().any(|it| reason.contains(&named(it)));
        (names_one && OTHER_HALF.iter().all(is_held)).then_some(reason)
    }
}

impl Drop for Halves {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("{}", last_lines(&self.fixture.log("dataflow")));
        }
    }
}

#[test]
fn a_dataflow_that_is_frozen_or_cut_off_makes_nothing_late() {
    let halves = Halves::start();
    let ingest = halves.fixture.ingest();
    let producers = Producers::start(&ingest.address);
    Outcome::of(1, &halves.fixture.store());
    while_it_is_frozen(&halves, &producers);
    let while_frozen = producers.end();
    let outcome = Outcome::of(while_frozen, &halves.fixture.store());
    outcome.assert_all_counted(&[(CROWD, while_frozen)]);

    let producers = Producers::start(&ingest.address);
    producers.continue_for(2 * WINDOW);
    let reasons = while_it_is_cut_off(&halves, &producers);
    let reactions = while_frozen + producers.end();
    let outcome = Outcome::of(reactions, &halves.fixture.store());
    outcome.assert_all_counted(&[(CROWD, reactions)]);
    assert!(reasons.iter().all(Option::is_some), "{reasons:?}");
    until("ready again", || readiness(&halves.admin).ok());
    let shown = OTHER_HALF.map(|partition| held(&halves.admin, partition, UNREACHABLE));
    assert_eq!(shown, [Some(0.0); 2]);
}

/// Stops the dataflow by SIGSTOP and lets it continue, as if its machine were suspended or migrated. The clock does not
/// stop meanwhile. In the second round the network works again a little later than the process.
fn while_it_is_frozen(halves: &Halves, producers: &Producers) {
    for network_is_late in [false, true] {
        halves.dataflow.signal("STOP");
        producers.continue_for(LONGER_THAN_IDLE);
        if network_is_late {
            halves.proxy.fall_silent();
        }
        halves.dataflow.signal("CONT");
        producers.continue_for(WINDOW);
        halves.proxy.come_up();
        producers.continue_for(2 * WINDOW);
    }
}

/// Makes the second broker unreachable: first it does not respond, and then its connections are closed. Returns why the
/// dataflow was not ready in both cases.
fn while_it_is_cut_off(halves: &Halves, producers: &Producers) -> [Option<String>; 2] {
    halves.proxy.fall_silent();
    producers.continue_for(LONGER_THAN_IDLE);
    let silent = within(4 * LONGER_THAN_IDLE, || halves.holds_the_other_half());
    halves.proxy.cut();
    producers.continue_for(LONGER_THAN_IDLE);
    let cut = halves.holds_the_other_half();
    halves.proxy.come_up();
    producers.continue_for(2 * WINDOW);
    [silent, cut]
}

/// Opens a transaction of another producer, and writes reactions to [`PINNED`] in it. Later records of this partition
/// cannot be read before the transaction ends.
fn open_transaction(fixture: &Fixture) -> Box<dyn Transactor> {
    let reaction = json!({"user_id": 1, "emoji_type": "👏", "room": TRANSACTION});
    let record = NewRecord {
        topic: fixture.topic("reactions"),
        partition: Some(PINNED),
        time_ms: Some(now_ms()),
        key: None,
        value: reaction.to_string().into(),
        headers: Vec::new(),
    };
    let records = vec![record; TRANSACTION_REACTIONS as usize];
    let opened = fixture
        .connect()
        .transactor(&unique("producer"), TRANSACTION_TIMEOUT);
    let mut producer = opened.unwrap();
    producer.write(records).unwrap();
    producer
}

#[test]
fn a_transaction_that_stays_open_for_a_while_makes_nothing_late() {
    let fixture = Fixture::new("open");
    let ingest = fixture.ingest();
    let (_dataflow, admin) = fixture.dataflow("dataflow", &[]);
    until("ready", || readiness(&admin).ok());
    let producers = Producers::start(&ingest.address);
    producers.continue_for(2 * WINDOW);
    let mut producer = open_transaction(&fixture);
    let reason = within(4 * LONGER_THAN_IDLE, || readiness(&admin).err());
    let shown = held(&admin, PINNED, OPEN);
    producer.commit(Vec::new()).unwrap();
    producers.continue_for(2 * WINDOW);
    let acknowledged = producers.end();
    let outcome = Outcome::of(acknowledged + TRANSACTION_REACTIONS, &fixture.store());
    outcome.assert_all_counted(&[(CROWD, acknowledged), (TRANSACTION, TRANSACTION_REACTIONS)]);
    let place = format!("{}/{PINNED}", fixture.topic("reactions"));
    assert_contains(&reason.expect("a reason"), &[&place, OPEN]);
    assert_eq!(shown, Some(1.0));
    until("ready again", || readiness(&admin).ok());
    assert_eq!(held(&admin, PINNED, OPEN), Some(0.0));
}

#[test]
fn a_transaction_that_outlasts_the_hold_timeout_is_late_and_named() {
    let fixture = Fixture::new("outlasted");
    let ingest = fixture.ingest();
    let (_dataflow, admin) = fixture.dataflow("dataflow", &["--hold-timeout", "8s"]);
    until("ready", || readiness(&admin).ok());
    let producers = Producers::start(&ingest.address);
    producers.continue_for(2 * WINDOW);
    let mut producer = open_transaction(&fixture);
    let opened = Duration::from_millis(now_ms());
    let final_until = || Duration::from_millis(fixture.outcome().final_until_ms);
    let while_held = within(4 * LONGER_THAN_IDLE, || readiness(&admin).err());
    let passed_while_held = final_until().saturating_sub(opened);
    until("time to pass", || {
        thread::sleep(WINDOW);
        (final_until() > opened + 3 * WINDOW).then_some(())
    });
    let open = readiness(&admin);
    producer.commit(Vec::new()).unwrap();
    until("it has caught up", || readiness(&admin).ok());
    producers.continue_for(2 * WINDOW);
    let acknowledged = producers.end();
    let outcome = Outcome::of(acknowledged + TRANSACTION_REACTIONS, &fixture.store());

    let place = format!("{}/{PINNED}", fixture.topic("reactions"));
    assert_contains(&while_held.expect("a reason"), &[&place, OPEN]);
    assert!(passed_while_held <= WINDOW, "{passed_while_held:?}");
    assert_contains(&open.unwrap_err(), &[&place]);
    let late = |room: &str| {
        let key = ("late".to_owned(), PINNED, room.to_owned());
        outcome.rejected.get(&key).copied().unwrap_or(0)
    };
    assert_eq!(late(TRANSACTION), TRANSACTION_REACTIONS);
    assert_eq!(
        outcome.counted[CROWD] + late(CROWD),
        acknowledged,
        "{outcome:?}"
    );
    // No other reaction was rejected, and no window has two finals.
    let all = late(CROWD) + late(TRANSACTION);
    assert_eq!(outcome.rejected.values().sum::<u64>(), all, "{outcome:?}");
    assert_eq!(outcome.doubled, []);
}
