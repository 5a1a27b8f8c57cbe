//! Connections that only cost: slow heads, slow bodies, silence. A decent client beside them is served,
//! and each of them is ended.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use emostream_http::Limits;
use emostream_ingest::Config;

use crate::stage::{DEADLINE, Stage, array};

const SLOW_HEADS: usize = 200;
const SLOW_BODIES: usize = 200;
const IDLE: usize = 1000;

/// For decent clients.
const SPARE: usize = 16;

/// How long a besieger is borne.
const PATIENCE: Duration = Duration::from_secs(5);

const HEAD: &[u8] = b"POST /v1/reactions HTTP/1.1\r\nhost: h\r\n";
const CHUNKED: &[u8] = b"expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
const READING: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

struct Besieger {
    stream: TcpStream,
    /// What it sends again and again.
    drop: &'static [u8],
    said: Vec<u8>,
    ended: bool,
}

impl Besieger {
    fn new(stage: &Stage, begin: &[&[u8]], drop: &'static [u8]) -> Self {
        let mut stream = stage.connect();
        stream.write_all(&begin.concat()).unwrap();
        if begin.contains(&CHUNKED) {
            let mut said = [0; READING.len()];
            stream.read_exact(&mut said).unwrap();
            assert_eq!(said, READING, "the server reads the body");
        }
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            drop,
            said: Vec::new(),
            ended: false,
        }
    }

    /// Sends a little more, and looks whether the server has ended it.
    fn go_on(&mut self) {
        // Once the server has ended it this fails, and reading tells.
        let _ = self.stream.write_all(self.drop);
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => self.ended = true,
            Ok(read) => self.said.extend(&bytes[..read]),
            Err(error) => self.ended |= error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Goes on until each has been ended.
fn besiege(besiegers: &mut [Besieger]) {
    let start = Instant::now();
    while besiegers.iter().any(|besieger| !besieger.ended) {
        assert!(start.elapsed() < DEADLINE, "some are never ended");
        let on = besiegers.iter_mut().filter(|besieger| !besieger.ended);
        on.for_each(Besieger::go_on);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_decent_client_is_served_through_a_siege_and_every_besieger_is_ended() {
    let all = SLOW_HEADS + SLOW_BODIES + IDLE;
    let config = Config {
        flush: Duration::from_millis(20),
        body_time: PATIENCE,
        // What each slow body might hold, and one reaction: were it all set aside for them, none is left.
        buffer_reactions: 1000 * SLOW_BODIES as u32,
        ..Config::default()
    };
    let limits = Limits {
        connections: (all + SPARE) as u32,
        head: PATIENCE,
        ..Limits::default()
    };
    let mut stage = Stage::limited(config, limits);
    let besieger = |kind| match kind {
        0 => Besieger::new(&stage, &[], b""),
        1 => Besieger::new(&stage, &[HEAD], b"x: y\r\n"),
        _ => Besieger::new(&stage, &[HEAD, CHUNKED], b"1\r\n \r\n"),
    };
    let kinds = [(0, IDLE), (1, SLOW_HEADS), (2, SLOW_BODIES)];
    let mut besiegers: Vec<Besieger> = kinds
        .into_iter()
        .flat_map(|(kind, count)| (0..count).map(move |_| kind))
        .map(besieger)
        .collect();

    let over = AtomicBool::new(false);
    let mut served = 0;
    thread::scope(|scope| {
        let siege = scope.spawn(|| {
            besiege(&mut besiegers);
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) && !siege.is_finished() {
            let said = stage.post("/v1/reactions?wait=stored", array(2));
            assert_eq!(said.status, 200, "{said:?}");
            served += 2;
        }
    });
    assert!(served > 0);
    let late = |besieger: &&Besieger| besieger.said.starts_with(b"HTTP/1.1 408 ");
    assert_eq!(besiegers.iter().filter(late).count(), SLOW_BODIES);
    // The server holds no connection of theirs any more, though they still do.
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), served);
}

#[test]
fn large_bodies_that_are_not_finished_keep_out_large_ones_only() {
    let stage = Stage::start(Config {
        flush: Duration::from_millis(20),
        bodies_bytes: 100_000,
        ..Config::default()
    });
    let unfinished = |sent: usize| {
        let mut stream = stage.connect();
        let head = [HEAD, b"content-length: 200000\r\n\r\n"].concat();
        stream.write_all(&head).unwrap();
        stream.write_all(&b" ".repeat(sent)).unwrap();
        stream
    };
    let mut hogs: Vec<TcpStream> = (0..3).map(|_| unfinished(90_000)).collect();
    // One at least has no room, and is told so; what it had is free again, for another.
    let mut told = 0;
    let start = Instant::now();
    while told < 2 {
        assert!(start.elapsed() < DEADLINE, "{told} were refused");
        told = 0;
        for hog in &mut hogs {
            hog.set_nonblocking(true).unwrap();
            let mut bytes = [0; 12];
            if hog.peek(&mut bytes).is_ok() {
                assert_eq!(&bytes, b"HTTP/1.1 503");
                told += 1;
            }
        }
        assert_eq!(stage.post("/v1/reactions", array(50)).status, 202);
    }
    let large = format!("[{}]", " ".repeat(50_000));
    assert_eq!(stage.post("/v1/reactions", &large).status, 503);
    drop(hogs);
    let start = Instant::now();
    while stage.post("/v1/reactions", &large).status != 202 {
        assert!(start.elapsed() < DEADLINE, "the room is not given back");
    }
}
