//! The configuration of a cluster, and the timeouts after which its processes detect that another process is lost.

use std::time::Duration;

/// Interval of the heartbeats of each process.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);

/// Time without a message after which a process counts as lost: ten heartbeats. A busy machine delays a thread for less
/// than that, and a frozen process delays only a few windows.
pub(super) const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration of a cluster in one of its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The `host:port` of every process, by index.
    pub hosts: Vec<String>,
    /// The index of this process.
    pub index: usize,
    /// Maximum time for which this process waits until all others are connected.
    pub join_timeout: Duration,
    /// The shared secret of the processes; empty if there is none.
    pub token: String,
}

impl Cluster {
    /// Returns the name of a process for messages.
    pub(super) fn name(&self, process: usize) -> String {
        let host = self.hosts.get(process).map_or("unknown", String::as_str);
        format!("process {process} ({host})")
    }
}
