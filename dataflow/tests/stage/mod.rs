//! What tests of the whole dataflow run on: a log in memory with every topic, and a dataflow over it.

use std::{
    sync::{Arc, mpsc::channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use emostream_dataflow::{Config, DataflowError, Progress, Ready, Stop, run};
use emostream_log::{Cleanup, Log, NewRecord, TopicSpec, embedded::EmbeddedLog, read_to_end};
use emostream_model::Topics;
use prometheus::Registry;

/// A round of reactions begins here, at the start of a window of any usual size.
pub(crate) const T0: u64 = 1_764_000_000_000;

/// What has not happened by then will not.
pub(crate) const DEADLINE: Duration = Duration::from_secs(100);

#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Topics,
    pub(crate) partitions: u32,
}

impl Stage {
    pub(crate) fn new(partitions: u32) -> Stage {
        let log = EmbeddedLog::in_memory().unwrap();
        Stage::on(Arc::new(log), partitions, Duration::from_secs(1 << 40))
    }

    /// A stage that keeps its reactions for that long.
    pub(crate) fn on(log: Arc<dyn Log>, partitions: u32, kept: Duration) -> Stage {
        Stage::keeping(log, partitions, kept, Duration::from_secs(1 << 40))
    }

    /// A stage that keeps its reactions and its finals for that long.
    pub(crate) fn keeping(
        log: Arc<dyn Log>,
        partitions: u32,
        kept: Duration,
        finals_kept: Duration,
    ) -> Stage {
        let topics = Topics::default();
        let delete = |after| Cleanup::Delete { after, bytes: None };
        let keep = delete(Duration::from_secs(1 << 40));
        for (name, partitions, cleanup) in [
            (topics.reactions(), partitions, delete(kept)),
            (topics.windows(), 2, delete(finals_kept)),
            (topics.live(), 2, keep),
            (topics.rejected(), 1, keep),
            (topics.totals(), 2, Cleanup::Compact),
            // Not compacted here, so that every record there ever was can be checked.
            (topics.trending(), 2, keep),
            (topics.progress(), 1, Cleanup::Compact),
        ] {
            log.create_topic(&TopicSpec {
                name,
                partitions,
                replication: 1,
                min_in_sync: 1,
                cleanup,
                max_ahead: None,
            })
            .unwrap();
        }
        Stage {
            log,
            topics,
            partitions,
        }
    }

    /// Appends records in order and waits until all are stored.
    pub(crate) fn append(&self, records: Vec<NewRecord>) {
        let appender = self.log.appender(DEADLINE).unwrap();
        let (stored, acks) = channel();
        let count = records.len();
        for record in records {
            let stored = stored.clone();
            appender
                .append(
                    record,
                    Box::new(move |outcome| stored.send(outcome).unwrap()),
                )
                .unwrap();
        }
        for _ in 0..count {
            acks.recv_timeout(DEADLINE).unwrap().unwrap();
        }
    }

    pub(crate) fn reaction_record(
        &self,
        partition: u32,
        time_ms: u64,
        value: Vec<u8>,
    ) -> NewRecord {
        NewRecord {
            topic: self.topics.reactions(),
            partition: Some(partition),
            time_ms: Some(time_ms),
            key: None,
            value: value.into(),
            headers: Vec::new(),
        }
    }

    /// Runs in a thread of its own until the [`Stop`] is requested. `ready` is called as its readiness changes.
    pub(crate) fn launch(
        &self,
        config: Config,
        registry: Registry,
        ready: Ready,
    ) -> (Stop, JoinHandle<Result<(), DataflowError>>) {
        let stop = Stop::default();
        let (log, asked) = (self.log.clone(), stop.clone());
        let running = thread::spawn(move || run(config, log, &registry, asked, ready));
        (stop, running)
    }

    pub(crate) fn values(&self, topic: &str) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        read_to_end(&*self.log, topic, &mut |record| {
            values.push(record.value.to_vec())
        })
        .unwrap();
        values
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        let newest = self.values(&self.topics.progress()).pop()?;
        Some(serde_json::from_slice(&newest).unwrap())
    }

    pub(crate) fn final_until_ms(&self) -> u64 {
        self.progress()
            .map_or(0, |progress| progress.final_until_ms)
    }
}
