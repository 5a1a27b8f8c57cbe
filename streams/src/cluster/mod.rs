//! Several processes as one dataflow: how they find each other, agree, begin, watch and end together.
//!
//! ```text
//!  process 0 ◀──control── 1, 2 …     hello, ready, beginning, heartbeats, drain, bye
//!      ▲ ▲
//!      │ └────data──── 1 ◀──data── 2  timely's own channels, one connection a pair
//! ```
//!
//! Each process listens at its own address and dials those with a smaller index, in any order and
//! again and again until `--join-timeout`. A connection counts once it said hello with the cluster's
//! token and the same settings; whatever else connects is dropped and ends nothing. When all are
//! there the listeners close, process 0 fences older runs and reads the progress, tells the others
//! where to begin, and timely takes the data connections.
//!
//! Invariants:
//! - Process 0 fences and reads progress only when the whole group is there.
//! - Every process hears that the group drains before any of them closes a connection, so a closed
//!   connection means a lost process and nothing else.
//! - A process that says nothing for five seconds is lost, whether it is frozen, cut off or gone.

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

/// How often each process says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Ten heartbeats: longer than a busy machine keeps a thread waiting, short enough that a frozen
/// process costs few windows.
const SILENCE: Duration = Duration::from_secs(5);

/// The place of a process in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The `host:port` of every process, by index.
    pub hosts: Vec<String>,
    /// Which of them this is.
    pub index: usize,
    /// How long to wait for the others.
    pub join_timeout: Duration,
    /// What every process of the cluster must know; empty for none.
    pub token: String,
}

impl Cluster {
    /// A process as people know it.
    fn name(&self, process: usize) -> String {
        let host = self.hosts.get(process).map_or("unknown", String::as_str);
        format!("process {process} ({host})")
    }
}
