//! A cluster of processes that run one application: handshake, common start, failure detection and shutdown.
//!
//! ```text
//!  process 0 ◀──control── 1, 2 …     hello, ready, beginning, heartbeats, drain, bye
//!      ▲ ▲
//!      │ └────data──── 1 ◀──data── 2  timely's own channels, one connection per pair
//! ```
//!
//! Each process listens on its own address and dials those with a smaller index, in any order, with retries until
//! `--join-timeout`. A connection is accepted after a handshake with the token of the cluster and the same settings.
//! Other connections are dropped and have no effect. When all processes are connected, the listeners close. Process 0
//! fences older runs, reads the progress, and sends the beginning to the others. Then timely uses the data connections.
//!
//! Invariants:
//! - Process 0 fences and reads progress only when all processes are connected.
//! - Every process is notified that the group drains before any of them closes a connection, so a closed connection
//!   means a lost process and nothing else.
//! - A process that sends nothing for five seconds is lost, whether it is frozen, disconnected or has ended.

mod conversation;
mod group;
mod hello;
mod join;
mod peer;
mod wire;

use std::time::Duration;

pub use group::Group;
pub use hello::Agreement;
pub use wire::SharedBeginning;

/// Interval of the heartbeats of each process.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Time without a message after which a process is lost: ten heartbeats. A busy machine does not keep a thread waiting
/// for so long, and a frozen process delays few windows.
const SILENCE: Duration = Duration::from_secs(5);

/// The configuration of a cluster, as one of its processes has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The `host:port` of every process, by index.
    pub hosts: Vec<String>,
    /// The index of this process.
    pub index: usize,
    /// How long this process waits for the others.
    pub join_timeout: Duration,
    /// The shared secret of the processes; empty if there is none.
    pub token: String,
}

impl Cluster {
    /// Returns the name of a process for messages.
    fn name(&self, process: usize) -> String {
        let host = self.hosts.get(process).map_or("unknown", String::as_str);
        format!("process {process} ({host})")
    }
}
