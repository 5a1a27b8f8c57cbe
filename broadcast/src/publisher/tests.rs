#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use emostream_http::{Admin, AllowOrigin, Authenticator, Limits, Listener, serve};
use emostream_log::{Cleanup, EventClock, embedded::EmbeddedLog, testing::create_topics};
use emostream_model::{Room, Topics};
use tokio::{net::TcpListener, runtime::Runtime};

use super::*;
use crate::config::SUBSCRIBER_HEARTBEAT;

/// Timeout of the tests, far above their usual duration.
const DEADLINE: Duration = Duration::from_secs(20);

fn log() -> Arc<dyn Log> {
    let (log, topics) = (EmbeddedLog::in_memory().unwrap(), Topics::default());
    let names = [
        topics.windows(),
        topics.totals(),
        topics.trending(),
        topics.live(),
        topics.progress(),
    ];
    create_topics(&log, names.map(|name| (name, 1, Cleanup::Compact)));
    Arc::new(log)
}

fn config() -> Config {
    Config {
        topics: Topics::default(),
        window_ms: 10,
        live_ms: 10,
        swarm_size: 1000,
        subscribers: SubscriberConfig {
            ring: Duration::from_secs(600),
            ingest_url: None,
            demo_crowd: false,
            allow_origin: AllowOrigin::Any,
            authenticator: Authenticator::default(),
            shards: NonZeroUsize::new(1),
            drain: Duration::from_secs(1),
            clock: EventClock::host(),
            heartbeat: SUBSCRIBER_HEARTBEAT,
        },
    }
}

fn served(runtime: &Runtime, router: Router) -> SocketAddr {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = Listener::new(listener, None);
    runtime.spawn(serve(
        listener,
        router,
        Limits::default(),
        CancellationToken::new(),
    ));
    address
}

fn connect_and_send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Reads until the received bytes end with `last`.
fn read_until(stream: &mut TcpStream, last: &[u8]) {
    let (mut received, mut piece) = (Vec::new(), [0; 1024]);
    while !received.windows(last.len()).any(|part| part == last) {
        let read = stream.read(&mut piece).unwrap();
        assert_ne!(read, 0, "closed before {last:?}");
        received.extend_from_slice(&piece[..read]);
    }
}

#[test]
fn health_and_metrics_respond_while_the_only_shard_is_blocked() {
    let runtime = Runtime::new().unwrap();
    let (registry, readiness) = (Registry::new(), Readiness::new());
    let publisher = Publisher::start(config(), log(), &registry, &readiness).unwrap();
    let at = served(&runtime, publisher.router());
    let admin = served(&runtime, Admin::new(registry, readiness).router());
    let handshake = "GET /v1/rooms/r/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut subscriber = connect_and_send(at, handshake);
    read_until(&mut subscriber, b"\"resumed\":false}");

    let room = publisher.updates.hub.find(&Room::new("r").unwrap());
    let room = room.unwrap();
    let held = room.state();
    // The client sends an empty masked ping. Before the shard sends the pong, the shard reads the room, which this test
    // has locked. So the shard blocks.
    subscriber.write_all(&[0x89, 0x80, 0, 0, 0, 0]).unwrap();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let mut response = String::new();
        connect_and_send(admin, &request)
            .read_to_string(&mut response)
            .unwrap();
        assert!(response.starts_with("HTTP/1.1 200 "), "{path}: {response}");
    }
    drop(held);
    read_until(&mut subscriber, &[0x8a, 0]);
}
