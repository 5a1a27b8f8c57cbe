//! Shards: threads that hold subscribers' sockets and write to them.
//!
//! ```text
//!  HTTP ── Arrival ──▶ bell ─┐
//!  hub ─── room changed ─▶ bell ─┴▶ thread: epoll ─┬▶ room's seats ─▶ connection ─▶ cursor: what is next
//!                                                  │                      └─ shared bytes ─▶ socket
//!                                                  └▶ what clients say ─▶ inbound ─▶ pong, close
//! ```
//!
//! A delivery is a look at a cursor and one call to the kernel, with bytes that all subscribers share. A
//! connection has no queue: what its socket does not take stays where it is, in the room, and of a frame
//! that was begun the rest is kept.
//!
//! Invariants:
//! - A connection belongs to one shard from its first byte to its last.
//! - A shard never waits for a client, the log or another shard.
//! - No connection has a timer: a tenth of them is looked at every 100 ms.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{
    fanout::{mailbox::Bell, new_connection::Arrival, shard::Thread},
    frame::heartbeat::Heartbeat,
    hub::entry::{RoomListener, RoomListeners},
    metrics::Metrics,
};

/// The shards of a publisher. Dropped, they let all connections go.
#[derive(Debug)]
pub(crate) struct Shards {
    bells: Vec<Arc<Bell>>,
    next: AtomicUsize,
    threads: Vec<JoinHandle<()>>,
}

impl Shards {
    /// Starts as many threads.
    pub(crate) fn start(
        count: NonZeroUsize,
        heartbeat: &Heartbeat,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let threads: Vec<Thread> = (0..count.get())
            .map(|shard| Thread::new(shard, heartbeat.clone(), metrics))
            .collect::<io::Result<_>>()?;
        let mut shards = Self {
            bells: threads.iter().map(Thread::bell).collect(),
            next: AtomicUsize::new(0),
            threads: Vec::new(),
        };
        for thread in threads {
            let named = std::thread::Builder::new().name("shard".to_owned());
            shards.threads.push(named.spawn(move || thread.run())?);
        }
        Ok(shards)
    }

    /// What the hub notifies of changes.
    pub(crate) fn listeners(&self) -> RoomListeners {
        let bells = self.bells.iter();
        bells
            .map(|bell| bell.clone() as Arc<dyn RoomListener>)
            .collect()
    }

    /// Takes a connection in. The shards take turns, so that each has its share of every room.
    pub(crate) fn take(&self, arrival: Arrival) {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % self.bells.len();
        self.bells[shard].put(|desk| desk.arrivals.push(arrival));
    }

    /// Says goodbye to everybody, those included who are still to come.
    pub(crate) fn bye(&self, spread: Duration) {
        for bell in &self.bells {
            bell.put(|desk| desk.farewell = Some(spread));
        }
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        for bell in &self.bells {
            bell.put(|desk| desk.stop = true);
        }
        for thread in self.threads.drain(..) {
            // Its panic would have ended the process.
            let _ = thread.join();
        }
    }
}
