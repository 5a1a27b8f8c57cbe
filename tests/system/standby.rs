//! Tests of several dataflows of one deployment on a real Kafka. One is active, and the others are standbys. Processes
//! are killed, and the final results contain every reaction once.

use std::{
    collections::BTreeSet,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use emostream_dataflow::streams_topics;
use emostream_log::kafka::KafkaLog;

use crate::harness::{
    http, kafka,
    load::{LONG, Load, arguments, check, closes, final_until_ms, topics},
    node::Node,
    seed,
    supervised::free_addresses,
    unique, until_within,
};

const PARTITIONS: u32 = 4;

/// A span of two and a half takeover times.
const SEVERAL_TAKEOVERS: Duration = Duration::from_secs(25);

/// A deployment to which a load writes.
struct Fixture {
    dir: tempfile::TempDir,
    brokers: String,
    prefix: String,
    log: KafkaLog,
    load: Load,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let (brokers, prefix) = (kafka::brokers(), unique(name));
        kafka::create_topics(&brokers, &prefix, PARTITIONS);
        Fixture {
            dir: tempfile::tempdir().unwrap(),
            log: kafka::connect(&brokers),
            load: Load::start(&brokers, &prefix, PARTITIONS, seed()),
            brokers,
            prefix,
        }
    }

    fn start(&self, name: &str, more: &[&str]) -> Node {
        let arguments = arguments(&self.brokers, &self.prefix, 1, more);
        let with_admin = arguments.iter().map(|it| match it.as_str() {
            "off" => "127.0.0.1:0",
            other => other,
        });
        let arguments: Vec<&str> = with_admin.collect();
        Node::start_silent(&arguments, &self.dir.path().join(name))
    }

    /// Starts one of the two processes of a cluster.
    fn start_of_two(&self, name: &str, hosts: &str, index: &str) -> Node {
        self.start(name, &["-n", "2", "-p", index, "--hosts", hosts])
    }

    fn closes(&self) -> u64 {
        closes(&self.log, &self.prefix).unwrap_or(0)
    }

    /// Waits until another final result is committed.
    fn until_it_counts(&self) {
        let before = self.closes();
        until_within(LONG, "a final", || (self.closes() > before).then_some(()));
    }

    /// Kills the active run by SIGKILL, and returns the time from then to the next final result.
    fn outage(&self, active: Node) -> Duration {
        active.kill();
        let killed = Instant::now();
        // Final results that the killed run has committed may become visible only now. The test waits for these final
        // results first, since they are not final results of the next run.
        thread::sleep(Duration::from_millis(200));
        self.until_it_counts();
        killed.elapsed()
    }

    /// Returns the id of the process that has committed last.
    fn active_pid(&self) -> Option<u32> {
        let stored = emostream_dataflow::stored(&streams_topics(&topics(&self.prefix)), &self.log);
        Some(stored.ok()??.run?.pid)
    }

    /// Ends the load, stops the processes in the order of `running`, and compares the final results with the reactions
    /// in the log. The active process must be the last one of `running`.
    fn end(self, running: Vec<Node>) {
        let until_ms = self.load.end();
        until_within(LONG, "everything is final", || {
            (final_until_ms(&self.brokers, &self.prefix) >= until_ms).then_some(())
        });
        for node in running {
            assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
        }
        check(&self.log, &self.brokers, &self.prefix, until_ms);
    }
}

/// Waits until `/readyz` is 200 and its body contains `words`.
fn until_ready(node: &Node, words: &[&str]) {
    let admin = node.admin();
    until_within(LONG, &format!("ready, and {words:?}"), || {
        let answer = http::get(&admin, "/readyz").ok()?;
        let says = |word: &&str| answer.body.contains(*word);
        (answer.status == 200 && words.iter().all(says)).then_some(())
    });
}

/// Returns whether the metrics of a process report that it is active.
fn is_active(node: &Node) -> bool {
    let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
    metrics.contains("\nemostream_dataflow_active 1")
}

fn logged(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}

