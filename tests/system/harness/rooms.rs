//! A watcher of a room: a thread that collects every final, also across restarts of the server.

use std::{
    io,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;

use super::{finals::Final, sse, ws};

/// Timeout of a read, and pause before a reconnection.
const TICK: Duration = Duration::from_millis(50);

/// The current address of the server, which changes with every restart.
pub type Address = Arc<Mutex<String>>;

/// The protocol of a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    WebSocket,
    Events,
}

enum Connection {
    WebSocket(Box<ws::Subscriber>),
    Events(sse::Stream),
}

impl Connection {
    fn to(address: &str, room: &str, since: Option<&str>, by: By) -> io::Result<Connection> {
        Ok(match by {
            By::WebSocket => {
                Connection::WebSocket(Box::new(ws::Subscriber::connect(address, room, since)?))
            }
            By::Events => Connection::Events(sse::Stream::connect(address, room, since)?),
        })
    }

    fn next(&mut self, within: Duration) -> io::Result<Option<Value>> {
        match self {
            Connection::WebSocket(subscriber) => subscriber.next(within),
            Connection::Events(stream) => stream.next(within),
        }
    }
}

pub struct Watcher {
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    finals: Vec<Final>,
    hellos: usize,
    gaps: usize,
    stop: bool,
}

impl Watcher {
    /// Starts a watcher that follows `room` until it is dropped. After a reconnection it resumes after the last final
    /// that it received.
    pub fn follow(address: Address, room: &str) -> Watcher {
        Watcher::of(vec![address], room, By::WebSocket)
    }

    /// Starts a watcher that follows `room` at several servers. It connects to the next server whenever a connection
    /// ends.
    pub fn of(addresses: Vec<Address>, room: &str, by: By) -> Watcher {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, room) = (seen.clone(), room.to_owned());
        let thread = thread::spawn(move || {
            for address in addresses.iter().cycle() {
                if shared.lock().unwrap().stop {
                    return;
                }
                let server = address.lock().unwrap().clone();
                let last = shared.lock().unwrap().finals.last().map(|f| f.id.clone());
                if let Ok(mut connection) = Connection::to(&server, &room, last.as_deref(), by) {
                    while read(&mut connection, &shared) {}
                }
                thread::sleep(TICK);
            }
        });
        Watcher {
            seen,
            thread: Some(thread),
        }
    }

    /// Returns the finals so far, in the order in which they were received.
    pub fn finals(&self) -> Vec<Final> {
        self.seen.lock().unwrap().finals.clone()
    }

    /// Returns how many hello frames were received, one for each connection.
    pub fn hellos(&self) -> usize {
        self.seen.lock().unwrap().hellos
    }

    /// Returns how many gap frames were received.
    pub fn gaps(&self) -> usize {
        self.seen.lock().unwrap().gaps
    }
}

/// Reads a message. Returns false if the connection has ended.
fn read(connection: &mut Connection, shared: &Mutex<Seen>) -> bool {
    let news = connection.next(TICK);
    let mut seen = shared.lock().unwrap();
    match news {
        Ok(None) => {}
        Ok(Some(frame)) => match frame["type"].as_str().unwrap() {
            "hello" => seen.hellos += 1,
            "gap" => seen.gaps += 1,
            _ => seen.finals.extend(Final::of(&frame)),
        },
        Err(_) => return false,
    }
    !seen.stop
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Ok(mut seen) = self.seen.lock() {
            seen.stop = true;
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
