//! Tests of commands and endpoints for operators: checks of topics, progress, resets, and readiness during an outage.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use emostream_log::{
    Cleanup, Log, TopicSpec,
    kafka::{KafkaLog, KafkaOptions},
    testing::{keep_for, topic},
};
use serde_json::{Value, json};

use crate::harness::{
    http, kafka,
    node::{self, Node},
    rooms::Watcher,
    unique, until,
};

/// Maximum time in which a process must end. It is long enough for a busy machine, and shorter than the 8 s for which a
/// process waits for a broker.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Runs the program, and returns its exit code and its output.
fn ran(arguments: &[&str]) -> (i32, String) {
    let output = node::run(arguments);
    let printed =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), printed)
}

fn contains(printed: &str, words: &[&str]) {
    for word in words {
        assert!(printed.contains(word), "{word} is not in:\n{printed}");
    }
}

#[test]
fn differences_are_printed_with_the_command_that_fixes_them() {
    let (brokers, prefix) = (kafka::brokers(), unique("checked"));
    let store = [
        "--kafka",
        brokers.as_str(),
        "--topic-prefix",
        prefix.as_str(),
    ];
    let topics = |what: &[&'static str]| ran(&[&["topics"][..], what, &store].concat());

    let (code, printed) = topics(&["check"]);
    assert_eq!(code, 1, "{printed}");
    let create = format!("emostream topics create --kafka {brokers} --topic-prefix {prefix}");
    contains(&printed, &["missing", &create]);

    let (code, printed) = topics(&["create", "--partitions", "2"]);
    assert_eq!(code, 0, "{printed}");
    for check in [
        &["check"][..],
        &["check", "--partitions", "2", "--replication", "1"],
    ] {
        let (code, printed) = topics(check);
        assert_eq!(code, 0, "{printed}");
    }
    let (code, printed) = topics(&["create", "--partitions", "3"]);
    assert_eq!(code, 0);
    contains(
        &printed,
        &["with 2 partitions, not 3", "emostream topics check"],
    );
    let (code, printed) = topics(&["check", "--partitions", "3"]);
    assert_eq!(code, 1);
    let mend = format!(
        "kafka-topics.sh --bootstrap-server {brokers} --alter --topic {prefix}.reactions --partitions 3"
    );
    contains(&printed, &[&mend]);
}

#[test]
fn a_topic_of_another_program_is_reported_as_different() {
    let (brokers, prefix) = (kafka::brokers(), unique("foreign"));
    let log = KafkaLog::connect(KafkaOptions {
        brokers: brokers.clone(),
        ..KafkaOptions::default()
    });
    let name = format!("{prefix}.reactions");
    log.unwrap()
        .create_topic(&topic(&name, 2, Cleanup::Compact))
        .unwrap();
    let (code, printed) = ran(&[
        "topics",
        "check",
        "--kafka",
        &brokers,
        "--topic-prefix",
        &prefix,
    ]);
    assert_eq!(code, 1);
    let alter = format!("--alter --entity-type topics --entity-name {name} --add-config");
    contains(
        &printed,
        &[
            &format!("{alter} cleanup.policy=delete"),
            &format!("{alter} message.timestamp.after.max.ms=5000"),
        ],
    );
}

/// Creates a reactions topic with the retention `kept` and the limit `max_ahead`, and the other topics with their usual
/// settings. Returns the prefix of the topics.
fn topics_with_reactions(kept: Duration, max_ahead: Option<Duration>) -> String {
    let (brokers, prefix) = (kafka::brokers(), unique("settings"));
    let log = KafkaLog::connect(KafkaOptions {
        brokers: brokers.clone(),
        ..KafkaOptions::default()
    });
    let reactions = TopicSpec {
        max_ahead,
        ..topic(format!("{prefix}.reactions"), 2, keep_for(kept))
    };
    log.unwrap().create_topic(&reactions).unwrap();
    let create = ["topics", "create", "--partitions", "2"];
    let target = ["--kafka", &brokers, "--topic-prefix", &prefix];
    node::output(&[&create[..], &target].concat());
    prefix
}

/// Runs a dataflow that must end by itself, and returns its exit code and its standard error.
fn dataflow(prefix: &str, more: &[&str]) -> (Option<i32>, String) {
    let brokers = kafka::brokers();
    let target = [
        "--kafka",
        &brokers,
        "--topic-prefix",
        prefix,
        "--admin",
        "off",
    ];
    let output = node::run(&[&["dataflow"], &target[..], more].concat());
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Starts a dataflow, and waits until it is ready to count.
fn counts(prefix: &str, more: &[&str]) {
    let brokers = kafka::brokers();
    let dir = tempfile::tempdir().unwrap();
    let target = [
        "--kafka",
        &brokers,
        "--topic-prefix",
        prefix,
        "--admin",
        "127.0.0.1:0",
    ];
    let arguments = [&["dataflow"], &target[..], more].concat();
    let node = Node::start_silent(&arguments, &dir.path().join("stderr"));
    let admin = node.admin();
    until("counting", || {
        let ready = http::get(&admin, "/readyz").ok()?;
        (ready.status == 200).then_some(())
    });
}

#[test]
fn a_reactions_topic_that_accepts_the_future_is_78_with_the_command_that_bounds_it() {
    // `max_ahead` is `None`, so the topic has the broker's limit: an hour by default in Kafka 4, and none in Kafka 3.9.
    let prefix = topics_with_reactions(Duration::from_secs(86_400), None);
    let hour = topics_with_reactions(Duration::from_secs(86_400), Some(Duration::from_secs(3600)));
    let (code, printed) = dataflow(&hour, &[]);
    assert_eq!(code, Some(78), "{printed}");
    contains(&printed, &["3600s"]);
    let (code, printed) = dataflow(&prefix, &[]);
    assert_eq!(code, Some(78), "{printed}");
    let brokers = kafka::brokers();
    let command = format!(
        "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics --entity-name {prefix}.reactions --add-config message.timestamp.after.max.ms=5000"
    );
    contains(&printed, &[&command, "--unbounded-timestamps"]);
    counts(&prefix, &["--unbounded-timestamps"]);
}

#[test]
fn a_window_that_may_be_open_longer_than_reactions_are_kept_is_64() {
    let prefix = topics_with_reactions(Duration::from_secs(60), Some(Duration::from_secs(5)));
    let (code, printed) = dataflow(&prefix, &[]);
    assert_eq!(code, Some(64), "{printed}");
    contains(
        &printed,
        &["--hold-timeout", "62.75s", "60s", "retention.ms"],
    );
    counts(&prefix, &["--hold-timeout", "30s"]);
}

#[test]
fn the_topology_is_described_without_a_cluster() {
    let printed = node::output(&["dataflow", "--describe"]);
    contains(&printed, &["emostream.reactions", "emostream.windows"]);
}

/// Sends reactions to room `a` until there is a final of a window of `window_ms`. One reaction is not enough: reactions
/// before the end of the last final of another window size are late.
fn a_final(node: &Node, window_ms: u64) {
    let watcher = Watcher::follow(Arc::new(node.address.clone().into()), "a");
    until("hello", || (watcher.hellos() > 0).then_some(()));
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": "a"}).to_string();
    until("a final", || {
        let posted = http::post(&node.address, "/v1/reactions", &body).unwrap();
        assert_eq!(posted.status, 202);
        let finals = watcher.finals();
        let of_size = finals.iter().any(|f| f.end - f.start == window_ms);
        of_size.then_some(())
    });
}

/// Returns the start and the end of every final of room `a`.
fn finals(store: &[&str]) -> Vec<(u64, u64)> {
    let inspect = ["inspect", "windows", "--format", "json", "--room", "a"];
    let text = node::output(&[&inspect[..], store].concat());
    let span = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let of = |name: &str| record["value"][name].as_u64().unwrap();
        (of("start"), of("end"))
    };
    text.lines().map(span).collect()
}

fn apart(finals: &[(u64, u64)]) {
    let mut sorted = finals.to_vec();
    sorted.sort_unstable();
    assert!(
        sorted.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{sorted:?}"
    );
}

#[test]
fn after_a_reset_a_directory_continues_with_other_windows() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = ["--data", data.to_str().unwrap()];
    let reset = [&["reset", "--yes"][..], &store].concat();
    let node = Node::up(dir.path(), &[]);
    a_final(&node, 2000);
    let (code, printed) = ran(&reset);
    assert_eq!(code, 64, "{printed}");
    contains(&printed, &["--data", "in use"]);
    let (code, printed) = ran(&[&["topics", "check"][..], &store].concat());
    assert_eq!(code, 0, "{printed}");
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));

    let before = finals(&store);
    let shown = node::output(&[&["inspect", "progress"][..], &store].concat());
    contains(
        &shown,
        &["final up to", "windows of 2 s", "watermark", "lag"],
    );
    let (code, printed) = ran(&reset);
    assert_eq!(code, 0, "{printed}");
    contains(&printed, &["4 partitions", "finals up to", "to read"]);
    let node = Node::up(dir.path(), &["--window", "3s"]);
    a_final(&node, 3000);
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    let after = finals(&store);
    assert!(before.iter().all(|span| after.contains(span)));
    assert!(
        after.iter().any(|(start, end)| end - start == 3000),
        "{after:?}"
    );
    apart(&after);
}

