//! A subscriber that does not read uses no memory, and loses no final that is in the ring.

use std::{io::Write, net::TcpStream};

use emostream_log::testing::until;
use tokio::net::TcpSocket;
use tungstenite::{
    Message,
    protocol::frame::coding::{Control, OpCode},
};

use crate::{
    clients::{Received, Sse, Subscriber, Ws, get, masked},
    fixture::{DEADLINE, Fixture, Node},
};

/// Number of bytes that is greater than the kernel's buffers of a connection.
const FAR_TOO_MUCH_BYTES: usize = 16 << 20;

/// Connects a subscriber with a small receive buffer, so that the server's send buffer is soon full if it does not
/// read.
fn narrow(node: &Node) -> Ws {
    Ws::over(narrow_stream(node), node.address, "r", "")
}

pub(crate) fn narrow_stream(node: &Node) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream: TcpStream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
            .connect(node.address)
            .await
            .unwrap()
            .into_std()
            .unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Returns counts of so many emojis that the frame is long.
fn many() -> Vec<(&'static str, u64)> {
    emostream_model::Emoji::all()
        .take(20)
        .map(|e| e.as_str())
        .zip(1_000_000..)
        .collect()
}

/// Receives messages up to the final or live tally (`kind`) of the `nth` window, and returns them.
fn until_kind(subscriber: &mut impl Subscriber, kind: &str, nth: u64) -> Vec<Received> {
    let mut got: Vec<Received> = Vec::new();
    let is_last = |r: &Received| r.kind() == kind && r.json["start"] == nth * 2000;
    while !got.last().is_some_and(is_last) {
        got.push(subscriber.next());
    }
    got
}

/// Returns the numbers of the windows of the finals in `got`.
fn finals(got: &[Received]) -> Vec<u64> {
    let finals = got.iter().filter(|r| r.kind() == "final");
    finals
        .map(|r| r.json["start"].as_u64().unwrap() / 2000)
        .collect()
}

#[test]
fn a_slow_subscriber_skips_live_tallies_and_gets_every_final() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let ws = narrow(&node);
    skips_live_tallies_and_gets_every_final(&mut fixture, &node, ws);
}

#[test]
fn a_slow_sse_subscriber_skips_live_tallies_and_gets_every_final() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let sse = Sse::over(narrow_stream(&node), node.address, "r", "", "");
    skips_live_tallies_and_gets_every_final(&mut fixture, &node, sse);
}

/// Checks a subscriber that does not read while the server sends more frames than the buffers hold.
pub(crate) fn skips_live_tallies_and_gets_every_final(
    fixture: &mut Fixture,
    node: &Node,
    mut subscriber: impl Subscriber,
) {
    let counts = many();
    let (mut pushed, mut bytes) = (0, 0);
    for nth in 1..=20 {
        while bytes < FAR_TOO_MUCH_BYTES / 20 * nth as usize {
            fixture.counting.live(nth, "r", &counts);
            pushed += 1;
            bytes += 1500;
        }
        fixture.counting.close(nth, &[("r", &counts)]);
    }
    until("stuck", || node.metric("stalled_subscribers") == 1.0);
    // However many results there are, only the rest of a partly written frame is queued.
    assert!(node.metric("write_queue_bytes") < 4096.0);
    // Skipped tallies are counted when the next tally is delivered, so another one is written.
    fixture.counting.live(21, "r", &counts);
    let got = until_kind(&mut subscriber, "live", 21);
    assert_eq!(finals(&got), (1..=20).collect::<Vec<_>>());
    let live = got.iter().filter(|r| r.kind() == "live").count();
    assert!(live < pushed / 2, "{live} of {pushed}");
    until("counted", || node.metric("skipped_live_total") > 0.0);
    assert_eq!(node.metric("gaps_total"), 0.0);
    until("nothing waits", || {
        node.metric("stalled_subscribers") + node.metric("write_queue_bytes") == 0.0
    });
}

#[test]
fn a_subscriber_slower_than_the_ring_is_sent_a_gap() {
    let mut fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = narrow(&node);
    let counts = many();
    fixture.counting.close(1, &[("r", &counts)]);
    let frame_bytes = ws.finals(1)[0].text.len() as u64;
    // The loop writes more finals than the buffers and the ring hold together.
    let last = FAR_TOO_MUCH_BYTES as u64 / frame_bytes + 5000;
    for first in (2..last).step_by(500) {
        fixture
            .counting
            .close_many("r", first..(first + 500).min(last), &counts);
    }
    until("all read", || {
        get(node.address, "/v1/rooms/r").json()["final"]["start"] == (last - 1) * 2000
    });
    let got = until_kind(&mut ws, "final", last - 1);
    let (mut expected, mut gaps) = (2, 0);
    for received in got {
        match received.kind() {
            "gap" => {
                assert_eq!(received.json["reason"], "slow");
                gaps += 1;
                expected = 0;
            }
            "final" => {
                let nth = received.json["start"].as_u64().unwrap() / 2000;
                assert!(nth == expected || expected == 0, "{nth}, not {expected}");
                expected = nth + 1;
            }
            _ => {}
        }
    }
    // The kernel may accept some bytes in between, so the subscriber can lag behind a second time, and there can be two
    // gaps.
    assert!(gaps >= 1);
    assert_eq!(node.metric("gaps_total"), f64::from(gaps));
}

/// A WebSocket client sends pings and does not read the pongs.
#[test]
fn unread_pongs_are_not_kept() {
    // Number of pings whose bytes are just below the maximum that a client may send in a second.
    const PINGS: u32 = (60 << 10) / 131;
    let fixture = Fixture::new();
    let node = fixture.publisher();
    let mut ws = narrow(&node);
    let mut bytes = Vec::new();
    for nth in 0..PINGS {
        let mut payload = [0; 125];
        payload[..4].copy_from_slice(&nth.to_be_bytes());
        bytes.extend(masked(OpCode::Control(Control::Ping), &payload));
    }
    ws.0.get_mut().write_all(&bytes).unwrap();
    let (mut answers, mut newest) = (0, 0);
    while newest < PINGS - 1 {
        if let Message::Pong(payload) = ws.message() {
            newest = u32::from_be_bytes(payload[..4].try_into().unwrap());
            answers += 1;
        }
    }
    assert!(answers < PINGS / 2, "{answers} of {PINGS}");
}
