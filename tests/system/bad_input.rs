//! Tests of invalid flags, files and requests: each error is one clear sentence, with the right exit code.

use std::{collections::BTreeMap, net::TcpListener, sync::Arc, time::Duration};

use emostream_log::{
    embedded::EmbeddedLog,
    testing::{append, record},
};
use serde_json::{Value, json};

use crate::harness::{
    self, finals, http,
    node::{self, Node},
    rooms::Watcher,
    unique, until,
};

/// Asserts that the command ends with `code` and one line on standard error that contains all of `words`.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let output = node::run(arguments);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {printed}");
    assert_eq!(
        printed.trim().lines().count(),
        1,
        "{arguments:?} says more than a line: {printed}"
    );
    for word in words {
        assert!(
            printed.contains(word),
            "{arguments:?} does not say {word}: {printed}"
        );
    }
}

#[test]
fn a_wrong_flag_of_any_command_is_one_line_that_names_it_and_64() {
    let kafka = ["--kafka", "127.0.0.1:1"];
    let with_kafka = |rest: &[&'static str]| [rest, &kafka].concat();
    for (arguments, flag) in [
        (vec![], "up"),
        (vec!["frobnicate"], "frobnicate"),
        (vec!["up", "--frobnicate"], "--frobnicate"),
        (vec!["up", "--listen", "nowhere"], "--listen"),
        (vec!["up", "--window", "0s"], "--window"),
        (vec!["up", "--window", "soon"], "--window"),
        (vec!["up", "-w", "0"], "--workers"),
        (vec!["up", "--lateness", "100ms"], "--lateness"),
        (vec!["up", "--live", "3s"], "--live"),
        (vec!["up", "--trending-span", "61s"], "--trending-span"),
        (vec!["up", "--trending-span", "1s"], "--trending-span"),
        (
            vec!["up", "--totals-retention", "58s"],
            "--totals-retention",
        ),
        (vec!["up", "--trending-top", "0"], "--trending-top"),
        (vec!["up", "--emoji-alias", "goal"], "--emoji-alias"),
        (vec!["up", "--topic-prefix", "a b"], "--topic-prefix"),
        (vec!["up", "--admin", "nowhere"], "--admin"),
        (vec!["up", "--log-format", "xml"], "--log-format"),
        (vec!["up", "--tls-cert", "nowhere.pem"], "--tls-key"),
        (with_kafka(&["ingest", "--tls-key", "k"]), "--tls-cert"),
        (
            with_kafka(&["publisher", "--tls-cert", "nowhere", "--tls-key", "k"]),
            "--tls-cert",
        ),
        (vec!["up", "--jwt-key", "/no/such/file"], "--jwt-key"),
        (vec!["up", "--jwt-key", "/dev/null"], "--jwt-key"),
        (with_kafka(&["ingest", "--jwt-key", "/"]), "--jwt-key"),
        (
            with_kafka(&["publisher", "--jwt-key", "/dev/zero"]),
            "--jwt-key",
        ),
        (
            vec!["up", "--jwt-key", "k", "--jwks-url", "https://h/jwks"],
            "--jwks-url",
        ),
        (vec!["up", "--jwks-url", "h/jwks.json"], "--jwks-url"),
        (
            with_kafka(&["ingest", "--jwks-url", "file:///etc/jwks.json"]),
            "--jwks-url",
        ),
        (
            with_kafka(&["publisher", "--jwks-url", "https://user@h/jwks"]),
            "--jwks-url",
        ),
        (
            vec!["relay", "--upstream", "h:1", "--jwks-url", "ftp://h/jwks"],
            "--jwks-url",
        ),
        (vec!["up", "--jwt-audience", "a"], "--jwt-audience"),
        (
            with_kafka(&["ingest", "--jwks-url", "http://h", "--jwt-audience", "a,"]),
            "--jwt-audience",
        ),
        (
            with_kafka(&["publisher", "--jwt-issuer", "i"]),
            "--jwt-issuer",
        ),
        (with_kafka(&["ingest", "--flush", "0ms"]), "--flush"),
        (
            with_kafka(&["ingest", "--flush-count", "0"]),
            "--flush-count",
        ),
        (with_kafka(&["ingest", "--rooms", "("]), "--rooms"),
        (with_kafka(&["ingest", "-X", "acks"]), "--kafka-property"),
        (
            with_kafka(&["ingest", "--per-user-rate", "0/s"]),
            "--per-user-rate",
        ),
        (
            with_kafka(&["ingest", "--per-user-rate", "fast"]),
            "--per-user-rate",
        ),
        (vec!["up", "--per-user-rate", "20/h"], "--per-user-rate"),
        (
            with_kafka(&["ingest", "--per-address-rate", "200/h"]),
            "--per-address-rate",
        ),
        (
            vec!["up", "--per-address-rate", "NaN"],
            "--per-address-rate",
        ),
        (
            with_kafka(&["ingest", "--trusted-proxy", "10.0.0.0/33"]),
            "--trusted-proxy",
        ),
        (
            vec!["up", "--trusted-proxy", "10.0.0.0/8,proxy.example"],
            "--trusted-proxy",
        ),
        (vec!["ingest"], "--kafka"),
        (vec!["ingest", "--kafka", "nowhere"], "--kafka"),
        (
            with_kafka(&["dataflow", "-n", "3", "--hosts", "a:1,b:2"]),
            "--processes",
        ),
        (with_kafka(&["dataflow", "-n", "1", "-p", "1"]), "--process"),
        (with_kafka(&["dataflow", "--takeover", "5s"]), "--takeover"),
        (
            with_kafka(&["dataflow", "--swarm-size", "0"]),
            "--swarm-size",
        ),
        (
            with_kafka(&["publisher", "--listen", "127.0.0.1"]),
            "--listen",
        ),
        (vec!["subscribe", "--url", "ftp://h"], "--url"),
        (vec!["subscribe", "--cacert", "nowhere.pem"], "--cacert"),
        (
            vec!["subscribe", "--token-file", "/dev/null"],
            "--token-file",
        ),
        (
            vec!["load", "--users", "7", "--token-file", "tokens"],
            "--users",
        ),
        (vec!["subscribe", "--room", "a/b"], "--room"),
        (vec!["subscribe", "--room", ".."], "--room"),
        (vec!["subscribe", "--url", "https://h/emo"], "--url"),
        (
            vec!["up", "--allow-origin", "https://a.example/x"],
            "--allow-origin",
        ),
        (
            with_kafka(&["ingest", "--allow-origin", "https://*.a.example"]),
            "--allow-origin",
        ),
        (vec!["inspect", "everything"], "everything"),
        (vec!["inspect", "windows", "--from", "yesterday"], "--from"),
        (
            vec!["inspect", "windows", "--data", "/no/such/dir"],
            "--data",
        ),
        (vec!["load", "--rate", "fast"], "--rate"),
        (vec!["load", "--batch", "1001"], "--batch"),
        (vec!["load", "--spike", "10x"], "--spike"),
        (
            vec!["load", "--duration", "5s", "--spike", "10x@30s"],
            "--spike",
        ),
        (vec!["load", "--verify", "--rooms", "2000"], "--rooms"),
        (
            with_kafka(&["topics", "create", "--partitions", "0"]),
            "--partitions",
        ),
        (vec!["topics", "check", "--data", "/no/such/dir"], "--data"),
        (with_kafka(&["inspect", "windows", "--data", "d"]), "--data"),
        (with_kafka(&["up", "--data", "d"]), "--data"),
        (vec!["up", "-X", "acks=all"], "-X"),
        (vec!["dataflow"], "--kafka"),
        (vec!["reset"], "--yes"),
        (vec!["reset", "--yes", "--data", "/no/such/dir"], "--data"),
        (vec!["reset", "--yes", "--from", "earliest"], "--from"),
    ] {
        refused(&arguments, 64, &[flag]);
    }
}

#[test]
fn help_and_version_are_not_errors() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["up", "--help"],
        &["dataflow", "--help"],
    ] {
        assert!(node::output(arguments).len() > 5, "{arguments:?}");
    }
}