#[test]
fn a_reset_on_kafka_fences_the_active_run_and_prints_its_effects() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("reset"));
    let store = [
        "--kafka",
        brokers.as_str(),
        "--topic-prefix",
        prefix.as_str(),
    ];
    let reset = |more: &[&'static str]| ran(&[&["reset", "--yes"][..], &store, more].concat());
    let (code, printed) = reset(&[]);
    assert_eq!(code, 0, "{printed}");
    contains(&printed, &["nothing to reset"]);

    let node = Node::up_on_kafka(dir.path(), &brokers, &prefix, &["--window", "1s"]);
    a_final(&node, 1000);
    let (code, printed) = reset(&["--from", "latest"]);
    assert_eq!(code, 0, "{printed}");
    contains(&printed, &["4 partitions", "finals up to", "skipped"]);
    // The run notices that it is fenced when it commits. Heartbeats continue, so this reaction causes a commit.
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": "a"}).to_string();
    let _ = http::post(&node.address, "/v1/reactions", &body);
    assert_eq!(node.ended().code(), Some(75), "it was fenced");

    let node = Node::up_on_kafka(dir.path(), &brokers, &prefix, &["--window", "2s"]);
    a_final(&node, 2000);
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    apart(&finals(&store));
}

#[test]
fn the_page_of_metrics_names_what_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (log, data) = (dir.path().join("log"), dir.path().join("data"));
    let node = Node::start(
        &[
            "up",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
            data.to_str().unwrap(),
        ],
        &log,
    );
    a_final(&node, 2000);
    let client = node.address.clone();
    let _ = http::get(&client, "/v1/rooms/a").unwrap();
    let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
    let served: BTreeSet<&str> = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let page = include_str!("../../docs/metrics.md");
    let documented: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        // The metrics of key sets are served only with --jwks-url. tests/system/key_sets.rs compares them with
        // docs/metrics.md.
        .filter(|name| !name.starts_with("emostream_jwks_"))
        .collect();
    assert_eq!(served, documented);
    contains(
        &metrics,
        &[
            "emostream_dataflow_rejected_total{reason=\"late\"} 0",
            "emostream_dataflow_transactions_total{outcome=\"failed\"} 0",
            "emostream_dataflow_watermark_timestamp_seconds{partition=\"0\"} 1",
        ],
    );
    let closed = "emostream_dataflow_window_close_seconds_count ";
    let closed = metrics.lines().find_map(|line| line.strip_prefix(closed));
    assert!(closed.unwrap().parse::<u64>().unwrap() > 0);
}

