//! The server of the log socket: the process that has opened the log.

use std::{
    fs::{self, Permissions},
    future::pending,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{Router, response::IntoResponse, routing::any};
use emostream_http::{Body, Problem, Request, Response, serve_unix};
use emostream_log::{Log, LogError};
use hyper::{
    Method, StatusCode, Uri,
    header::{CONTENT_TYPE, HeaderValue},
};
use tokio::{
    net::UnixListener,
    task::{JoinHandle, spawn_blocking},
};

use super::{Line, PREFIX, RecordLine, SOCKET, TopicState};

/// Maximum number of records in a response.
const PAGE_RECORDS: usize = 10_000;
/// Size of a response at which no further record is added, bytes.
const PAGE_BYTES: usize = 1 << 20;

/// The socket. It is served until this value is dropped.
pub(crate) struct LogSocket {
    path: PathBuf,
    serving: JoinHandle<()>,
}

impl LogSocket {
    /// Serves `router` on the socket in `dir`. Requires a tokio runtime. Returns `None` and logs a warning if the
    /// socket cannot be created (the path is too long, or the file system has no sockets), because the process can work
    /// without it.
    pub(crate) fn start(dir: &Path, router: Router) -> Option<Self> {
        let path = dir.join(SOCKET);
        match bind(&path) {
            Ok(listener) => {
                let serving = tokio::spawn(serve_unix(listener, router));
                Some(Self { path, serving })
            }
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "the data directory has no socket: `inspect --data` cannot read it until this process ends");
                None
            }
        }
    }
}

impl Drop for LogSocket {
    fn drop(&mut self) {
        // The file must be removed before the task ends. While the task exists, it keeps the log open, so no other
        // process can have created a socket at this path.
        let _ = fs::remove_file(&self.path);
        self.serving.abort();
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    // A process that was killed leaves its socket behind, so an existing one is removed. No other process can be using
    // it now, since this process has opened the log.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the requests of other processes that read `log`.
pub(crate) struct LogEndpoint(Arc<dyn Log>);

impl LogEndpoint {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self(log)
    }
}

impl LogEndpoint {
    /// Returns the routes of the endpoint.
    pub(crate) fn router(self) -> Router {
        let endpoint = Arc::new(self);
        let respond = async move |request: Request| endpoint.respond(request).await;
        Router::new().route(&format!("{PREFIX}{{*log}}"), any(respond))
    }

    async fn respond(&self, request: Request) -> Response {
        if *request.method() != Method::GET {
            return Problem::method_not_allowed("GET").into_response();
        }
        let (log, uri) = (self.0.clone(), request.uri().clone());
        let (status, body) = match spawn_blocking(move || lines(&*log, &uri)).await {
            Ok(Some(Ok(lines))) => (StatusCode::OK, lines),
            Ok(Some(Err(error))) => failure(error),
            Ok(None) => {
                let expected = "write /v1/log/TOPIC, optionally with ?time_ms=T, or \
                                /v1/log/TOPIC/PARTITION?from=OFFSET&limit=RECORDS";
                return Problem::bad_request(expected).into_response();
            }
            // The runtime is shutting down. No response is sent, and the connection is closed: a client that follows
            // then waits for the next process.
            Err(_) => pending().await,
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let ndjson = HeaderValue::from_static("application/x-ndjson");
        response.headers_mut().insert(CONTENT_TYPE, ndjson);
        response
    }
}

/// Returns the lines that `uri` requests; `None` if `uri` is malformed.
pub(super) fn lines(log: &dyn Log, uri: &Uri) -> Option<Result<Vec<u8>, LogError>> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let pairs: Vec<(&str, &str)> = pairs.filter_map(|pair| pair.split_once('=')).collect();
    let value = |name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1);
    let path = uri.path().strip_prefix(PREFIX)?;
    Some(match path.split_once('/') {
        None => {
            let time_ms = value("time_ms").map(str::parse).transpose();
            topic(log, path, time_ms.ok()?)
        }
        Some((topic, partition)) => {
            let limit = value("limit").map_or(Ok(PAGE_RECORDS), str::parse);
            let start = (partition.parse().ok()?, value("from")?.parse().ok()?);
            records(log, topic, start, limit.ok()?)
        }
    })
}

fn topic(log: &dyn Log, topic: &str, time_ms: Option<u64>) -> Result<Vec<u8>, LogError> {
    let offsets_at = time_ms.map(|time_ms| log.offsets_at(topic, time_ms));
    Ok(encode(&Line::Topic(TopicState {
        description: log.describe(topic)?,
        offsets: log.offsets(topic)?,
        offsets_at: offsets_at.transpose()?.unwrap_or_default(),
    })))
}

fn records(
    log: &dyn Log,
    topic: &str,
    start: (u32, u64),
    limit: usize,
) -> Result<Vec<u8>, LogError> {
    let (partition, _) = start;
    let mut reader = log.reader(topic, &[start], Arc::new(|| {}))?;
    let mut lines = Vec::new();
    reader.poll_while(partition, limit.min(PAGE_RECORDS), &mut |record| {
        let fits = lines.len() < PAGE_BYTES;
        if fits {
            lines.extend(encode(&Line::Record(RecordLine::encode(record))));
        }
        fits
    })?;
    lines.extend(encode(&Line::Page {
        next: reader.position(partition),
        at_end: reader.at_end(partition),
    }));
    Ok(lines)
}

fn failure(error: LogError) -> (StatusCode, Vec<u8>) {
    let (status, line) = match error {
        LogError::UnknownTopic { .. } => (StatusCode::NOT_FOUND, Line::UnknownTopic),
        LogError::UnknownPartition { .. } => (StatusCode::NOT_FOUND, Line::UnknownPartition),
        LogError::Expired { start, .. } => (StatusCode::GONE, Line::Expired { start }),
        other => {
            let detail = other.to_string();
            (StatusCode::INTERNAL_SERVER_ERROR, Line::Failed { detail })
        }
    };
    (status, encode(&line))
}

fn encode(line: &Line) -> Vec<u8> {
    // Serialization cannot fail: all maps in a line have strings as keys, and no `Serialize` of its values returns an
    // error.
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
