//! A log opened only to be read, beside the process that owns it or while nobody does.

use std::{
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    reader::{EmbeddedReader, Ringing},
    remote::{Client, socket_exists},
    source::Source,
    store::Store,
};
use crate::{Appender, Log, LogError, Reader, TopicDescription, TopicSpec, Transactor, Wake};

/// How often a reader looks for news, for nobody tells it: well below what a person notices.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The log in `dir`: from its database if nobody holds it, else from the socket of whoever does.
pub(super) fn open(dir: &Path) -> Result<Arc<dyn Log>, LogError> {
    let source: Arc<dyn Source> = match Store::open_read_only(dir) {
        Ok(store) => Arc::new(store),
        Err(LogError::InUse { .. }) if socket_exists(dir) => Arc::new(Client::connect(dir)?),
        Err(error) => return Err(error),
    };
    Ok(Arc::new(ReadingLog { source }))
}

struct ReadingLog {
    source: Arc<dyn Source>,
}

impl Log for ReadingLog {
    fn create_topic(&self, _spec: &TopicSpec) -> Result<(), LogError> {
        Err(read_only())
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.source.partitions(topic)
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        self.source.describe(topic)
    }

    fn answers(&self, topic: &str, _patience: Duration) -> Result<(), LogError> {
        self.source.partitions(topic).map(drop)
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