#[test]
fn an_environment_variable_is_a_flag() {
    let output = node::emostream(&["up"])
        .env("EMOSTREAM_WINDOW", "soon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains("--window"), "{printed}");
}

#[test]
fn a_property_that_librdkafka_does_not_know_is_64_before_the_network_is_touched() {
    let arguments = [
        "ingest",
        "--kafka",
        "127.0.0.1:1",
        "-X",
        "no.such=1",
        "--admin",
        "off",
    ];
    refused(&arguments, 64, &["-X", "no.such"]);
}

#[test]
fn a_property_that_exactly_once_needs_is_64_with_the_reason() {
    for (property, reason) in [
        ("isolation.level=read_uncommitted", "aborted transactions"),
        ("auto.offset.reset=earliest", "skip records"),
        ("enable.partition.eof=false", "to its end"),
        ("enable.auto.commit=true", "positions"),
        ("auto.commit.enable=true", "positions"),
        ("enable.auto.offset.store=true", "positions"),
        ("offset.store.method=file", "positions"),
        ("api.version.request=false", "isolation level"),
        ("broker.version.fallback=0.10.0", "isolation level"),
        ("allow.auto.create.topics=true", "emostream topics create"),
        ("transactional.id=mine", "--topic-prefix"),
        ("transaction.timeout.ms=1000", "abort"),
        ("enable.idempotence=false", "twice"),
        ("acks=1", "lost"),
        ("request.required.acks=0", "lost"),
        ("message.timeout.ms=1000", "twice"),
        ("delivery.timeout.ms=1000", "twice"),
        ("retries=1", "twice"),
        ("message.send.max.retries=1", "twice"),
        ("delivery.report.only.error=true", "acknowledged"),
        ("queuing.strategy=lifo", "order"),
        ("max.in.flight=6", "order"),
        ("max.in.flight.requests.per.connection=6", "order"),
        ("partitioner=random", "key"),
    ] {
        let name = property.split('=').next().unwrap();
        for command in ["ingest", "dataflow", "publisher"] {
            let kafka = ["--kafka", "127.0.0.1:1", "--admin", "off", "-X", property];
            let arguments = [&[command][..], &kafka].concat();
            refused(&arguments, 64, &["-X", name, reason]);
        }
    }
}

#[test]
fn a_file_without_a_key_is_64_before_a_port_is_bound_and_is_not_printed() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("key"), dir.path().join("data"));
    let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
    let arguments = [
        "up",
        "--jwt-key",
        file,
        "--data",
        data,
        "--listen",
        &address,
    ];
    let short = "hunter2";
    for (content, word) in [
        ("", "empty"),
        (
            "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----",
            "private",
        ),
        (
            "-----BEGIN PUBLIC KEY-----\nhunter2\n-----END PUBLIC KEY-----",
            "EdDSA",
        ),
        (r#"{"keys":[{"kty":"hunter2"}]}"#, "usable key"),
        (
            r#"{"keys":[{"kty":"oct","k":"hunter2","alg":"HS512"}]}"#,
            "HS512",
        ),
        (r#"{"kty":"oct","k":"hunter2"}"#, "JWKS"),
    ] {
        std::fs::write(file, content).unwrap();
        refused(&arguments, 64, &["--jwt-key", word]);
        let printed = node::run(&arguments).stderr;
        assert!(!String::from_utf8(printed).unwrap().contains(short));
    }
    // A secret that is short enough to be guessed is accepted with a warning.
    std::fs::write(file, short).unwrap();
    let printed = String::from_utf8(node::run(&arguments).stderr).unwrap();
    assert!(
        printed.contains("WARN") && printed.contains("32 bytes"),
        "{printed}"
    );
    assert!(printed.contains("--listen"), "{printed}");
    assert!(!printed.contains(short), "{printed}");
    // If the secret itself is passed in place of the file's path, it is not printed either.
    let printed = node::run(&["up", "--jwt-key", short]).stderr;
    assert!(!String::from_utf8(printed).unwrap().contains(short));
}

#[test]
fn a_port_in_use_is_64_and_names_the_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let up = ["up", "--data", data];
    let listen = [&up[..], &["--listen", &address, "--admin", "off"]].concat();
    refused(&listen, 64, &["--listen", &address, "in use"]);
    let admin = [&up[..], &["--listen", "127.0.0.1:0", "--admin", &address]].concat();
    refused(&admin, 64, &["--admin", &address, "in use"]);
}

