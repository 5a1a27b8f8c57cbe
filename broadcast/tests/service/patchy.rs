//! The embedded log behind a switch: its readers can fail, or see nothing for a while.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use emostream_log::{
    Appender, Log, LogError, Reader, Record, TopicDescription, TopicSpec, Transactor, Wake,
    embedded::EmbeddedLog,
};

const FINE: u8 = 0;
const FAILING: u8 = 1;
const BLIND: u8 = 2;

pub(crate) struct Patchy {
    log: EmbeddedLog,
    mood: Arc<AtomicU8>,
    /// Looks that found nothing new, of all readers.
    idle: Arc<AtomicUsize>,
}

impl Patchy {
    pub(crate) fn new(log: EmbeddedLog) -> Self {
        Self {
            log,
            mood: Arc::new(AtomicU8::new(FINE)),
            idle: Arc::default(),
        }
    }

    /// How often a reader looked and found nothing new.
    pub(crate) fn idle(&self) -> usize {
        self.idle.load(Ordering::SeqCst)
    }

    /// Readers fail from now on.
    pub(crate) fn fail(&self) {
        self.mood.store(FAILING, Ordering::SeqCst);
    }

    /// Readers see nothing new from now on, as when a broker is away.
    pub(crate) fn go_blind(&self) {
        self.mood.store(BLIND, Ordering::SeqCst);
    }

    /// Readers read again.
    pub(crate) fn mend(&self) {
        self.mood.store(FINE, Ordering::SeqCst);
    }

    /// Throws away what is older than the topics keep.
    pub(crate) fn sweep(&self) {
        self.log.sweep().unwrap();
    }
}

struct PatchyReader {
    reader: Box<dyn Reader>,
    mood: Arc<AtomicU8>,
    idle: Arc<AtomicUsize>,
}

impl Reader for PatchyReader {
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError> {
        match self.mood.load(Ordering::SeqCst) {
            FAILING => Err(LogError::TimedOut {
                detail: "no broker answers".to_owned(),
            }),
            BLIND => Ok(0),
            _ => {
                let read = self.reader.poll_while(partition, limit, each)?;
                if read == 0 {
                    self.idle.fetch_add(1, Ordering::SeqCst);
                }
                Ok(read)
            }
        }
    }

    fn position(&self, partition: u32) -> u64 {
        self.reader.position(partition)
    }

    fn at_end(&self, partition: u32) -> bool {
        self.reader.at_end(partition)
    }
}

impl Log for Patchy {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.log.create_topic(spec)
    }
    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.log.partitions(topic)
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        self.log.describe(topic)
    }

    fn answers(&self, topic: &str, patience: Duration) -> Result<(), LogError> {
        self.log.answers(topic, patience)
    }
    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        self.log.offsets(topic)
    }
    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        self.log.offsets_at(topic, time_ms)
    }
    fn reader(
        &self,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Box<dyn Reader>, LogError> {
        Ok(Box::new(PatchyReader {
            reader: self.log.reader(topic, from, wake)?,
            mood: self.mood.clone(),
            idle: self.idle.clone(),
        }))
    }
    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        self.log.appender(timeout)
    }
    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        self.log.transactor(id, timeout)
    }
}
