//! An ingest on a free port, with a client that sends requests and a reader of its topic.

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

/// Maximum time that a test waits for a result.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A flush interval that is longer than any test, so that it never ends during a test.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);

/// Number of partitions of the topic.
pub(crate) const PARTITIONS: u32 = 3;

pub(crate) struct TestService {
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
pub(crate) struct WrittenRecord {
    pub(crate) partition: u32,
    pub(crate) time_ms: u64,
    pub(crate) base_ms: u64,
    pub(crate) headers: Vec<Header>,
    pub(crate) reactions: Vec<Reaction>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Value,
}

impl TestService {
    pub(crate) fn start(config: Config) -> Self {
        Self::limited(config, Limits::default())
    }

    /// Starts an ingest whose listener has these limits.
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
        let not_found = NotFound::new(config.allow_origin.clone());
        let starting = Ingest::start(config, log.clone(), &registry, &readiness);
        let ingest = runtime.block_on(starting).unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(
            listener,
            not_found.after(ingest.router()),
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

    /// Opens a connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Sends a request with this request line, these headers and this body. Returns the response, which must be as in
    /// the OpenAPI document.
    pub(crate) fn request(&self, line: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Response {
        let response = Response::read(&mut self.begin(line, headers, body));
        if let Err(why) = violation(line, &response) {
            panic!("{line} is not answered as openapi.json says: {why}: {response:?}");
        }
        response
    }

    /// Sends a request. Returns the connection to read the response from.
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

    /// Posts a JSON body to `target`. Returns the response.
    pub(crate) fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Response {
        let json = ["content-type: application/json"];
        self.request(&format!("POST {target}"), &json, body)
    }

    /// Returns all records of the topic, partition by partition.
    pub(crate) fn written(&self) -> Vec<WrittenRecord> {
        let mut written = Vec::new();
        read_to_end(&*self.log, &Topics::default().reactions(), &mut |record| {
            let batch = Batch::decode(record.value).unwrap();
            written.push(WrittenRecord {
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

    /// Returns all reactions of the topic.
    pub(crate) fn reactions(&self) -> Vec<Reaction> {
        self.written()
            .into_iter()
            .flat_map(|record| record.reactions)
            .collect()
    }

    /// Returns the value of a sample of the metrics.
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

    /// Stops the service in the order in which the process does it: first the listener, then the ingest.
    pub(crate) fn stop(&mut self, within: Duration) -> Result<(), DrainError> {
        self.shutdown.cancel();
        let drained = self.runtime.block_on(&mut self.served).unwrap();
        assert_eq!(drained.remaining, 0);
        self.drain(within)
    }

    /// Drains the ingest, but not the listener.
    pub(crate) fn drain(&self, within: Duration) -> Result<(), DrainError> {
        self.runtime.block_on(self.ingest.drain(within))
    }
}

impl Response {
    /// Reads a response until the server closes the connection.
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

/// Returns an array of `count` valid reactions.
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
