//! The topic log inside one process: a database file (redb) instead of a broker.
//!
//! ```text
//!  appenders ─┐ bounded   ┌────────┐  one transaction   ┌──────┐ snapshot ┌─────────┐
//!             ├─queue────▶│ writer │──for all requests─▶│ redb │─────────▶│ readers │
//! transactors ┘           └────────┘      fsync         └──────┘          └─────────┘
//!                             └───────── wakes ───────────────────────────────▲
//! ```
//!
//! Invariants: only one process has the directory open, and only one of its threads writes. Acknowledged records
//! survive kill -9 and a loss of power. Offsets do not go back, not even after all records were deleted.

mod batch;
mod partitioner;
mod queue;
mod reader;
mod reading;
mod retention;
mod source;
mod store;
mod tables;
mod topics;
mod transactor;
mod writer;

use std::{
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError, mpsc::sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use self::{
    batch::Tail,
    queue::{Queue, Reply, Request},
    reader::{EmbeddedReader, Subscription},
    store::Store,
    topics::{Topic, Topics},
    transactor::EmbeddedTransactor,
    writer::Shared,
};
pub use self::{
    reading::ReadingLog,
    source::{Page, Source},
};
use crate::{
    Appender, Done, EventClock, Log, LogError, NewRecord, Reader, TopicDescription, TopicSpec,
    Transactor, Wake,
};

/// Maximum partitions of a topic: far more than one process can use.
const MAX_PARTITIONS: u32 = 4096;

/// The log in a directory, or in memory.
///
/// When this value and all of its appenders, transactors and readers are dropped, the log writes all queued records and
/// is closed.
pub struct EmbeddedLog {
    core: Arc<Core>,
}

/// The running log, which the [`EmbeddedLog`] and its appenders, transactors and readers share.
struct Core {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl EmbeddedLog {
    /// Opens the log in `dir`, or creates it. A record is acknowledged only after an fsync.
    ///
    /// Returns [`LogError::InUse`] if another process, or another log of this process, has the directory open;
    /// [`LogError::Damaged`] if the database file is damaged; [`LogError::Disk`] if the disk fails.
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Self::open_with_clock(dir, EventClock::host())
    }

    /// Opens the log as [`EmbeddedLog::open`] does, but with the given clock. The clock sets the time of records
    /// without one, and decides which records are too far ahead or too old.
    pub fn open_with_clock(dir: &Path, clock: EventClock) -> Result<Self, LogError> {
        let core = Core::start(Store::open(dir)?, clock)?;
        Ok(Self { core })
    }

    /// Returns a log in memory, whose records are lost when it is dropped.
    pub fn in_memory() -> Result<Self, LogError> {
        Ok(Self {
            core: Core::start(Store::in_memory()?, EventClock::host())?,
        })
    }

    /// Opens the log in `dir` only for reading, and locks the directory until the returned log and its readers are
    /// dropped. Returns [`LogError::InUse`] while another process has the directory open: then records can only be read
    /// through a [`Source`] that the other process provides.
    pub fn open_for_reading(dir: &Path) -> Result<Arc<dyn Log>, LogError> {
        let store = Store::open_read_only(dir)?;
        Ok(Arc::new(ReadingLog::new(Arc::new(store))))
    }

    /// Deletes at once all records that exceed the retention of their topics. The writer also does this regularly.
    pub fn sweep(&self) -> Result<(), LogError> {
        self.core.request(|reply| Request::Sweep { reply })
    }
}

impl Core {
    fn start(store: Store, clock: EventClock) -> Result<Arc<Self>, LogError> {
        let topics = Topics::default();
        let mut tails = std::collections::HashMap::new();
        for (name, row, partitions) in store.topics()? {
            let of_topic = partitions.into_iter().map(Tail::of).enumerate();
            let mut ends = Vec::new();
            for (partition, tail) in of_topic {
                ends.push(tail.next);
                tails.insert((row.0, partition as u32), tail);
            }
            topics.add(Topic::new(&name, row, ends));
        }
        let shared = Arc::new(Shared {
            store: Arc::new(store),
            topics,
            queue: Queue::default(),
            clock,
        });
        let writer = writer::start(shared.clone(), tails).map_err(|error| {
            LogError::Refused(format!("the writer's thread cannot start: {error}"))
        })?;
        Ok(Arc::new(Self {
            shared,
            writer: Mutex::new(Some(writer)),
        }))
    }

    fn offer(&self, request: Request) -> Result<(), LogError> {
        self.shared.queue.offer(request)
    }

    /// Queues a request and waits for its result.
    fn request<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, LogError> {
        let (reply, answer) = sync_channel(1);
        self.offer(request(reply))?;
        answer.recv().unwrap_or_else(|_| Err(queue::closed()))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.queue.close();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A `done` callback may drop the last handle on the writer's own thread, which cannot join itself.
        if let Some(writer) = writer.filter(|writer| writer.thread().id() != thread::current().id())
        {
            // If the writer panicked, the panic was reported when it occurred.
            let _ = writer.join();
        }
    }
}

impl Log for EmbeddedLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        if spec.name.is_empty() || !(1..=MAX_PARTITIONS).contains(&spec.partitions) {
            let detail =
                format!("a topic needs a name and 1 to {MAX_PARTITIONS} partitions: {spec:?}");
            return Err(LogError::Refused(detail));
        }
        self.core.request(|reply| Request::Create {
            spec: spec.clone(),
            reply,
        })
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.core.shared.topics.find(topic)?.partitions())
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        Ok(self.core.shared.topics.find(topic)?.describe())
    }

    fn answers(&self, topic: &str, _timeout: Duration) -> Result<(), LogError> {
        // The log is in this process, so it always responds. The writes report a failed disk.
        self.partitions(topic).map(drop)
    }

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        self.core.shared.store.offsets(topic)
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        self.core.shared.store.offsets_at(topic, time_ms)
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        let found = self.core.shared.topics.find(topic)?;
        let subscription = Subscription::new(found, wake, self.core.clone());
        let source = self.core.shared.store.clone();
        Ok(Box::new(EmbeddedReader::new(
            source,
            topic,
            from,
            Box::new(subscription),
        )?))
    }

    fn appender(&self, _timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        // No timeout is necessary: a disk either completes a write or returns an error.
        Ok(Box::new(EmbeddedAppender(self.core.clone())))
    }

    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        Ok(Box::new(EmbeddedTransactor::open(
            self.core.clone(),
            id,
            timeout,
        )?))
    }
}

struct EmbeddedAppender(Arc<Core>);

impl Appender for EmbeddedAppender {
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError> {
        self.0.offer(Request::Append { record, done })
    }
}
