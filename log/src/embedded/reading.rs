//! A log that can only be read: a database file that no process writes, or a [`Source`] in another process.

#![allow(clippy::disallowed_methods, reason = "a thread that wakes readers")]

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
    reader::{EmbeddedReader, Ringing},
    source::Source,
};
use crate::{Appender, Log, LogError, Reader, TopicDescription, TopicSpec, Transactor, Wake};

/// How often a reader looks for news, for nobody tells it: well below what a person notices.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The log behind a [`Source`]. Appending, transactions and creating topics are [`LogError::Refused`].
pub struct ReadingLog {
    source: Arc<dyn Source>,
}

impl ReadingLog {
    /// Reads from `source`; its readers are woken at intervals, because a source reports no news.
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

    fn answers(&self, topic: &str, _patience: Duration) -> Result<(), LogError> {
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
        let clockwork = Clockwork::start(wake)?;
        let reader = EmbeddedReader::new(self.source.clone(), topic, from, Box::new(clockwork))?;
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
    LogError::Refused("the data directory was opened only to be read".to_owned())
}

/// Rings at intervals until it is dropped.
struct Clockwork(Arc<AtomicBool>);

impl Clockwork {
    fn start(wake: Wake) -> Result<Self, LogError> {
        let stopped = Arc::new(AtomicBool::new(false));
        let ringing = stopped.clone();
        thread::Builder::new()
            .name("log-clockwork".to_owned())
            .spawn(move || {
                while !ringing.load(Ordering::Acquire) {
                    wake();
                    thread::sleep(LOOK_EVERY);
                }
            })
            .map_err(|error| LogError::Refused(format!("a thread cannot start: {error}")))?;
        Ok(Self(stopped))
    }
}

impl Ringing for Clockwork {
    fn nothing_at(&self, _partition: u32, _offset: u64) -> bool {
        false
    }
}

impl Drop for Clockwork {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
