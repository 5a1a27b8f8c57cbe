//! An ingest on port 0, a client of it, and a reader of its topic.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use emostream_http::{Limits, NotFound, Readiness, serve};
use emostream_ingest::{Config, DrainError, Ingest};
use emostream_log::{
    Header, Log, TopicSpec,
    embedded::EmbeddedLog,
    read_to_end,
    testing::{FaultyLog, KEEP, topic},
};
use emostream_model::{Batch, Emoji, Reaction, ReactionRef, Room, Topics, UserId};
use prometheus::{Registry, TextEncoder};
use serde_json::Value;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::contract::violation;

/// What must happen happens long before this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A flush that does not come while a test runs.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// The partitions of the topic.
pub(crate) const PARTITIONS: u32 = 3;

pub(crate) struct Stage {
    pub(crate) log: Arc<FaultyLog>,
    pub(crate) readiness: Readiness,
    registry: Registry,
    address: SocketAddr,
    ingest: Ingest,
    shutdown: CancellationToken,
    served: JoinHandle<emostream_http::DrainOutcome>,
    runtime: Runtime,
}

/// A record of the topic.
pub(crate) struct Written {
    pub(crate) partition: u32,
    pub(crate) time_ms: u64,
    pub(crate) base_ms: u64,
    pub(crate) headers: Vec<Header>,
    pub(crate) reactions: Vec<Reaction>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Value,
}

impl Stage {
    pub(crate) fn start(config: Config) -> Self {
        Self::limited(config, Limits::default())
    }

    /// An ingest whose listener has other limits.
    pub(crate) fn limited(config: Config, limits: Limits) -> Self {
        let log = FaultyLog::new(Arc::new(EmbeddedLog::in_memory().unwrap()));
        log.create_topic(&TopicSpec {
            max_ahead: Some(Duration::from_secs(5)),
            ..topic(Topics::default().reactions(), PARTITIONS, KEEP)
        })
        .unwrap();
        let log = Arc::new(log);
        let runtime = Runtime::new().unwrap();
        let (registry, readiness) = (Registry::new(), Readiness::new());
        let shutdown = CancellationToken::new();
        let nowhere = NotFound::new(config.allow_origin.clone());
        let starting = Ingest::start(config, log.clone(), &registry, &readiness);
        let ingest = runtime.block_on(starting).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(
            listener,
            nowhere.after(ingest.router()),
            limits,
            shutdown.clone(),
        );
        Self {
            log,
            readiness,
            registry,
            address,
            ingest,
            shutdown,
            served: runtime.spawn(serving),
            runtime,
        }
    }

    /// A connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// The answer to a request of these header lines, as the OpenAPI document describes it.
    pub(crate) fn ask(&self, line: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Answer {
        let answer = Answer::read(&mut self.begin(line, headers, body));
        if let Err(why) = violation(line, &answer) {
            panic!("{line} is not answered as openapi.json says: {why}: {answer:?}");
        }
        answer
    }

    /// The connection on which the answer to such a request will come.
    pub(crate) fn begin(&self, line: &str, headers: &[&str], body: impl AsRef<[u8]>) -> TcpStream {
        let body = body.as_ref();
        let mut head = format!(
            "{line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.address,
            body.len()
        );
        for header in headers {
            head += &format!("{header}\r\n");
        }
        let mut stream = self.connect();
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    /// The answer to a JSON body posted to `target`.
    pub(crate) fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Answer {
        let json = ["content-type: application/json"];
        self.ask(&format!("POST {target}"), &json, body)
    }

    /// Everything in the topic, partition by partition.
    pub(crate) fn written(&self) -> Vec<Written> {
        let mut written = Vec::new();
        read_to_end(&*self.log, &Topics::default().reactions(), &mut |record| {
            let batch = Batch::decode(record.value).unwrap();
            written.push(Written {
                partition: record.partition,
                time_ms: record.time_ms,
                base_ms: batch.base_ms(),
                headers: record.headers.read(),
                reactions: batch.reactions().unwrap().into_iter().map(owned).collect(),
            });
        })
        .unwrap();
        written
    }

    /// All reactions in the topic.
    pub(crate) fn reactions(&self) -> Vec<Reaction> {
        self.written()
            .into_iter()
            .flat_map(|record| record.reactions)
            .collect()
    }

    /// One sample of the metrics.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        let text = TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(sample));
        let value = lines
            .next()
            .unwrap_or_else(|| panic!("no {sample} in {text}"));
        value.trim().parse().unwrap()
    }

    /// Stops as a process does: the listener first, then the ingest.
    pub(crate) fn stop(&mut self, within: Duration) -> Result<(), DrainError> {
        self.shutdown.cancel();
        let drained = self.runtime.block_on(&mut self.served).unwrap();
        assert_eq!(drained.remaining, 0);
        self.drain(within)
    }

    /// Drains the ingest alone.
    pub(crate) fn drain(&self, within: Duration) -> Result<(), DrainError> {
        self.runtime.block_on(self.ingest.drain(within))
    }
}

impl Answer {
    /// Reads to the end of the connection.
    pub(crate) fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let body = match body {
            "" => Value::Null,
            body => serde_json::from_str(body).unwrap(),
        };
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: format!("{head}\r\n"),
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let start = self.head.find(&format!("\r\n{name}: "))? + name.len() + 4;
        self.head[start..].split("\r\n").next()
    }
}

/// `count` good reactions as an array.
pub(crate) fn array(count: usize) -> String {
    let one = |user| format!(r#"{{"user_id":{user},"emoji_type":"🔥"}}"#);
    format!("[{}]", (0..count).map(one).collect::<Vec<_>>().join(","))
}

fn owned(reaction: ReactionRef<'_>) -> Reaction {
    Reaction {
        user: UserId::new(reaction.user).unwrap(),
        emoji: Emoji::from_text(reaction.emoji).unwrap(),
        room: Room::from_record(reaction.room).unwrap(),
        at_ms: reaction.at_ms,
    }
}
