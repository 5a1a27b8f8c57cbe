//! A process' part in its group, for the thread that runs the dataflow.
//!
//! ```text
//!  run:          join ─▶ complete ─▶ (0: recover, begin | others: beginning) ─▶ count ─▶ leave
//!  conversation: dial, listen ─▶ ready ─▶ begin ─▶ heartbeats … ─▶ drain, bye
//! ```

use std::{
    net::TcpStream,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use timely::communication::{
    AllocatorBuilder, Hooks,
    allocator::{ProcessBuilder, zero_copy::initialize},
};
use tokio::sync::mpsc;

use super::{Cluster, conversation, hello::Agreement, peer::Peer, wire::SharedBeginning};
use crate::{DataflowError, Stop};

/// A worker that has not taken a step for so long is stuck: a step takes milliseconds, the close of a
/// giant window a second or two.
pub const WORKER_PATIENCE: Duration = Duration::from_secs(8);

/// When each worker of this process took its last step.
#[derive(Debug, Clone)]
pub struct Pulse {
    epoch: Instant,
    beats_ms: Arc<Vec<AtomicU64>>,
}

impl Pulse {
    /// Of `workers` workers.
    pub fn new(workers: usize) -> Pulse {
        Pulse {
            epoch: Instant::now(),
            beats_ms: Arc::new((0..workers).map(|_| AtomicU64::new(0)).collect()),
        }
    }

    /// The worker takes a step.
    pub fn beat(&self, worker: usize) {
        if let Some(beat_ms) = self.beats_ms.get(worker) {
            beat_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// A worker that stands still.
    pub(super) fn stuck(&self) -> Option<usize> {
        let now_ms = self.now_ms();
        let patience_ms = WORKER_PATIENCE.as_millis() as u64;
        self.beats_ms
            .iter()
            .position(|beat_ms| beat_ms.load(Ordering::Relaxed) + patience_ms < now_ms)
    }

    /// Every worker begins to be watched now.
    pub(super) fn begin(&self) {
        for worker in 0..self.beats_ms.len() {
            self.beat(worker);
        }
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

/// What the conversation tells.
pub(super) enum News {
    /// Everybody is there.
    Complete,
    /// Begin here, over these connections.
    Begin(SharedBeginning, Vec<Option<TcpStream>>),
}

/// A process' part in its group.
pub struct Group {
    cluster: Arc<Cluster>,
    stop: Stop,
    news: Mutex<Receiver<News>>,
    begin: mpsc::Sender<SharedBeginning>,
    goodbye: Arc<(Mutex<bool>, Condvar)>,
}

impl Group {
    /// Begins to look for the others. What goes wrong from now on is told by `stop`.
    pub fn join(
        cluster: Cluster,
        agreement: Agreement,
        pulse: Pulse,
        stop: Stop,
    ) -> Result<Group, DataflowError> {
        let cluster = Arc::new(cluster);
        let (tell, news): (SyncSender<News>, _) = sync_channel(1);
        let (begin, begins) = mpsc::channel(1);
        let (held, stopping) = (cluster.clone(), stop.clone());
        let goodbye = Arc::new((Mutex::new(false), Condvar::new()));
        let said = Goodbye(goodbye.clone());
        let converse = move || {
            conversation::hold(held, agreement, pulse, stopping, tell, begins);
            drop(said);
        };
        thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(converse)
            .map_err(|error| DataflowError::Worker(format!("the cluster's thread: {error}")))?;
        Ok(Group {
            cluster,
            stop,
            news: Mutex::new(news),
            begin,
            goodbye,
        })
    }

    /// Whether this process fences, reads the progress and commits.
    pub fn leads(&self) -> bool {
        self.cluster.index == 0
    }

    /// Waits until everybody is there; `false` if it stops before.
    pub fn complete(&self) -> bool {
        matches!(self.hear(), Some(News::Complete))
    }

    fn hear(&self) -> Option<News> {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.recv().ok()
    }

    /// Tells the others where to begin (process 0), or hears it; `None` if it stops before.
    ///
    /// What is returned are the beginning and timely's allocators for `workers` workers.
    pub fn begin(
        &self,
        beginning: Option<SharedBeginning>,
        workers: usize,
    ) -> Result<Option<(SharedBeginning, Vec<AllocatorBuilder>)>, DataflowError> {
        if let Some(beginning) = beginning {
            // Nobody listens any more once it stops.
            let _ = self.begin.blocking_send(beginning);
        }
        let Some(News::Begin(beginning, sockets)) = self.hear() else {
            return Ok(None);
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
            DataflowError::Worker(format!("the cluster's network threads: {error}"))
        })?;
        // Its threads end with the process: joining them would wait for peers that may be frozen.
        std::mem::forget(network);
        let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
        Ok(Some((beginning, builders)))
    }

    /// Waits until the others know that this process stops, or why it failed; it must have been asked
    /// to stop. A connection that is closed before looks like a lost process to them.
    pub fn wait_for_goodbye(&self) {
        let (over, ended) = &*self.goodbye;
        let over = over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = ended.wait_while(over, |over| !*over);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Tells when the conversation is over, however it ends.
pub(super) struct Goodbye(Arc<(Mutex<bool>, Condvar)>);

impl Drop for Goodbye {
    fn drop(&mut self) {
        let (over, ended) = &*self.0;
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        ended.notify_all();
    }
}
