//! A subscriber that does not read costs no memory, and loses no final that is kept.

use std::net::TcpStream;

use tokio::net::TcpSocket;

use crate::{
    clients::{Received, Subscriber, Ws, get},
    stage::{DEADLINE, Node, Stage, until},
};

/// Far more than the kernel's buffers of a connection hold, some 4 MB.
const FAR_TOO_MUCH_BYTES: usize = 16 << 20;

/// A subscriber with a small receive buffer, so that what it does not read is noticed.
fn narrow(node: &Node) -> Ws {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
            .connect(node.address)
            .await
            .unwrap()
            .into_std()
            .unwrap()
    });
    let stream: TcpStream = stream;
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    Ws::over(stream, node.address, "r", "")
}

/// Counts that make a long frame.
fn many() -> Vec<(&'static str, u64)> {
    emostream_model::Emoji::all()
        .take(20)
        .map(|e| e.as_str())
        .zip(1_000_000..)
        .collect()
}

fn until_closed(ws: &mut Ws, last: u64) -> Vec<Received> {
    let mut got: Vec<Received> = Vec::new();
    let is_last = |r: &Received| r.kind() == "final" && r.json["start"] == last * 2000;
    while !got.last().is_some_and(is_last) {
        got.push(ws.next());
    }
    got
}

#[test]
fn a_slow_subscriber_skips_live_tallies_and_gets_every_final() {
    let mut stage = Stage::new();
    let node = stage.publisher();
    let mut ws = narrow(&node);
    let counts = many();
    let (mut pushed, mut bytes) = (0, 0);
    for nth in 1..=20 {
        while bytes < FAR_TOO_MUCH_BYTES / 20 * nth as usize {
            stage.counting.live(nth, "r", &counts);
            pushed += 1;
            bytes += 1500;
        }
        stage.counting.close(nth, &[("r", &counts)]);
    }
    let got = until_closed(&mut ws, 20);
    let starts: Vec<u64> = got
        .iter()
        .filter(|r| r.kind() == "final")
        .map(|r| r.json["start"].as_u64().unwrap() / 2000)
        .collect();
    assert_eq!(starts, (1..=20).collect::<Vec<_>>());
    let live = got.iter().filter(|r| r.kind() == "live").count();
    assert!(live < pushed, "{live} of {pushed}");
    until("counted", || node.metric("skipped_live_total") > 0.0);
    assert_eq!(node.metric("gaps_total"), 0.0);
}

#[test]
fn who_is_slower_than_the_ring_is_told_by_a_gap() {
    let mut stage = Stage::new();
    let node = stage.publisher();
    let mut ws = narrow(&node);
    let counts = many();
    stage.counting.close(1, &[("r", &counts)]);
    let frame_bytes = ws.finals(1)[0].text.len() as u64;
    // More than the buffers hold, and then more than the ring's 4096 finals.
    let last = FAR_TOO_MUCH_BYTES as u64 / frame_bytes + 5000;
    for first in (2..last).step_by(500) {
        stage
            .counting
            .close_many("r", first..(first + 500).min(last), &counts);
    }
    until("all read", || {
        get(node.address, "/v1/rooms/r").json()["final"]["start"] == (last - 1) * 2000
    });
    let got = until_closed(&mut ws, last - 1);
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
    assert_eq!(gaps, 1);
    assert_eq!(node.metric("gaps_total"), 1.0);
}
