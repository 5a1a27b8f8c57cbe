//! The membership of a process in its group, as the thread that runs the application uses it.
//!
//! ```text
//!  run:            join ─▶ complete ─▶ (0: recover, begin | others: beginning) ─▶ process ─▶ leave
//!  cluster thread: dial, listen ─▶ ready ─▶ begin ─▶ heartbeats … ─▶ drain, close
//! ```

use std::{
    net::TcpStream,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use timely::communication::{
    AllocatorBuilder, Hooks,
    allocator::{ProcessBuilder, zero_copy::initialize},
};
use tokio::sync::mpsc;

use super::{
    config::Cluster,
    coordinator::{CoordinatorEvent, CoordinatorRequest},
    event_loop::{self, Report},
    handshake::ClusterSettings,
    peer::Peer,
    wire::SharedBeginning,
};
use crate::{Stop, StreamsError};

/// Capacity of the queue of events for the run. The run receives events at once, except while timely starts.
const REPORT_QUEUE: usize = 64;

/// The membership of this process in its group.
pub struct Group {
    cluster: Arc<Cluster>,
    stop: Stop,
    reports: Mutex<Receiver<Report>>,
    requests: mpsc::Sender<CoordinatorRequest>,
    shutdown: Arc<OnceLock<()>>,
}

impl Group {
    /// Starts the thread that connects to the other processes. Later failures are recorded in `stop`.
    pub fn join(
        cluster: Cluster,
        settings: ClusterSettings,
        stop: Stop,
    ) -> Result<Group, StreamsError> {
        let cluster = Arc::new(cluster);
        let (report, reports) = sync_channel(REPORT_QUEUE);
        let (requests, requested) = mpsc::channel(1);
        let (of_thread, stopping) = (cluster.clone(), stop.clone());
        let shutdown = Arc::new(OnceLock::new());
        let barrier = ShutdownBarrier(shutdown.clone());
        let coordinate = move || {
            let left = event_loop::run(of_thread, settings, &stopping, report, requested);
            if let Err(error) = left {
                stopping.fail(error);
            }
            drop(barrier);
        };
        thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(coordinate)
            .map_err(|error| {
                StreamsError::Worker(format!("the cluster's thread cannot start: {error}"))
            })?;
        Ok(Group {
            cluster,
            stop,
            reports: Mutex::new(reports),
            requests,
            shutdown,
        })
    }

    /// Whether this is process 0, which fences older runs, reads the progress and commits.
    pub fn leads(&self) -> bool {
        self.cluster.index == 0
    }

    /// Waits until all processes are connected. Returns `false` if this process leaves the group before that.
    pub fn complete(&self) -> bool {
        matches!(self.next_report(), Some((CoordinatorEvent::Complete, _)))
    }

    /// On process 0, notifies the other processes that it stands by. `active` is the name of the active run.
    pub fn stand_by(&self, active: &str) {
        // The send fails only after the cluster thread has ended.
        let request = CoordinatorRequest::StandBy(active.to_owned());
        let _ = self.requests.blocking_send(request);
    }

    fn next_report(&self) -> Option<Report> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.recv().ok()
    }

    /// Begins the run of the group. Process 0 passes a `beginning`, which is sent to the other processes. The other
    /// processes pass `None`, and wait for the beginning that process 0 sends.
    ///
    /// Returns the beginning and timely's allocators for `workers` workers, or `None` if the process leaves the group
    /// before the run begins. While it waits, the function calls `report`: with the name of the active run while
    /// process 0 stands by, and with `None` once that run is not known any more.
    pub fn begin(
        &self,
        beginning: Option<SharedBeginning>,
        workers: usize,
        report: &mut dyn FnMut(Option<String>),
    ) -> Result<Option<(SharedBeginning, Vec<AllocatorBuilder>)>, StreamsError> {
        if let Some(beginning) = beginning {
            // The send fails only after the cluster thread has ended.
            let request = CoordinatorRequest::Begin(beginning);
            let _ = self.requests.blocking_send(request);
        }
        let (beginning, sockets) = loop {
            match self.next_report() {
                Some((CoordinatorEvent::Begin(beginning), sockets)) => break (beginning, sockets),
                Some((CoordinatorEvent::StandingBy(active), _)) => report(Some(active)),
                Some((CoordinatorEvent::Incomplete, _)) => report(None),
                Some((CoordinatorEvent::Complete, _)) | None => return Ok(None),
            }
        };
        let peer = |(process, socket): (usize, Option<TcpStream>)| {
            let name = self.cluster.name(process);
            socket.map(|socket| Peer::new(socket, &name, self.stop.clone()))
        };
        let peers = sockets.into_iter().enumerate().map(peer).collect();
        let hooks = Hooks::default();
        let locals = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
        let (builders, network) = initialize::initialize_networking_from_sockets(
            locals,
            peers,
            self.cluster.index,
            workers,
            hooks,
        )
        .map_err(|error| {
            StreamsError::Worker(format!(
                "the cluster's network threads cannot start: {error}"
            ))
        })?;
        // The network threads are not joined, since that would wait for peers that may be frozen. They end with the
        // process.
        std::mem::forget(network);
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok(Some((beginning, builders)))
    }

    /// Waits until the other processes are notified that this one stops or has failed. The caller must have requested
    /// the stop. Until then connections must stay open, since otherwise the others would treat this process as lost.
    pub fn wait_for_shutdown(&self) {
        self.shutdown.wait();
    }
}

/// A guard of the cluster thread. It is dropped when the thread ends or panics, and then [`Group::wait_for_shutdown`]
/// returns.
struct ShutdownBarrier(Arc<OnceLock<()>>);

impl Drop for ShutdownBarrier {
    fn drop(&mut self) {
        // The call fails only if the barrier was released before.
        let _ = self.0.set(());
    }
}
