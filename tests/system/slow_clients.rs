//! Tests of many slow clients of `up`: its memory stays bounded, and other clients are served.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use crate::harness::{self, http, node::Node, until};

const IDLE: usize = 1000;
const SLOW_HEADS: usize = 200;
const SLOW_BODIES: usize = 200;

/// Number of clients with large bodies. Together their bodies have eight times the size that the server allows for
/// unfinished bodies.
const LARGE_BODIES: usize = 1024;
const LARGE_BODY_BYTES: usize = 250_000;

/// Maximum growth of the memory in KiB. Unfinished bodies share 32 MiB, and their buffers may take twice as much, since
/// a buffer grows by doubling. Each of the 2424 connections may take 40 KiB more.
const MOST_GROWTH_KIB: u64 = 2 * 32 * 1024 + 2424 * 40;

const HEAD: &str = "POST /v1/reactions HTTP/1.1\r\nhost: h\r\n";
const ONE: &str = r#"{"user_id":1,"emoji_type":"fire"}"#;

fn connect(node: &Node, begin: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.address).unwrap();
    stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
    stream.write_all(begin.as_bytes()).unwrap();
    stream
}

/// Sends a body without its last byte, or as much of it as the server reads before it refuses the request.
fn large_body(node: &Node) -> TcpStream {
    let head = format!("{HEAD}content-length: {LARGE_BODY_BYTES}\r\n\r\n");
    let mut stream = connect(node, &head);
    // An error is ignored: the server may refuse the request and close the connection before everything is sent.
    let _ = stream.write_all(" ".repeat(LARGE_BODY_BYTES - 1).as_bytes());
    stream
}

fn large_bodies(node: &Node, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| large_body(node)).collect()
}

/// Returns the peak resident memory of the process (VmHWM), in KiB.
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
    // Each client gets a response or a closed connection: 503 since there are too many bodies, or 408 since a body is
    // too slow.
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