#[test]
fn a_directory_in_use_is_64_and_names_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Node::up(dir.path(), &[]);
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let second = [
        "up",
        "--data",
        data,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
    ];
    refused(&second, 64, &["--data", "in use"]);
}

#[test]
fn kafka_away_at_start_is_69() {
    // Port 1 is reserved, and no process listens on it.
    let away = ["--kafka", "127.0.0.1:1"];
    let quiet = ["--admin", "off"];
    let commands = [
        [&["up", "--listen", "127.0.0.1:0"][..], &quiet, &away].concat(),
        [&["ingest", "--listen", "127.0.0.1:0"][..], &quiet, &away].concat(),
        [&["dataflow"][..], &quiet, &away].concat(),
        [&["publisher", "--listen", "127.0.0.1:0"][..], &quiet, &away].concat(),
        [&["inspect", "windows"][..], &away].concat(),
        [&["topics", "create", "--partitions", "1"][..], &away].concat(),
        [&["topics", "check"][..], &away].concat(),
        [&["reset", "--yes"][..], &away].concat(),
    ];
    // The commands run concurrently, since each of them waits for some seconds.
    std::thread::scope(|scope| {
        for command in &commands {
            scope.spawn(|| refused(command, 69, &["127.0.0.1:1"]));
        }
    });
}

