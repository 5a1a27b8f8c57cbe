//! A read-only log. It reads from a database file that no process writes to, or from a [`Source`] in another process.

#![allow(
    clippy::disallowed_methods,
    reason = "the thread sleeps before it wakes readers"
)]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    reader::{EmbeddedReader, WakeRegistration},
    source::Source,
};
use crate::{Appender, Log, LogError, Reader, TopicDescription, TopicSpec, Transactor, Wake};

/// Interval at which readers are woken, since commits do not wake them. It is too short for a person to notice.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A log that reads from a [`Source`]. Appenders, transactors and the creation of topics return [`LogError::Refused`].
pub struct ReadingLog {
    source: Arc<dyn Source>,
}

impl ReadingLog {
    /// Returns a log that reads from `source`. Its readers are woken at intervals, because a source does not report
    /// commits.
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source }
    }
}

impl Log for ReadingLog {
    fn create_topic(&self, _spec: &TopicSpec) -> Result<(), LogError> {
        Err(read_only())
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.source.describe(topic)?.partitions)
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        self.source.describe(topic)
    }

    fn answers(&self, topic: &str, _timeout: Duration) -> Result<(), LogError> {
        self.source.describe(topic).map(drop)
    }

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        self.source.offsets(topic)
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        self.source.offsets_at(topic, time_ms)
    }

    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        let waker = PollingWaker::start(wake)?;
        let reader = EmbeddedReader::new(self.source.clone(), topic, from, Box::new(waker))?;
        Ok(Box::new(reader))
    }

    fn appender(&self, _timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        Err(read_only())
    }

    fn transactor(&self, _id: &str, _timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        Err(read_only())
    }
}

fn read_only() -> LogError {
    LogError::Refused("the data directory was opened read-only".to_owned())
}

/// Wakes a reader at intervals, on a thread that ends when this value is dropped.
struct PollingWaker(Arc<AtomicBool>);

impl PollingWaker {
    fn start(wake: Wake) -> Result<Self, LogError> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        thread::Builder::new()
            .name("log-waker".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    wake();
                    thread::sleep(POLL_INTERVAL);
                }
            })
            .map_err(|error| LogError::Refused(format!("a thread cannot start: {error}")))?;
        Ok(Self(stopped))
    }
}

impl WakeRegistration for PollingWaker {
    fn nothing_at(&self, _partition: u32, _offset: u64) -> bool {
        false
    }
}

impl Drop for PollingWaker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
