//! The real Kafka that `tests/kafka/kafka.sh run` starts for the tests.

use std::{path::Path, process::Command};

use emostream_log::kafka::{KafkaLog, KafkaOptions};
use tempfile::TempDir;

use super::{node, signal::signal, supervised::free_addresses, until};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/kafka.sh");

/// Returns the `host:port` of the Kafka that all tests share. Fails if there is none, because a skipped test would look
/// like a passed one.
pub fn brokers() -> String {
    std::env::var("EMOSTREAM_TEST_KAFKA").unwrap_or_else(|_| {
        panic!(
            "this test needs a Kafka: run `make test`, or \
             `tests/kafka/kafka.sh run cargo test`, which sets EMOSTREAM_TEST_KAFKA"
        )
    })
}

/// Connects to the Kafka at `brokers`.
pub fn connect(brokers: &str) -> KafkaLog {
    let brokers = brokers.to_owned();
    KafkaLog::connect(KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    })
    .unwrap()
}

/// Creates the missing topics of `prefix`, with `partitions` partitions.
pub fn create_topics(brokers: &str, prefix: &str, partitions: u32) {
    let partitions = partitions.to_string();
    let create = ["topics", "create", "--kafka", brokers];
    let named = ["--topic-prefix", prefix, "--partitions", &partitions];
    node::output(&[create, named].concat());
}

/// A broker of one test, which can be stopped and started again with its data.
pub struct Broker {
    dir: TempDir,
    port: String,
}

impl Broker {
    pub fn start() -> Broker {
        Broker::start_in(&[])
    }

    /// Starts a broker with a long session timeout. With a short one, the controller would fence the broker on a busy
    /// machine, and other brokers would become leaders in its place.
    pub fn start_for_a_cluster() -> Broker {
        Broker::start_in(&[("KAFKA_SESSION_TIMEOUT_MS", "9000".to_owned())])
    }

    /// Starts a broker that advertises a host name which does not resolve.
    pub fn start_at_an_unknown_host() -> Broker {
        let host = "kafka-0.no-such-host.invalid".to_owned();
        Broker::start_in(&[("KAFKA_ADVERTISED_HOST", host)])
    }

    /// Starts a broker whose files may have at most `file_kb` KB each, until it is restarted. Longer writes fail as on
    /// a full disk.
    pub fn start_with_room_for(file_kb: u32) -> Broker {
        Broker::start_in(&[("KAFKA_FILE_KB", file_kb.to_string())])
    }

    /// Starts a broker with a second listener at `port`, which is advertised as `advertised`.
    pub fn start_with_second_listener(port: &str, advertised: &str) -> Broker {
        Broker::start_in(&[second_listener(port, advertised)])
    }

    /// Starts a broker by `kafka.sh`, with these environment variables.
    pub fn start_in(environment: &[(&str, String)]) -> Broker {
        let broker = Broker::on_a_free_port();
        let arguments = ["start", text(broker.dir.path()), &broker.port];
        run(Command::new(SCRIPT)
            .args(arguments)
            .envs(environment.iter().cloned()));
        broker
    }

    /// Waits until the broker has ended by itself.
    pub fn until_it_gives_up(&self) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        let process = format!("/proc/{}/cmdline", pid.trim());
        until("the broker's end", || {
            // A zombie process has an empty command line, so it counts as ended.
            std::fs::read(&process)
                .unwrap_or_default()
                .is_empty()
                .then_some(())
        });
    }

    /// Starts another broker in the cluster of this one.
    pub fn joined(&self) -> Broker {
        let broker = Broker::on_a_free_port();
        broker.join(self, &mut Command::new(SCRIPT));
        broker
    }

    /// Starts another broker in the cluster of this one, with a second listener at `port`, which is advertised as
    /// `advertised`.
    pub fn joined_with_second_listener(&self, port: &str, advertised: &str) -> Broker {
        let broker = Broker::on_a_free_port();
        let environment = [second_listener(port, advertised)];
        broker.join(self, Command::new(SCRIPT).envs(environment));
        broker
    }

    fn join(&self, other: &Broker, script: &mut Command) {
        let (own, others) = (text(self.dir.path()), text(other.dir.path()));
        run(script.args(["join", own, &self.port, others]));
    }

    /// Returns the broker's node id.
    pub fn id(&self) -> &str {
        &self.port
    }

    fn on_a_free_port() -> Broker {
        let address = free_addresses(1).remove(0);
        Broker {
            dir: tempfile::tempdir().unwrap(),
            port: address.rsplit_once(':').unwrap().1.to_owned(),
        }
    }

    /// Returns the broker's `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn come_back(&self) {
        script(&["start", text(self.dir.path()), &self.port]);
    }

    pub fn go_away(&self) {
        script(&["stop", text(self.dir.path())]);
    }

    /// Kills the broker by SIGKILL.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap();
        signal(pid.trim().parse().unwrap(), name);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.go_away();
    }
}