#[test]
fn a_server_away_is_69() {
    let url = "http://127.0.0.1:1";
    refused(&["subscribe", "--url", url], 69, &["--url", url]);
    refused(
        &["load", "--url", url, "--duration", "1s"],
        69,
        &["--url", url],
    );
}

#[test]
fn brokers_of_unknown_hosts_are_69_and_named_instead_of_the_one_that_answered() {
    let broker = harness::kafka::Broker::start_at_an_unknown_host();
    let address = broker.address();
    let store = ["--kafka", address.as_str()];
    let listen = ["--listen", "127.0.0.1:0"];
    for command in [
        &["topics", "check"][..],
        &["dataflow"],
        &["inspect", "windows"],
        &[&["up"][..], &listen].concat(),
    ] {
        let arguments = [command, &store].concat();
        let words = ["kafka-0.no-such-host.invalid", "advertised.listeners"];
        refused(&arguments, 69, &words);
    }
}

#[test]
fn missing_topics_are_69_and_say_how_to_create_them() {
    let (brokers, prefix) = (harness::kafka::brokers(), unique("missing"));
    let store = [
        "--kafka",
        brokers.as_str(),
        "--topic-prefix",
        prefix.as_str(),
    ];
    let quiet = ["--admin", "off"];
    for command in ["ingest", "dataflow", "publisher"] {
        let arguments = [&[command][..], &store, &quiet].concat();
        refused(
            &arguments,
            69,
            &[&format!("{prefix}."), "emostream topics create"],
        );
    }
    let create = [&["topics", "create", "--partitions", "3"][..], &store].concat();
    assert!(node::output(&create).contains("created"));
    assert!(
        !node::output(&create).contains("created"),
        "a second time changes nothing"
    );
}

#[test]
fn progress_of_other_settings_is_78() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let body = json!({"user_id": 1, "emoji_type": "🔥", "room": "a"}).to_string();
    let watcher = Watcher::follow(Arc::new(node.address.clone().into()), "a");
    until("hello", || (watcher.hellos() > 0).then_some(()));
    assert_eq!(
        http::post(&node.address, "/v1/reactions", &body)
            .unwrap()
            .status,
        202
    );
    until("a final", || (!watcher.finals().is_empty()).then_some(()));
    drop(watcher);
    assert_eq!(node.stop(Duration::from_secs(10)).code(), Some(0));
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let other = [
        "up",
        "--data",
        data,
        "--window",
        "3s",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
    ];
    let output = node::run(&other);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{printed}");
    let welcome = String::from_utf8(output.stdout).unwrap();
    assert!(
        !welcome.contains("curl"),
        "no command without a token: {welcome}"
    );
    assert!(printed.contains("--window"), "{printed}");
    assert!(printed.contains("emostream reset"), "{printed}");
}

