//! Checks the tables of requests and errors in docs/reference/http.md, row by row, against `emostream ingest` on Kafka.
//! Afterwards the topic contains exactly the accepted reactions.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    kafka,
    node::{self, Node},
    unique,
};

const DEADLINE: Duration = Duration::from_secs(30);
const JSON: &str = "content-type: application/json";
const ONE: &str = r#"{"user_id":"u-17","emoji_type":"🔥","room":"match-7"}"#;

/// A request with its expected response: the status, a part of the body, and the number of accepted reactions.
struct Row {
    line: &'static str,
    header: &'static str,
    body: String,
    status: u16,
    says: &'static str,
    kept: u64,
}

fn row(
    line: &'static str,
    header: &'static str,
    body: impl Into<String>,
    (status, says, kept): (u16, &'static str, u64),
) -> Row {
    let body = body.into();
    Row {
        line,
        header,
        body,
        status,
        says,
        kept,
    }
}

fn accepted() -> Vec<Row> {
    let post = "POST /v1/reactions";
    let of = |field: &str| format!(r#"{{"user_id":1,"emoji_type":"🔥",{field}}}"#);
    let by = |emoji: &str| format!(r#"{{"user_id":-3,"emoji_type":"{emoji}"}}"#);
    let mixed = format!(r#"[{ONE},{{"user_id":1}},{ONE}]"#);
    let flask = r#"{"client_id":"c","emoji":"love"}"#;
    let mut rows = vec![
        row(post, JSON, ONE, (202, r#""accepted":1"#, 1)),
        row(post, "x: y", ONE, (202, r#""accepted":1"#, 1)),
        row(
            post,
            "content-type: text/plain;charset=UTF-8",
            ONE,
            (202, "1", 1),
        ),
        row(
            post,
            JSON,
            format!("[{}]", [ONE; 1000].join(",")),
            (202, ":1000", 1000),
        ),
        row(post, JSON, "[]", (202, r#""accepted":0"#, 0)),
        row(
            "POST /v1/reactions?wait=stored",
            JSON,
            ONE,
            (200, r#""stored":1"#, 1),
        ),
        row(post, "prefer: wait", ONE, (200, r#""stored":1"#, 1)),
        row(post, JSON, mixed, (207, r#""index":1"#, 2)),
        row(
            "POST /send_emoji",
            JSON,
            flask,
            (200, r#""status":"success""#, 1),
        ),
        row("POST /send-emoji", JSON, flask, (200, r#""accepted":1"#, 1)),
        row(
            "POST /emoji",
            JSON,
            r#"{"user":7,"emoji":"🔥"}"#,
            (200, "success", 1),
        ),
    ];
    rows.extend(
        ["fire", ":fire:", "love", "👍🏽", "❤"]
            .map(|emoji| row(post, JSON, by(emoji), (202, "1", 1))),
    );
    let times = [
        "1764000000",
        "1764000000.5",
        "1764000000123",
        r#""2025-11-24T16:00:00Z""#,
        r#""2025-11-24 16:00:00.25""#,
        r#""""#,
    ];
    rows.extend(times.map(|at| {
        let body = of(&format!(r#""timestamp":{at}"#));
        row(post, JSON, body, (202, "1", 1))
    }));
    rows
}

fn refused() -> Vec<Row> {
    let post = "POST /v1/reactions";
    let bad = |body: &'static str, says| row(post, JSON, body, (400, says, 0));
    let no = |line, status, says| row(line, JSON, ONE, (status, says, 0));
    vec![
        bad("", "empty"),
        bad("{", "JSON"),
        bad("7", "JSON object"),
        bad(r#"{"emoji_type":"🔥"}"#, "user_id is required"),
        bad(r#"{"user_id":1}"#, "emoji_type is required"),
        bad(r#"{"user_id":"","emoji_type":"🔥"}"#, "1 to 128"),
        bad(
            r#"{"user_id":18446744073709551616,"emoji_type":"🔥"}"#,
            "64 bits",
        ),
        bad(r#"{"user_id":1,"emoji_type":"xyzzy"}"#, "xyzzy"),
        bad(r#"{"user_id":1,"emoji_type":"🔥","room":"a b"}"#, "room"),
        bad(
            r#"{"user_id":1,"emoji_type":"🔥","timestamp":"noon"}"#,
            "timestamp",
        ),
        bad(r#"[{"user_id":1}]"#, "rejected"),
        row(
            post,
            JSON,
            format!("[{}]", [ONE; 1001].join(",")),
            (400, "1000", 0),
        ),
        row(post, JSON, " ".repeat(257 << 10), (413, "262144", 0)),
        row(
            post,
            "content-type: text/html",
            ONE,
            (415, "application/json", 0),
        ),
        row(post, "content-encoding: gzip", ONE, (415, "compressed", 0)),
        no("POST /v1/reactions?wait=soon", 400, "?wait=stored"),
        no("GET /v1/reactions", 405, "POST"),
        no("PUT /emoji", 405, "error"),
        no("GET /v1/rooms", 404, "publisher"),
        no("OPTIONS /nope", 404, "nothing at this path"),
        row(
            "POST /send_emoji",
            JSON,
            r#"{"user":1}"#,
            (400, r#""error""#, 0),
        ),
    ]
}

fn ask(node: &Node, row: &Row) -> String {
    let mut stream = TcpStream::connect(&node.address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let Row {
        line, header, body, ..
    } = row;
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{header}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream
        .write_all(&[head.as_bytes(), body.as_bytes()].concat())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// An ingest whose topics no other test uses.
struct Ingest {
    node: Node,
    store: [String; 4],
    _home: TempDir,
}

impl Ingest {
    fn start(partitions: u32, limits: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = [
            "--kafka",
            &kafka::brokers(),
            "--topic-prefix",
            &unique("requests"),
        ];
        let store = store.map(str::to_owned);
        let partitions = partitions.to_string();
        let create = ["topics", "create", "--partitions", &partitions];
        node::output(&on(&store, &[&create]));
        let serve = ["ingest", "--listen", "127.0.0.1:0", "--admin", "off"];
        let log = home.path().join("ingest");
        Self {
            node: Node::start(&on(&store, &[&serve, limits]), &log),
            store,
            _home: home,
        }
    }

    /// Stops the ingest, which then flushes its buffer. Returns the number of reactions in its topic.
    fn stop(self) -> u64 {
        assert!(self.node.stop(DEADLINE).success());
        let inspect = [
            "inspect",
            "reactions",
            "--from",
            "earliest",
            "--format",
            "json",
        ];
        let printed = node::output(&on(&self.store, &[&inspect]));
        let records = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let reactions = |record: Value| {
            let reactions = &record["value"]["batch"]["reactions"];
            reactions.as_array().unwrap().len() as u64
        };
        records.map(reactions).sum()
    }
}

fn on<'a>(store: &'a [String], arguments: &[&[&'a str]]) -> Vec<&'a str> {
    let store = store.iter().map(String::as_str);
    arguments.concat().into_iter().chain(store).collect()
}

#[test]
fn every_row_of_the_tables_is_answered_as_it_says_by_ingest_on_kafka() {
    let ingest = Ingest::start(2, &[]);
    let mut kept = 0;
    for row in accepted().into_iter().chain(refused()) {
        let answer = ask(&ingest.node, &row);
        let shown: String = row.body.chars().take(80).collect();
        let case = format!("{} {} {shown}\n{answer}", row.line, row.header);
        let status = format!("HTTP/1.1 {} ", row.status);
        assert!(answer.starts_with(&status), "{} of {case}", row.status);
        assert!(answer.contains(row.says), "{:?} of {case}", row.says);
        let problem = answer.contains("content-type: application/problem+json\r\n");
        assert_eq!(problem, row.status >= 400, "{case}");
        kept += row.kept;
    }
    assert_eq!(ingest.stop(), kept, "what was accepted, once");
}

#[test]
fn a_client_beyond_a_limit_of_rate_or_rooms_gets_retry_after() {
    let ingest = Ingest::start(1, &["--per-user-rate", "2/m", "--max-rooms", "1"]);
    let send = |user: u32, room: &str| {
        let body = json!({"user_id": user, "emoji_type": "🔥", "room": room}).to_string();
        ask(
            &ingest.node,
            &row("POST /v1/reactions", JSON, body, (0, "", 0)),
        )
    };
    assert!(send(1, "a").starts_with("HTTP/1.1 202 "));
    for (answer, status) in [(send(1, "a"), "429"), (send(2, "b"), "503")] {
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("\r\nretry-after: "), "{answer}");
        assert!(answer.contains("no reaction was accepted"), "{answer}");
    }
    assert!(send(3, "a").starts_with("HTTP/1.1 202 "));
    assert_eq!(ingest.stop(), 2);
}