/// Returns the environment variable of `kafka.sh` that adds a second listener.
fn second_listener(port: &str, advertised: &str) -> (&'static str, String) {
    ("KAFKA_LISTENERS", format!("SECOND:{port}:{advertised}"))
}

/// Changes permissions by `kafka-acls.sh`.
pub fn acls(brokers: &str, arguments: &[&str]) -> String {
    let port = brokers.rsplit_once(':').unwrap().1;
    script(&[&["acls", port], arguments].concat())
}

/// Sets the number of partitions of `topic`, by `kafka-topics.sh`.
pub fn add_partitions(brokers: &str, topic: &str, partitions: u32) {
    let port = brokers.rsplit_once(':').unwrap().1;
    let partitions = partitions.to_string();
    script(&[
        "topics",
        port,
        "--alter",
        "--topic",
        topic,
        "--partitions",
        &partitions,
    ]);
}

/// Creates `topic` with two partitions and a maximum record size of `bytes`, by `kafka-topics.sh`.
pub fn create_topic_of_small_records(brokers: &str, topic: &str, bytes: u32) {
    let port = brokers.rsplit_once(':').unwrap().1;
    let limit = format!("max.message.bytes={bytes}");
    let create = ["topics", port, "--create", "--topic", topic];
    script(&[&create[..], &["--partitions", "2", "--config", &limit]].concat());
}

/// Sets the write quota of clients with this `client.id`, by `kafka-configs.sh`.
pub fn limit_writes(brokers: &str, client_id: &str, bytes_per_second: u32) {
    let limit = format!("producer_byte_rate={bytes_per_second}");
    configure(brokers, "clients", client_id, &limit);
}

/// Sets the maximum size of a record batch of `topic` in bytes, by `kafka-configs.sh`.
pub fn limit_records(brokers: &str, topic: &str, bytes: u32) {
    configure(
        brokers,
        "topics",
        topic,
        &format!("max.message.bytes={bytes}"),
    );
}

fn configure(brokers: &str, kind: &str, name: &str, setting: &str) {
    let port = brokers.rsplit_once(':').unwrap().1;
    let of = ["configs", port, "--alter", "--entity-type", kind];
    script(&[&of[..], &["--entity-name", name, "--add-config", setting]].concat());
}

/// Adds partitions to `topic` by `kafka-topics.sh`, until it has one for each entry of `leaders`. The entry at the
/// index of a new partition is the id of the broker that leads this partition.
pub fn add_partitions_at(brokers: &str, topic: &str, leaders: &[&str]) {
    let port = brokers.rsplit_once(':').unwrap().1;
    let (count, assignment) = (leaders.len().to_string(), leaders.join(","));
    let alter = ["topics", port, "--alter", "--topic", topic];
    let to = ["--partitions", &count, "--replica-assignment", &assignment];
    script(&[&alter[..], &to].concat());
}

/// Deletes `topic`, by `kafka-topics.sh`.
pub fn delete_topic(brokers: &str, topic: &str) {
    let port = brokers.rsplit_once(':').unwrap().1;
    script(&["topics", port, "--delete", "--topic", topic]);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Waits until every replica is in sync, so that any broker can be stopped.
pub fn until_in_sync(brokers: &str) {
    let port = brokers.rsplit_once(':').unwrap().1;
    until("every replica in sync", || {
        let behind = script(&[
            "topics",
            port,
            "--describe",
            "--under-replicated-partitions",
        ]);
        behind.trim().is_empty().then_some(())
    });
}

fn script(arguments: &[&str]) -> String {
    run(Command::new(SCRIPT).args(arguments))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A record, as Kafka's own console consumer prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumed {
    pub partition: u32,
    pub offset: u64,
    pub key: String,
    pub value: String,
}

/// Returns all records of `topic` that Kafka's console consumer reads with `read_committed`.
pub fn consume(brokers: &str, topic: &str) -> Vec<Consumed> {
    let port = brokers.rsplit_once(':').unwrap().1;
    let output = Command::new(SCRIPT)
        .args(["consume", port, topic])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kafka.sh consume: {errors}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(record)
        .collect()
}

/// Parses `Partition:0 <tab> Offset:12 <tab> key <tab> value`.
fn record(line: &str) -> Option<Consumed> {
    let mut fields = line.splitn(4, '\t');
    let number = |field: Option<&str>, name: &str| -> Option<u64> {
        field?.strip_prefix(name)?.parse().ok()
    };
    Some(Consumed {
        partition: number(fields.next(), "Partition:")? as u32,
        offset: number(fields.next(), "Offset:")?,
        key: fields.next()?.to_owned(),
        value: fields.next()?.to_owned(),
    })
}