/// Sends each kind of invalid request over HTTP, and checks the status and the error of the response.
#[test]
fn a_bad_request_gets_a_problem_and_none_of_its_reactions_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    let good = json!({"user_id": "u", "emoji_type": "🔥", "room": "a"});
    let long = "x".repeat(300 << 10);
    for (method, path, body, status, word) in [
        ("POST", "/v1/reactions", "{", 400, "JSON"),
        (
            "POST",
            "/v1/reactions",
            r#"{"emoji_type":"🔥"}"#,
            400,
            "user_id",
        ),
        (
            "POST",
            "/v1/reactions",
            r#"{"user_id":1}"#,
            400,
            "emoji_type",
        ),
        (
            "POST",
            "/v1/reactions",
            r#"{"user_id":1,"emoji_type":"xyzzy"}"#,
            400,
            "xyzzy",
        ),
        (
            "POST",
            "/v1/reactions",
            r#"{"user_id":1,"emoji_type":"🔥","room":"a b"}"#,
            400,
            "room",
        ),
        ("POST", "/send_emoji", r#"{"user":1}"#, 400, "error"),
        ("POST", "/v1/reactions", long.as_str(), 413, ""),
        ("GET", "/v1/reactions", "", 405, ""),
        ("GET", "/no/such/path", "", 404, ""),
        ("GET", "/v1/rooms/a%20b", "", 404, ""),
    ] {
        let answer = http::request(&node.address, method, path, body).unwrap();
        let shown: String = body.chars().take(60).collect();
        if path == "/v1/rooms/a%20b" {
            assert!(matches!(answer.status, 400 | 404), "{answer:?}");
        } else {
            assert_eq!(answer.status, status, "{method} {path} {shown}: {answer:?}");
        }
        assert!(
            answer.head.contains("application/problem+json"),
            "{answer:?}"
        );
        assert!(
            answer.body.contains(word),
            "{method} {path} {shown}: {answer:?}"
        );
    }
    let mixed = json!([good, {"user_id": 1}, good]).to_string();
    let answer = http::post(&node.address, "/v1/reactions", &mixed).unwrap();
    assert_eq!(answer.status, 207, "{answer:?}");
    assert_eq!(answer.json()["accepted"], 2);
    assert_eq!(answer.json()["rejected"][0]["index"], 1);
}

#[test]
fn a_corrupt_record_in_the_middle_of_a_topic_is_rejected_and_the_rest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // A first run creates the topics.
    assert_eq!(
        Node::up(dir.path(), &[])
            .stop(Duration::from_secs(10))
            .code(),
        Some(0)
    );
    let log = EmbeddedLog::open(&data).unwrap();
    let plain = br#"{"user_id":1,"emoji_type":"fire","room":"corrupt"}"#.to_vec();
    let values = [
        plain.clone(),
        b"\x01\xff\xff\xff".to_vec(),
        b"junk".to_vec(),
        Vec::new(),
        plain,
    ];
    for value in values {
        append(&log, [record("emostream.reactions", value)]);
    }
    drop(log);

    let node = Node::up(dir.path(), &[]);
    let watcher = Watcher::follow(Arc::new(node.address.clone().into()), "corrupt");
    let expected = BTreeMap::from([("🔥".to_owned(), 2)]);
    until("the good records are final", || {
        (finals::sum(&watcher.finals()) == expected).then_some(())
    });
    let inspect = [
        "inspect",
        "rejected",
        "--format",
        "json",
        "--data",
        data.to_str().unwrap(),
    ];
    let rejected: Vec<Value> = until("the bad records are rejected", || {
        let text = node::output(&inspect);
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
        Some(records.collect::<Vec<Value>>()).filter(|records| records.len() == 3)
    });
    for record in rejected {
        assert!(record["headers"]["reason"].is_string(), "{record}");
        assert_eq!(
            record["headers"]["topic"], "emostream.reactions",
            "{record}"
        );
        assert_eq!(record["headers"]["partition"], "0", "{record}");
    }
}
