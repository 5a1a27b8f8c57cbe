//! A watcher of a room: a thread that keeps every final, across restarts of the server.

use std::{
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{finals::Final, ws};

/// How long a read or a pause between two tries takes.
const TICK: Duration = Duration::from_millis(50);

/// Where the server listens now; it changes with every restart.
pub type Address = Arc<Mutex<String>>;

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
    /// Follows `room` until it is dropped; it resumes behind the last final that it has seen.
    pub fn follow(address: Address, room: &str) -> Watcher {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (shared, room) = (seen.clone(), room.to_owned());
        let thread = thread::spawn(move || {
            while !shared.lock().unwrap().stop {
                let server = address.lock().unwrap().clone();
                let last = shared.lock().unwrap().finals.last().map(|f| f.id.clone());
                if let Ok(mut subscriber) = ws::Subscriber::connect(&server, &room, last.as_deref())
                {
                    while read(&mut subscriber, &shared) {}
                }
                thread::sleep(TICK);
            }
        });
        Watcher {
            seen,
            thread: Some(thread),
        }
    }

    /// The finals so far, in the order they came.
    pub fn finals(&self) -> Vec<Final> {
        self.seen.lock().unwrap().finals.clone()
    }

    /// How many connections have stood.
    pub fn hellos(&self) -> usize {
        self.seen.lock().unwrap().hellos
    }

    /// How many times finals were missed.
    pub fn gaps(&self) -> usize {
        self.seen.lock().unwrap().gaps
    }
}

/// Reads a message; false once the connection is over.
fn read(subscriber: &mut ws::Subscriber, shared: &Mutex<Seen>) -> bool {
    let news = subscriber.next(TICK);
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
