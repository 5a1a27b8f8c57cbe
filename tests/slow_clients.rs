//! Many slow clients of `up`: its memory stays bounded, and other clients are served.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod harness;

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use harness::{http, node::Node, until};

const IDLE: usize = 1000;
const SLOW_HEADS: usize = 200;
const SLOW_BODIES: usize = 200;

/// Together eight times the limit of unfinished bodies.
const LARGE_BODIES: usize = 1024;
const LARGE_BODY_BYTES: usize = 250_000;

/// Maximum growth of the memory: twice the 32 MiB that unfinished bodies share (a buffer grows by doubling), and 40 KB for
/// each of 2424 connections.
const MOST_GROWTH_KIB: u64 = 2 * 32 * 1024 + 2424 * 40;

const HEAD: &str = "POST /v1/reactions HTTP/1.1\r\nhost: h\r\n";
const ONE: &str = r#"{"user_id":1,"emoji_type":"fire"}"#;

fn connect(node: &Node, begin: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.address).unwrap();
    stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
    stream.write_all(begin.as_bytes()).unwrap();
    stream
}

/// Sends a body except for its last byte, or as much as the server reads before it refuses.
fn large_body(node: &Node) -> TcpStream {
    let head = format!("{HEAD}content-length: {LARGE_BODY_BYTES}\r\n\r\n");
    let mut stream = connect(node, &head);
    // The server may refuse and close the connection before everything is sent.
    let _ = stream.write_all(" ".repeat(LARGE_BODY_BYTES - 1).as_bytes());
    stream
}

fn large_bodies(node: &Node, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| large_body(node)).collect()
}

/// Returns the peak memory of the process (VmHWM).
fn peak_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn post(node: &Node) -> u16 {
    http::post(&node.address, "/v1/reactions", ONE)
        .unwrap()
        .status
}

#[test]
fn slow_clients_cost_bounded_memory_and_other_clients_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    until("served", || (post(&node) == 202).then_some(()));
    let before = peak_kib(&node);
    let slow_body = format!("{HEAD}transfer-encoding: chunked\r\n\r\n1\r\n[\r\n");
    let kinds = [("", IDLE), (HEAD, SLOW_HEADS), (&slow_body, SLOW_BODIES)];
    let mut slow_clients = Vec::new();
    for (begin, count) in kinds {
        slow_clients.extend((0..count).map(|_| connect(&node, begin)));
        assert_eq!(post(&node), 202);
    }
    let mut large_bodies: Vec<TcpStream> = thread::scope(|scope| {
        let some = |_| scope.spawn(|| large_bodies(&node, LARGE_BODIES / 8));
        let senders: Vec<_> = (0..8).map(some).collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            assert_eq!(post(&node), 202);
        }
        let sent = senders.into_iter().map(|sender| sender.join().unwrap());
        sent.flatten().collect()
    });
    assert_eq!(post(&node), 202);
    // Most bodies were refused, and the others are too slow: each gets a response.
    for client in &mut large_bodies {
        let mut status = [0; 12];
        if client.read_exact(&mut status).is_ok() {
            assert!(matches!(&status, b"HTTP/1.1 503" | b"HTTP/1.1 408"));
        }
    }
    let growth = peak_kib(&node) - before;
    println!(
        "{} connections cost {growth} KiB",
        slow_clients.len() + large_bodies.len()
    );
    assert!(growth <= MOST_GROWTH_KIB, "{growth} KiB");
    assert_eq!(post(&node), 202);
}
