//! The shards: threads that own the subscribers' sockets and write to them.
//!
//! ```text
//!  HTTP ── new connection ─▶ mailbox ─┐
//!  hub ─── room changed ───▶ mailbox ─┴▶ shard: epoll ─┬▶ connections of the room ─▶ cursor: what is next
//!                                                      │                    └─ shared bytes ─▶ socket
//!                                                      └▶ bytes of a client ─▶ inbound ─▶ pong, close
//! ```
//!
//! The delivery of a frame takes one read of the room and one system call. All subscribers share the encoded bytes. A
//! connection has no queue: frames that its socket does not accept stay in the room. Only the unsent rest of a partly
//! written frame is stored for the connection.
//!
//! Invariants:
//! - A connection belongs to the same shard until it is closed.
//! - A shard never waits for a client, the log or another shard.
//! - No connection has a timer: every 100 ms a tenth of them is swept.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::fanout::{mailbox::Mailbox, new_connection::NewConnection, shard::Shard};
use crate::frame::heartbeat::Heartbeat;
use crate::hub::entry::{RoomListener, RoomListeners};
use crate::metrics::Metrics;

/// The shards of a publisher or a relay. When the pool is dropped, the shards close all connections.
pub(crate) struct ShardPool {
    mailboxes: Vec<Arc<Mailbox>>,
    next: AtomicUsize,
    threads: Vec<JoinHandle<()>>,
}

impl ShardPool {
    /// Starts `count` shards, each in a thread of its own.
    pub(crate) fn start(
        count: NonZeroUsize,
        heartbeat: &Heartbeat,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let shards: Vec<Shard> = (0..count.get())
            .map(|number| Shard::new(number, heartbeat.clone(), metrics))
            .collect::<io::Result<_>>()?;
        let mut pool = Self {
            mailboxes: shards.iter().map(Shard::mailbox).collect(),
            next: AtomicUsize::new(0),
            threads: Vec::new(),
        };
        for shard in shards {
            let named = thread::Builder::new().name("shard".to_owned());
            pool.threads.push(named.spawn(move || shard.run())?);
        }
        Ok(pool)
    }

    /// Returns the mailboxes of the shards, which the hub notifies of changes.
    pub(crate) fn listeners(&self) -> RoomListeners {
        let mailboxes = self.mailboxes.iter().cloned();
        mailboxes.map(|it| it as Arc<dyn RoomListener>).collect()
    }

    /// Assigns a connection to the next shard in turn, so that each shard has a part of every room's subscribers.
    pub(crate) fn assign(&self, connection: NewConnection) {
        let shard = self.next.fetch_add(1, Ordering::Relaxed) % self.mailboxes.len();
        self.mailboxes[shard].post(|inbox| inbox.new_connections.push(connection));
    }

    /// Sends `bye` to all subscribers, and to each one that connects later. They reconnect within `window`.
    pub(crate) fn bye(&self, window: Duration) {
        for mailbox in &self.mailboxes {
            mailbox.post(|inbox| inbox.reconnect_window = Some(window));
        }
    }
}

impl Drop for ShardPool {
    fn drop(&mut self) {
        for mailbox in &self.mailboxes {
            mailbox.post(|inbox| inbox.stop = true);
        }
        for thread in self.threads.drain(..) {
            // The result is ignored: a panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}