#[test]
fn a_deleted_result_topic_is_named_by_readiness_and_by_the_last_line() {
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("deleted"));
    let log = dir.path().join("log");
    let up = ["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let store = [
        "--kafka",
        brokers.as_str(),
        "--topic-prefix",
        prefix.as_str(),
    ];
    let node = Node::start(&[&up[..], &store].concat(), &log);
    let admin = node.admin();
    until("ready", || {
        (http::get(&admin, "/readyz").unwrap().status == 200).then_some(())
    });
    let windows = format!("{prefix}.windows");
    kafka::delete_topic(&brokers, &windows);
    let reason = until("not ready", || {
        let answer = http::get(&admin, "/readyz").unwrap();
        (answer.status == 503).then_some(answer.body)
    });
    contains(&reason, &[&windows, "does not exist"]);
    // The results of these reactions cannot be written, since their topic is deleted.
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": "a"}).to_string();
    for _ in 0..2 {
        http::post(&node.address, "/v1/reactions", &body).unwrap();
    }
    // The dataflow retries for half a minute, since metadata of a new topic may be delayed.
    assert_eq!(node.ended().code(), Some(78));
    let printed = std::fs::read_to_string(&log).unwrap();
    contains(
        printed.lines().last().unwrap(),
        &[&windows, "does not exist"],
    );
}

