//! Topics of one test on a secured Kafka, and roles with the permissions that `topics check` prints for them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Output,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    http, kafka,
    node::{self, Node},
    secured::{Client, Login, SecuredKafka},
    unique, until,
};

pub const ROOM: &str = "secured";
const PARTITIONS: u32 = 2;
/// Flags for short windows and a short idle timeout.
const QUICK: [&str; 4] = ["--window", "1s", "--idle-timeout", "3s"];
/// The prefix of the sentence with which the program ends.
const SENTENCE: &str = "emostream: ";

pub struct Fixture {
    pub kafka: Arc<SecuredKafka>,
    pub dir: TempDir,
    pub prefix: String,
}

impl Fixture {
    /// Creates a fixture without topics, on which no role has a permission.
    pub fn new(name: &str) -> Fixture {
        Fixture {
            kafka: SecuredKafka::shared(),
            dir: tempfile::tempdir().unwrap(),
            prefix: unique(name),
        }
    }

    /// Creates a fixture and its topics.
    pub fn with_topics(name: &str) -> Fixture {
        let fixture = Fixture::new(name);
        kafka::create_topics(&fixture.admin(), &fixture.prefix, PARTITIONS);
        fixture
    }

    /// Returns the address of the listener at which the test is a super user.
    pub fn admin(&self) -> String {
        self.kafka.broker.address()
    }

    pub fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// Returns the log file of a role.
    pub fn log(&self, role: &str) -> PathBuf {
        self.dir.path().join(role)
    }

    /// Gives a role its permissions, by running the commands that `topics check` prints for it.
    pub fn grant(&self, role: &str) {
        let store = ["--kafka", &self.admin(), "--topic-prefix", &self.prefix];
        // If topics are missing, `topics check` ends with 1, but it prints the commands.
        let check = node::run(&[&["topics", "check"][..], &store].concat());
        let printed = String::from_utf8(check.stdout).unwrap();
        let principal = format!("User:{role}");
        let commands = printed.lines().filter_map(|line| {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            let is_for_role = words.contains(&principal.as_str());
            (is_for_role && words.remove(0) == "kafka-acls.sh").then_some(words)
        });
        let commands: Vec<Vec<&str>> = commands.collect();
        assert!(!commands.is_empty(), "none for {role}:\n{printed}");
        for words in commands {
            let ["--bootstrap-server", brokers, arguments @ ..] = &*words else {
                panic!("{words:?}");
            };
            assert_eq!(*brokers, self.admin());
            kafka::acls(brokers, arguments);
        }
    }

    /// Denies a permission. A DENY ACL overrides every ALLOW.
    pub fn deny(&self, role: &str, operation: &str, topic: &str) {
        self.denial(&["--add"], role, operation, topic);
    }

    /// Restores a permission that [`Fixture::deny`] has removed.
    pub fn allow_again(&self, role: &str, operation: &str, topic: &str) {
        self.denial(&["--remove", "--force"], role, operation, topic);
    }

    fn denial(&self, how: &[&str], role: &str, operation: &str, topic: &str) {
        let principal = format!("User:{role}");
        let denial = ["--deny-principal", &principal, "--operation", operation];
        let of = ["--topic", &self.topic(topic)];
        kafka::acls(&self.admin(), &[how, &denial, &of].concat());
    }

    pub fn client(&self, role: &str, login: &Login<'_>) -> Client {
        self.kafka.client(self.dir.path(), role, login)
    }

    /// Returns the arguments of a command that uses the topics.
    pub fn arguments<'a>(
        &'a self,
        command: &[&'a str],
        client: &'a Client,
        more: &[&'a str],
    ) -> Vec<&'a str> {
        let prefix = ["--topic-prefix", self.prefix.as_str()];
        [command, &client.flags(), &prefix, more].concat()
    }

    /// Runs a command to its end.
    pub fn run(&self, command: &[&str], client: &Client) -> Output {
        node::run(&self.arguments(command, client, &[]))
    }

    /// Runs a command that has to succeed, and returns what it printed.
    pub fn output(&self, command: &[&str], client: &Client) -> String {
        node::output(&self.arguments(command, client, &[]))
    }

