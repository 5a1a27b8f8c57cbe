//! The client of the log socket. A command uses it to read the log that another process has opened.

use std::{
    error::Error,
    future::pending,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use emostream_log::{
    Log, LogError, Record, TopicDescription,
    embedded::{EmbeddedLog, Page, ReadingLog, Source},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, runtime, time::timeout};

use super::{Line, PREFIX, SOCKET, TopicState};

/// Timeout of a request.
const RESPONSE_TIME: Duration = Duration::from_secs(10);
/// Maximum bytes of a response: a page of 1 MiB, and one more record, whose 1 MiB may be six times as long in JSON.
const RESPONSE_BYTES: usize = 8 << 20;

/// Opens the log in `dir` for reading. If another process holds the database, the log is read over the socket of that
/// process.
pub(crate) fn open_for_reading(dir: &Path) -> Result<Arc<dyn Log>, LogError> {
    match EmbeddedLog::open_for_reading(dir) {
        Err(LogError::InUse { .. }) if dir.join(SOCKET).exists() => {
            let mut runtime = runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build();
            let runtime = runtime.map_err(|error| unavailable(dir, &error))?;
            let dir = dir.into();
            Ok(Arc::new(ReadingLog::new(Arc::new(Client { dir, runtime }))))
        }
        opened => opened,
    }
}

/// A source that reads from the process that holds the log in `dir`. Each request has a new connection, so reading
/// continues when another process opens the log later.
struct Client {
    dir: PathBuf,
    runtime: runtime::Runtime,
}

type GetError = Box<dyn Error + Send + Sync>;

impl Client {
    fn get(&self, path: &str) -> Result<Bytes, GetError> {
        let response = get(self.dir.join(SOCKET), PREFIX.to_owned() + path);
        let response = async { timeout(RESPONSE_TIME, response).await };
        self.runtime.block_on(response)?
    }

    fn topic(&self, topic: &str, query: &str) -> Result<TopicState, LogError> {
        let body = self.get(&format!("{topic}{query}"));
        let body = body.map_err(|error| unavailable(&self.dir, &*error))?;
        match self.lines(&body)?.pop() {
            Some(Line::Topic(state)) => Ok(state),
            line => Err(self.failure(line, topic, 0, 0)),
        }
    }

    fn lines(&self, body: &[u8]) -> Result<Vec<Line>, LogError> {
        parse(body).map_err(|_| self.other_version())
    }

    /// Returns the error that `line` reports instead of a result.
    fn failure(&self, line: Option<Line>, topic: &str, partition: u32, offset: u64) -> LogError {
        let topic = topic.to_owned();
        match line {
            Some(Line::UnknownTopic) => LogError::UnknownTopic { topic },
            Some(Line::UnknownPartition) => LogError::UnknownPartition { topic, partition },
            Some(Line::Expired { start }) => LogError::Expired {
                topic,
                partition,
                offset,
                start,
            },
            Some(Line::Failed { detail }) => LogError::Refused(detail),
            _ => self.other_version(),
        }
    }

    fn other_version(&self) -> LogError {
        let dir = self.dir.display();
        LogError::Refused(format!(
            "the emostream process that uses {dir} has another version"
        ))
    }
}

impl Source for Client {
    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        Ok(self.topic(topic, "")?.description)
    }

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        Ok(self.topic(topic, "")?.offsets)
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        let query = format!("?time_ms={time_ms}");
        Ok(self.topic(topic, &query)?.offsets_at)
    }

    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<Page, LogError> {
        let page = |count, next, at_end| {
            Ok(Page {
                count,
                next,
                at_end,
            })
        };
        let Ok(body) = self.get(&format!("{topic}/{partition}?from={from}&limit={limit}")) else {
            // A failed request is not an error, as with a broker that is not reachable: the reader continues when a
            // process serves the directory again.
            return page(0, from, false);
        };
        let mut count = 0;
        for line in self.lines(&body)? {
            match line {
                Line::Record(record) => {
                    let offset = record.offset;
                    let consumed = record.decode(partition, each);
                    if !consumed.map_err(|_| self.other_version())? {
                        return page(count, offset, false);
                    }
                    count += 1;
                }
                Line::Page { next, at_end } => return page(count, next, at_end),
                line => return Err(self.failure(Some(line), topic, partition, from)),
            }
        }
        Err(self.other_version())
    }
}

/// Parses the lines of the body of a response.
pub(super) fn parse(body: &[u8]) -> Result<Vec<Line>, serde_json::Error> {
    let lines = serde_json::Deserializer::from_slice(body).into_iter();
    lines.collect()
}

fn unavailable(dir: &Path, error: &dyn std::fmt::Display) -> LogError {
    let detail = format!("no response from the emostream process that uses it: {error}");
    LogError::Disk {
        dir: dir.into(),
        detail,
    }
}

/// Sends a GET. Returns the body of the response whatever its status is, because errors are also lines of the format.
async fn get(socket: PathBuf, path: String) -> Result<Bytes, GetError> {
    let stream = TokioIo::new(UnixStream::connect(socket).await?);
    let (mut requests, connection) = http1::handshake(stream).await?;
    let exchange = async {
        let request = Request::get(path).header(HOST, "localhost");
        let response = requests.send_request(request.body(Empty::<Bytes>::new())?);
        let response = response.await.map_err(|error| {
            // A server of an older version, which does not use HTTP, closes the connection after the first bytes.
            io::Error::other(format!("{error}; it may have another version"))
        })?;
        let body = Limited::new(response.into_body(), RESPONSE_BYTES);
        Ok(body.collect().await?.to_bytes())
    };
    // The connection is polled here and not by a task: if a response is too long, a task would keep the socket open. We
    // ignore its error, because the exchange returns the same error.
    let drive = async {
        let _ = connection.await;
        pending().await
    };
    tokio::select! {
        body = exchange => body,
        never = drive => never,
    }
}