#[test]
fn a_topic_of_small_records_loses_no_reaction() {
    const SENT: u64 = 20 * 500;
    let dir = tempfile::tempdir().unwrap();
    let (brokers, prefix) = (kafka::brokers(), unique("small"));
    let reactions = format!("{prefix}.reactions");
    kafka::create_topic_of_small_records(&brokers, &reactions, 5000);
    let store = [
        "--kafka",
        brokers.as_str(),
        "--topic-prefix",
        prefix.as_str(),
    ];
    let start = [
        "ingest",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    let node = Node::start(&[&start[..], &store].concat(), &dir.path().join("log"));
    // The user ids have the maximum length, so that a flush is as large as possible.
    let array = |count: u64| {
        let reaction = |n: u64| json!({"user_id": format!("{n:u>128}"), "emoji_type": "🔥"});
        Value::from((0..count).map(reaction).collect::<Vec<_>>()).to_string()
    };
    for _ in 0..20 {
        let answer = http::post(&node.address, "/v1/reactions", &array(500)).unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    // A request with `wait=stored` is stored as a whole or not at all. The reactions of the first request fit into a
    // record, and those of the second one do not.
    let stored = "/v1/reactions?wait=stored";
    let answer = http::post(&node.address, stored, &array(10)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = http::post(&node.address, stored, &array(500)).unwrap();
    assert_eq!(answer.status, 413, "{answer:?}");
    contains(&answer.body, &[&reactions, "max.message.bytes"]);
    let outcome = |name: &str| {
        let metrics = http::get(&node.admin(), "/metrics").unwrap().body;
        let series = format!("emostream_ingest_reactions_total{{outcome=\"{name}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
        value.unwrap().parse::<u64>().unwrap()
    };
    until("all are stored", || {
        (outcome("stored") == SENT + 10).then_some(())
    });
    assert_eq!((outcome("lost"), outcome("refused")), (0, 500));
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));

    node::output(&[&["topics", "create"][..], &store].concat());
    let (code, printed) = ran(&[&["topics", "check"][..], &store].concat());
    assert_eq!(code, 1, "{printed}");
    contains(
        &printed,
        &["max.message.bytes=1048588", "1 of 7 topics differs"],
    );
}

#[test]
fn a_topic_that_takes_no_reaction_is_78() {
    let (brokers, prefix) = (kafka::brokers(), unique("tiny"));
    kafka::create_topic_of_small_records(&brokers, &format!("{prefix}.reactions"), 300);
    let store = [
        "--kafka",
        brokers.as_str(),
        "--topic-prefix",
        prefix.as_str(),
    ];
    let start = ["ingest", "--listen", "127.0.0.1:0", "--admin", "off"];
    let (code, printed) = ran(&[&start[..], &store].concat());
    assert_eq!(code, 78, "{printed}");
    contains(&printed, &["300 bytes", "max.message.bytes"]);
}

#[test]
fn readiness_reports_an_outage_of_kafka_and_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let broker = kafka::Broker::start();
    let address = broker.address();
    let store = ["--kafka", address.as_str()];
    node::output(&[&["topics", "create", "--partitions", "2"][..], &store].concat());
    let start = |role: &[&'static str]| {
        let log = dir.path().join(role[0]);
        let more = ["--admin", "127.0.0.1:0"];
        let node = Node::start_silent(&[role, &store, &more].concat(), &log);
        let admin = node.admin();
        (node, admin)
    };
    let mut roles = [
        start(&["dataflow"]),
        start(&["publisher", "--listen", "127.0.0.1:0"]),
    ];
    let ready = |admin: &str| {
        let answer = http::get(admin, "/readyz").unwrap();
        (answer.status == 200).then_some(()).ok_or(answer.body)
    };
    for (_, admin) in &roles {
        until("ready", || ready(admin).ok());
    }
    broker.go_away();
    for (_, admin) in &roles {
        let reason = until("not ready", || ready(admin).err());
        contains(&reason, &["log: ", &address]);
        assert_eq!(http::get(admin, "/healthz").unwrap().status, 200);
    }
    broker.come_back();
    for (node, admin) in &mut roles {
        until("ready again", || ready(admin).ok());
        assert!(node.runs());
    }
    // The processes have no unfinished work for which they must wait for the log, so they end although the broker does
    // not respond.
    broker.signal("STOP");
    for (node, _) in roles {
        assert_eq!(node.stop(AT_ONCE).code(), Some(0));
    }
    broker.signal("CONT");
}