#[test]
fn of_a_pair_of_standbys_one_counts_and_the_other_takes_over_when_it_is_killed() {
    let fixture = Fixture::new("pair");
    let mut active = fixture.start("first", &["--standby"]);
    until_ready(&active, &["dataflow: active"]);
    for kill in 0..3 {
        let standby = fixture.start(&format!("standby-{kill}"), &["--standby"]);
        let pid = format!("pid {}", active.pid());
        until_ready(&standby, &["dataflow: standby", &pid]);
        assert!(is_active(&active) && !is_active(&standby));
        fixture.until_it_counts();
        let outage = fixture.outage(active);
        println!("kill -9 of the active run to the next final: {outage:.1?}");
        // The minimum is the takeover time, since a standby that waits less would fence healthy runs. The maximum
        // allows for a recovery on a busy machine.
        assert!((10..90).contains(&outage.as_secs()), "{outage:?}");
        active = standby;
        until_ready(&active, &["dataflow: active"]);
    }
    fixture.end(vec![active]);
}

#[test]
fn two_ordinary_runs_of_one_deployment_do_not_fence_each_other_for_ever() {
    let fixture = Fixture::new("two");
    let mut first = fixture.start("first", &[]);
    until_ready(&first, &["dataflow: active"]);
    let mut second = fixture.start("second", &[]);
    until_ready(&second, &["dataflow: active"]);
    let pid = format!("pid {}", second.pid());
    until_ready(&first, &["dataflow: standby", &pid]);
    let (since, mut active) = (Instant::now(), BTreeSet::new());
    while since.elapsed() < SEVERAL_TAKEOVERS {
        active.extend(fixture.active_pid());
        thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(active, BTreeSet::from([second.pid()]));
    assert!(first.runs() && second.runs());
    let printed = logged(fixture.dir.path(), "first");
    assert!(
        printed.contains("another run has taken over") && printed.contains(&pid),
        "{printed}"
    );
    let outage = fixture.outage(second);
    println!("kill -9 of the second run to the next final: {outage:.1?}");
    until_ready(&first, &["dataflow: active"]);
    fixture.end(vec![first]);
}

#[test]
fn a_cluster_that_is_fenced_stands_by_as_a_whole_and_takes_over_as_a_whole() {
    let fixture = Fixture::new("clusters");
    let hosts = [free_addresses(2).join(","), free_addresses(2).join(",")];
    let start = |cluster: usize| {
        let of = |index: usize| {
            let name = format!("{cluster}-{index}");
            fixture.start_of_two(&name, &hosts[cluster], &index.to_string())
        };
        [of(0), of(1)]
    };
    let mut first = start(0);
    first
        .iter()
        .for_each(|node| until_ready(node, &["dataflow: active"]));
    fixture.until_it_counts();
    let [other, lost] = start(1);
    until_ready(&other, &["dataflow: active"]);
    let pid = format!("pid {}", other.pid());
    first
        .iter()
        .for_each(|node| until_ready(node, &["dataflow: standby", &pid]));
    assert!(first.iter_mut().all(Node::runs));
    fixture.until_it_counts();
    let outage = fixture.outage(lost);
    println!("kill -9 of a process of the active cluster to the next final: {outage:.1?}");
    assert_eq!(other.ended().code(), Some(75));
    first
        .iter()
        .for_each(|node| until_ready(node, &["dataflow: active"]));
    let [zero, one] = first;
    // If one process of a cluster is stopped, the other one stops, too.
    let (brokers, prefix) = (fixture.brokers.clone(), fixture.prefix.clone());
    let (log, until_ms) = (kafka::connect(&brokers), fixture.load.end());
    until_within(LONG, "everything is final", || {
        (final_until_ms(&brokers, &prefix) >= until_ms).then_some(())
    });
    assert_eq!(one.stop(Duration::from_secs(10)).code(), Some(0));
    assert_eq!(zero.ended().code(), Some(0));
    check(&log, &brokers, &prefix, until_ms);
}
