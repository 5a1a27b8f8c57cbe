//! A siege of the real program: its memory stays bounded, and decent clients are served through it.
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

/// Eight times what the program keeps of unfinished bodies.
const LARGE_BODIES: usize = 1024;
const LARGE_BODY_BYTES: usize = 250_000;

/// What all this may cost: twice the 32 MiB that unfinished bodies have in common (a buffer grows by
/// doubling), and 40 KB for each of 2424 connections.
const MOST_GROWTH_KIB: u64 = 2 * 32 * 1024 + 2424 * 40;

const HEAD: &str = "POST /v1/reactions HTTP/1.1\r\nhost: h\r\n";
const ONE: &str = r#"{"user_id":1,"emoji_type":"fire"}"#;

fn connect(node: &Node, begin: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.address).unwrap();
    stream.set_read_timeout(Some(harness::DEADLINE)).unwrap();
    stream.write_all(begin.as_bytes()).unwrap();
    stream
}

/// A body of which all but the last byte is sent, or what was refused of it.
fn large_body(node: &Node) -> TcpStream {
    let head = format!("{HEAD}content-length: {LARGE_BODY_BYTES}\r\n\r\n");
    let mut stream = connect(node, &head);
    // A refusal may end the connection while this is still being sent.
    let _ = stream.write_all(" ".repeat(LARGE_BODY_BYTES - 1).as_bytes());
    stream
}

fn large_bodies(node: &Node, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| large_body(node)).collect()
}

/// The most memory that the process has held.
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
fn a_siege_costs_bounded_memory_and_decent_clients_are_served_through_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::up(dir.path(), &[]);
    until("served", || (post(&node) == 202).then_some(()));
    let before = peak_kib(&node);
    let slow_body = format!("{HEAD}transfer-encoding: chunked\r\n\r\n1\r\n[\r\n");
    let kinds = [("", IDLE), (HEAD, SLOW_HEADS), (&slow_body, SLOW_BODIES)];
    let mut besiegers = Vec::new();
    for (begin, count) in kinds {
        besiegers.extend((0..count).map(|_| connect(&node, begin)));
        assert_eq!(post(&node), 202);
    }
    let mut hogs: Vec<TcpStream> = thread::scope(|scope| {
        let some = |_| scope.spawn(|| large_bodies(&node, LARGE_BODIES / 8));
        let senders: Vec<_> = (0..8).map(some).collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            assert_eq!(post(&node), 202);
        }
        let sent = senders.into_iter().map(|sender| sender.join().unwrap());
        sent.flatten().collect()
    });
    assert_eq!(post(&node), 202);
    // Most were refused, the others are slow: each is told.
    for hog in &mut hogs {
        let mut status = [0; 12];
        if hog.read_exact(&mut status).is_ok() {
            assert!(matches!(&status, b"HTTP/1.1 503" | b"HTTP/1.1 408"));
        }
    }
    let growth = peak_kib(&node) - before;
    println!(
        "{} connections cost {growth} KiB",
        besiegers.len() + hogs.len()
    );
    assert!(growth <= MOST_GROWTH_KIB, "{growth} KiB");
    assert_eq!(post(&node), 202);
}
