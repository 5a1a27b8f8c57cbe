#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use emostream_log::{
    Header, Log, LogError, NewRecord, Reader, Record, TopicDescription, TopicSpec,
    embedded::EmbeddedLog,
    read_from,
    testing::{KEEP, append, now_ms, record, topic},
};
use hyper::Uri;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::{
    LogEndpoint, LogSocket, RecordLine, SOCKET, client::parse, open_for_reading, server::lines,
};

const DEADLINE: Duration = Duration::from_secs(20);
const TOPIC: &str = "t";

/// A log in a directory that is served on a socket.
struct Served {
    _socket: LogSocket,
    log: Arc<EmbeddedLog>,
    _runtime: Runtime,
}

fn spec() -> TopicSpec {
    TopicSpec {
        max_ahead: Some(Duration::from_millis(2500)),
        ..topic(TOPIC, 1, KEEP)
    }
}

fn serve(dir: &Path) -> Served {
    let log = Arc::new(EmbeddedLog::open(dir).unwrap());
    log.create_topic(&spec()).unwrap();
    let runtime = Runtime::new().unwrap();
    let entered = runtime.enter();
    let socket = LogSocket::start(dir, LogEndpoint::new(log.clone()).router()).unwrap();
    drop(entered);
    Served {
        _socket: socket,
        log,
        _runtime: runtime,
    }
}

fn put(log: &dyn Log, value: impl Into<bytes::Bytes>) {
    put_record(log, None, None, value.into(), Vec::new());
}

fn put_record(
    log: &dyn Log,
    time_ms: Option<u64>,
    key: Option<&'static [u8]>,
    value: bytes::Bytes,
    headers: Vec<Header>,
) {
    let record = NewRecord {
        time_ms,
        key: key.map(Into::into),
        headers,
        ..record(TOPIC, value)
    };
    append(log, [record]);
}

/// The fields of a record that was read: offset, time, key, value and headers.
type Owned = (u64, u64, Option<Vec<u8>>, Vec<u8>, Vec<Header>);

fn owned(record: Record<'_>) -> Owned {
    let key = record.key.map(<[u8]>::to_vec);
    let headers = record.headers.read();
    let value = record.value.to_vec();
    (record.offset, record.time_ms, key, value, headers)
}

fn all(log: &dyn Log) -> Vec<Owned> {
    let mut records = Vec::new();
    let mut keep = |record: Record<'_>| records.push(owned(record));
    read_from(log, TOPIC, &[(0, 0)], &mut keep).unwrap();
    records
}

fn values(log: &dyn Log) -> Vec<Vec<u8>> {
    all(log).into_iter().map(|record| record.3).collect()
}

fn reader(log: &dyn Log, from: (u32, u64)) -> Result<Box<dyn Reader>, LogError> {
    log.reader(TOPIC, &[from], Arc::new(|| {}))
}

/// Polls until the reader returns a record or an error.
fn next(reader: &mut dyn Reader) -> Result<Vec<u8>, LogError> {
    let until = std::time::Instant::now() + DEADLINE;
    let mut value = None;
    while value.is_none() {
        reader.poll(0, 1, &mut |record| value = Some(record.value.to_vec()))?;
        assert!(std::time::Instant::now() < until, "no record came");
    }
    Ok(value.unwrap())
}

#[test]
fn a_client_reads_what_the_holder_reads() {
    let dir = tempfile::tempdir().unwrap();
    let served = serve(dir.path());
    let reading = open_for_reading(dir.path()).unwrap();
    assert_eq!(
        reading.describe(TOPIC).unwrap(),
        TopicDescription::of(&spec())
    );
    assert_eq!(reading.partitions(TOPIC).unwrap(), 1);
    assert!(all(&*reading).is_empty());
    let header = Header {
        name: "h".to_owned(),
        value: vec![0, 255].into(),
    };
    let before = Some(now_ms() - 5000);
    let key: &[u8] = &[0xff, 0];
    put_record(
        &*served.log,
        before,
        Some(key),
        "first".into(),
        vec![header],
    );
    // These records together are larger than a page, so that the server has to split them into several pages.
    for _ in 0..5 {
        put(&*served.log, vec![0xfe; 700 * 1024]);
    }
    put(&*served.log, "");
    let read = all(&*reading);
    assert_eq!(read.len(), 7);
    assert_eq!(read, all(&*served.log));
    assert_eq!(reading.offsets(TOPIC).unwrap()[0], 0..7);
    assert_eq!(reading.offsets_at(TOPIC, now_ms() - 4000).unwrap(), [1]);
    // If the callback does not consume a record, the next poll begins with the same record.
    let mut reader = reader(&*reading, (0, 5)).unwrap();
    assert_eq!(reader.poll_while(0, 10, &mut |_| false).unwrap(), 0);
    assert_eq!((reader.position(0), reader.at_end(0)), (5, false));
    let mut offsets = Vec::new();
    let mut keep = |record: Record<'_>| offsets.push(record.offset);
    reader.poll(0, 10, &mut keep).unwrap();
    assert_eq!((offsets, reader.at_end(0)), (vec![5, 6], true));
}

#[test]
fn a_client_gets_the_errors_of_the_log_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let _served = serve(dir.path());
    let reading = open_for_reading(dir.path()).unwrap();
    for error in [
        reading.partitions("none").unwrap_err(),
        reading.offsets("none").unwrap_err(),
    ] {
        assert!(matches!(error, LogError::UnknownTopic { topic } if topic == "none"));
    }
    let unknown = reader(&*reading, (9, 0)).err().unwrap();
    assert!(matches!(
        unknown,
        LogError::UnknownPartition { partition: 9, .. }
    ));
    let mut beyond = reader(&*reading, (0, 99)).unwrap();
    let expired = next(&mut *beyond).unwrap_err();
    assert!(matches!(
        expired,
        LogError::Expired {
            offset: 99,
            start: 0,
            ..
        }
    ));
    for error in [
        reading.create_topic(&spec()).err(),
        reading.appender(DEADLINE).err(),
        reading.transactor("id", DEADLINE).err(),
    ] {
        assert!(matches!(error, Some(LogError::Refused(_))));
    }
}

