//! The membership of a process in its group, as the thread that runs the application uses it.
//!
//! ```text
//!  run:            join ─▶ complete ─▶ (0: recover, begin | others: beginning) ─▶ process ─▶ leave
//!  cluster thread: dial, listen ─▶ ready ─▶ begin ─▶ heartbeats … ─▶ drain, bye
//! ```

use std::{
    net::TcpStream,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use timely::communication::{
    AllocatorBuilder, Hooks,
    allocator::{ProcessBuilder, zero_copy::initialize},
};
use tokio::sync::mpsc;

use super::{Cluster, conversation, hello::Agreement, peer::Peer, wire::SharedBeginning};
use crate::{Stop, StreamsError};

/// An event that the cluster thread reports to the run.
pub(super) enum News {
    /// All processes are connected.
    Complete,
    /// Process 0 stands by; contains the name of the active run.
    StandingBy(String),
    /// A connection was lost, and the group is not complete any more.
    Incomplete,
    /// The run begins here, with these data connections by process.
    Begin(SharedBeginning, Vec<Option<TcpStream>>),
}

/// A request of the run on process 0: a message to the other processes.
pub(super) enum Order {
    /// Process 0 stands by; contains the name of the active run.
    StandBy(String),
    /// The run begins here.
    Begin(SharedBeginning),
}

/// Capacity of the queue of events. The run drains it at once, except while timely starts.
const NEWS: usize = 64;

/// The membership of this process in its group.
pub struct Group {
    cluster: Arc<Cluster>,
    stop: Stop,
    news: Mutex<Receiver<News>>,
    orders: mpsc::Sender<Order>,
    goodbye: Arc<(Mutex<bool>, Condvar)>,
}

impl Group {
    /// Starts the thread that connects to the other processes. Later failures are recorded in `stop`.
    pub fn join(cluster: Cluster, agreement: Agreement, stop: Stop) -> Result<Group, StreamsError> {
        let cluster = Arc::new(cluster);
        let (tell, news): (SyncSender<News>, _) = sync_channel(NEWS);
        let (orders, ordered) = mpsc::channel(1);
        let (held, stopping) = (cluster.clone(), stop.clone());
        let goodbye = Arc::new((Mutex::new(false), Condvar::new()));
        let said = Goodbye(goodbye.clone());
        let converse = move || {
            conversation::hold(held, agreement, stopping, tell, ordered);
            drop(said);
        };
        thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(converse)
            .map_err(|error| StreamsError::Worker(format!("the cluster's thread: {error}")))?;
        Ok(Group {
            cluster,
            stop,
            news: Mutex::new(news),
            orders,
            goodbye,
        })
    }

    /// Whether this is process 0, which fences older runs, reads the progress and commits.
    pub fn leads(&self) -> bool {
        self.cluster.index == 0
    }

    /// Waits until all processes are connected. Returns `false` if the process leaves the group before.
    pub fn complete(&self) -> bool {
        matches!(self.hear(), Some(News::Complete))
    }

    /// Notifies the other processes that this one, number 0, stands by. `active` is the name of the active run.
    pub fn stand_by(&self, active: &str) {
        // Fails only after the cluster thread has ended.
        let _ = self.orders.blocking_send(Order::StandBy(active.to_owned()));
    }

    fn hear(&self) -> Option<News> {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.recv().ok()
    }

    /// Sends the beginning to the other processes (on process 0, which passes one), or waits for it.
    ///
    /// Returns the beginning and timely's allocators for `workers` workers, or `None` if the process leaves the group
    /// before. Until then the function calls `report` with the active run for which process 0 stands by, or with `None`
    /// once that is not known any more.
    pub fn begin(
        &self,
        beginning: Option<SharedBeginning>,
        workers: usize,
        report: &mut dyn FnMut(Option<String>),
    ) -> Result<Option<(SharedBeginning, Vec<AllocatorBuilder>)>, StreamsError> {
        if let Some(beginning) = beginning {
            // Fails only after the cluster thread has ended.
            let _ = self.orders.blocking_send(Order::Begin(beginning));
        }
        let (beginning, sockets) = loop {
            match self.hear() {
                Some(News::Begin(beginning, sockets)) => break (beginning, sockets),
                Some(News::StandingBy(active)) => report(Some(active)),
                Some(News::Incomplete) => report(None),
                Some(News::Complete) | None => return Ok(None),
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
        .map_err(|error| StreamsError::Worker(format!("the cluster's network threads: {error}")))?;
        // Its threads end with the process: joining them would wait for peers that may be frozen.
        std::mem::forget(network);
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok(Some((beginning, builders)))
    }

    /// Waits until the other processes are notified that this one stops or has failed. The stop must have been
    /// requested before. If a connection were closed earlier, the others would treat this process as lost.
    pub fn wait_for_goodbye(&self) {
        let (over, ended) = &*self.goodbye;
        let over = over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = ended.wait_while(over, |over| !*over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A drop guard that notifies [`Group::wait_for_goodbye`] when the cluster thread ends, also by a panic.
pub(super) struct Goodbye(Arc<(Mutex<bool>, Condvar)>);

impl Drop for Goodbye {
    fn drop(&mut self) {
        let (over, ended) = &*self.0;
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ended.notify_all();
    }
}