    pub fn ingest(&self, client: &Client) -> Node {
        let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let arguments = self.arguments(&["ingest"], client, &listen);
        Node::start(&arguments, &self.log("ingest"))
    }

    pub fn publisher(&self, client: &Client) -> Node {
        let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let arguments = self.arguments(&["publisher"], client, &listen);
        Node::start(&arguments, &self.log("publisher"))
    }

    pub fn dataflow(&self, client: &Client) -> Node {
        let more = [&QUICK[..], &["--admin", "127.0.0.1:0"]].concat();
        let arguments = self.arguments(&["dataflow"], client, &more);
        Node::start_silent(&arguments, &self.log("dataflow"))
    }

    pub fn up(&self, client: &Client, more: &[&str]) -> Node {
        let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let arguments = self.arguments(&["up"], client, &[&listen, &QUICK, more].concat());
        Node::start(&arguments, &self.log("up"))
    }

    /// Waits until `reactions` reactions are in finals. Asserts that each window has one final.
    pub fn until_counted(&self, reactions: u64) {
        self.until_counted_or_more(reactions, 0);
    }

    /// Waits as [`Fixture::until_counted`] does, but up to `unknown` more reactions may be counted. Their requests
    /// failed, and it is unknown whether they were stored.
    pub fn until_counted_or_more(&self, reactions: u64, unknown: u64) {
        let store = ["--kafka", &self.admin(), "--topic-prefix", &self.prefix];
        let inspect = ["inspect", "windows", "--format", "json"];
        let arguments = [&inspect[..], &store].concat();
        until("every reaction in a final", || {
            let mut windows = BTreeMap::new();
            for line in node::output(&arguments).lines() {
                let value = &serde_json::from_str::<Value>(line).unwrap()["value"];
                let window = value["start"].as_u64().unwrap();
                let doubled = windows.insert(window, value["total"].as_u64().unwrap());
                assert_eq!(doubled, None, "a second final of window {window}");
            }
            let counted: u64 = windows.values().sum();
            let most = reactions + unknown;
            assert!(counted <= most, "{counted} counted of {most}");
            (counted >= reactions).then_some(())
        });
    }
}

/// Posts reactions, asserts that they are stored, and returns their number.
pub fn stored(address: &str, reactions: u64) -> u64 {
    let answer = post(address, reactions);
    assert_eq!(answer.status, 200, "{answer:?}");
    reactions
}

/// Posts reactions, and waits until they are stored or the server reports an error. Returns the response.
pub fn post(address: &str, reactions: u64) -> http::Answer {
    let reaction = json!({"user_id": 1, "emoji_type": "🔥", "room": ROOM});
    let body = Value::Array(vec![reaction; reactions as usize]).to_string();
    http::post(address, "/v1/reactions?wait=stored", &body).unwrap()
}

/// Returns the sentence with which the program ended. Asserts that standard error has only one such sentence.
pub fn sentence(logged: &str) -> &str {
    let mut sentences = logged.lines().filter(|line| line.starts_with(SENTENCE));
    let sentence = sentences.next();
    assert_eq!(sentences.next(), None, "{logged}");
    sentence.unwrap_or_else(|| panic!("no sentence:\n{logged}"))
}

/// Asserts that `text` contains each of `words`, ignoring case.
pub fn assert_contains(text: &str, words: &[&str]) {
    let lowercase = text.to_lowercase();
    for word in words {
        assert!(
            lowercase.contains(&word.to_lowercase()),
            "{word} is not in:\n{text}"
        );
    }
}

/// Waits until a line of the log has each of `words`, and returns it.
pub fn logged(node: &Node, words: &[&str]) -> String {
    until("a line in the log", || {
        let log = node.logged();
        let mut lines = log.lines();
        let found = lines.find(|line| words.iter().all(|word| line.contains(word)));
        found.map(str::to_owned)
    })
}

/// Waits for a process to end by itself, and returns its exit code and how long that took.
pub fn ended(node: &mut Node, within: Duration) -> (i32, Duration) {
    let begun = Instant::now();
    let code = node.exit_code_within(within);
    let code = code.unwrap_or_else(|| panic!("still running:\n{}", node.logged()));
    (code, begun.elapsed())
}
