//! The embedded log behind a switch: it can refuse appends, or keep them waiting.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use emostream_log::{
    Appender, Done, Log, LogError, NewRecord, Reader, TopicDescription, TopicSpec, Transactor,
    Wake, embedded::EmbeddedLog,
};

/// What becomes of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Willing,
    /// Queued, then given up.
    Failing,
    /// Not even queued.
    Full,
    /// Queued, and nothing is said.
    Silent,
}

pub(crate) struct Balky {
    log: EmbeddedLog,
    shared: Arc<Shared>,
}

struct Shared {
    /// That of one partition before that of all.
    mood: Mutex<(Option<(u32, Mood)>, Mood)>,
    kept: Mutex<Vec<(NewRecord, Done)>>,
}

impl Balky {
    pub(crate) fn new(log: EmbeddedLog) -> Self {
        let shared = Shared {
            mood: Mutex::new((None, Mood::Willing)),
            kept: Mutex::default(),
        };
        Self {
            log,
            shared: Arc::new(shared),
        }
    }

    pub(crate) fn turn(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = (None, mood);
    }

    /// Only that partition's records.
    pub(crate) fn turn_partition(&self, partition: u32, mood: Mood) {
        *self.shared.mood.lock().unwrap() = (Some((partition, mood)), Mood::Willing);
    }

    /// Writes some of what was kept waiting, the oldest first.
    pub(crate) fn acknowledge(&self, records: usize) {
        let appender = self.log.appender(Duration::from_secs(8)).unwrap();
        let mut kept = self.shared.kept.lock().unwrap();
        let records = records.min(kept.len());
        for (record, done) in kept.drain(..records) {
            appender.append(record, done).unwrap();
        }
    }

    /// Becomes willing, and writes what was kept waiting.
    pub(crate) fn relent(&self) {
        self.turn(Mood::Willing);
        let appender = self.log.appender(Duration::from_secs(8)).unwrap();
        for (record, done) in std::mem::take(&mut *self.shared.kept.lock().unwrap()) {
            appender.append(record, done).unwrap();
        }
    }
}

struct BalkyAppender(Box<dyn Appender>, Arc<Shared>);

impl Appender for BalkyAppender {
    fn append(&self, record: NewRecord, done: Done) -> Result<(), LogError> {
        let (one, all) = *self.1.mood.lock().unwrap();
        let one = one.filter(|(partition, _)| record.partition == Some(*partition));
        match one.map_or(all, |(_, mood)| mood) {
            Mood::Willing => self.0.append(record, done),
            Mood::Full => Err(LogError::Full),
            Mood::Silent => {
                self.1.kept.lock().unwrap().push((record, done));
                Ok(())
            }
            Mood::Failing => {
                done(Err(LogError::TimedOut {
                    detail: "no broker".to_owned(),
                }));
                Ok(())
            }
        }
    }
}

impl Log for Balky {
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
        self.log.reader(topic, from, wake)
    }
    fn appender(&self, timeout: Duration) -> Result<Box<dyn Appender>, LogError> {
        let appender = self.log.appender(timeout)?;
        Ok(Box::new(BalkyAppender(appender, self.shared.clone())))
    }
    fn transactor(&self, id: &str, timeout: Duration) -> Result<Box<dyn Transactor>, LogError> {
        self.log.transactor(id, timeout)
    }
}