#[test]
fn a_reader_waits_while_no_process_serves_and_continues_with_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let served = serve(dir.path());
    put(&*served.log, "a");
    let reading = open_for_reading(dir.path()).unwrap();
    let mut reader = reader(&*reading, (0, 0)).unwrap();
    assert_eq!(next(&mut *reader).unwrap(), b"a");
    drop(served);
    assert_eq!(reader.poll(0, 1, &mut |_| ()).unwrap(), 0);
    assert!(!reader.at_end(0), "nothing is known of the end");
    let error = reading.offsets(TOPIC).unwrap_err().to_string();
    assert!(error.contains("no response from"), "{error}");
    let served = serve(dir.path());
    put(&*served.log, "b");
    assert_eq!(next(&mut *reader).unwrap(), b"b");
}

#[test]
fn bytes_that_are_not_a_request_end_their_connection_only() {
    let dir = tempfile::tempdir().unwrap();
    let served = serve(dir.path());
    put(&*served.log, "x");
    let connect = || UnixStream::connect(dir.path().join(SOCKET)).unwrap();
    let requests: [&[u8]; 5] = [
        &[255; 64],
        // A request of the format that was used before HTTP: a length, and the name of a topic that claims to have 2^60
        // bytes.
        &[10, 0, 0, 0, 0, 253, 0, 0, 0, 0, 0, 0, 0, 16],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /v1/log/t/0?from=-1 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/log/t HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    ];
    for request in requests {
        let mut client = connect();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(request).unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 4"), "{response}");
    }
    // Many clients connect and send nothing.
    let silent: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    let reading = open_for_reading(dir.path()).unwrap();
    assert_eq!(values(&*reading), [b"x"]);
    put(&*served.log, "y");
    assert_eq!(values(&*reading), [b"x", b"y"]);
    // The end of the server does not wait for the silent clients.
    drop(served);
    drop(silent);
}

#[test]
fn the_socket_is_private_replaces_a_stale_one_and_ends_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SOCKET);
    // A process that was killed leaves its socket file behind.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let served = serve(dir.path());
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    put(&*served.log, "x");
    assert_eq!(values(&*open_for_reading(dir.path()).unwrap()), [b"x"]);
    drop(served);
    assert!(!path.exists());
    // If the socket is stale, the client reads the database directly.
    drop(UnixListener::bind(&path).unwrap());
    assert_eq!(values(&*open_for_reading(dir.path()).unwrap()), [b"x"]);
}

#[test]
fn a_path_too_long_for_a_socket_costs_the_socket_only() {
    let dir = tempfile::tempdir().unwrap();
    let long = dir.path().join("d".repeat(120));
    let log = Arc::new(EmbeddedLog::open(&long).unwrap());
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    assert!(LogSocket::start(&long, LogEndpoint::new(log.clone()).router()).is_none());
    log.create_topic(&spec()).unwrap();
    let error = open_for_reading(&long).err().unwrap();
    assert!(matches!(error, LogError::InUse { .. }), "{error}");
}

/// Returns the error of a client whose server writes `response` and then closes the connection.
fn error_at(response: &'static [u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let _holder = EmbeddedLog::open(dir.path()).unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET)).unwrap();
    let reading = open_for_reading(dir.path()).unwrap();
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.read(&mut [0; 4096]).unwrap();
        // The client may close the connection before it has read everything, so an error is ignored.
        let _ = client.write_all(response);
    });
    let error = reading.describe(TOPIC).unwrap_err().to_string();
    server.join().unwrap();
    error
}

#[test]
fn a_holder_of_another_version_is_named() {
    let not_found: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 15\r\n\r\n{\"status\": 404}";
    let unknown_line: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"type\":\"new\"}\n";
    // The third response is empty: a server of an older version, which does not use HTTP, closes the connection without
    // a response.
    for response in [not_found, unknown_line, b""] {
        let error = error_at(response);
        assert!(error.contains("another version"), "{error}");
    }
}

#[test]
fn a_response_without_an_end_is_refused() {
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(16 << 20, b'\n');
    let error = error_at(endless.leak());
    assert!(error.contains("that uses it: length limit"), "{error}");
}

proptest! {
    #[test]
    fn any_body_is_lines_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&body);
    }

    #[test]
    fn any_request_is_answered_or_malformed(path in "[ -~]{0,40}") {
        let log = EmbeddedLog::in_memory().unwrap();
        if let Ok(uri) = format!("/v1/log/{path}").parse::<Uri>() {
            let _ = lines(&log, &uri);
        }
    }

    #[test]
    fn a_record_arrives_as_it_was_sent(
        key: Option<Vec<u8>>, value: Vec<u8>, name: String, header: Vec<u8>, time_ms: u64,
    ) {
        let headers = vec![Header { name, value: header.into() }];
        let record = Record {
            partition: 3,
            offset: 7,
            time_ms,
            key: key.as_deref(),
            value: &value,
            headers: &headers,
        };
        let text = serde_json::to_vec(&RecordLine::encode(record)).unwrap();
        let line: RecordLine = serde_json::from_slice(&text).unwrap();
        let mut arrived = None;
        let consumed = line.decode(3, &mut |record| {
            arrived = Some(owned(record));
            true
        });
        prop_assert_eq!((consumed, arrived), (Ok(true), Some(owned(record))));
    }
}
