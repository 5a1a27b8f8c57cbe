//! What tests of the whole dataflow run on: a log in memory with every topic, and a dataflow over it.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use emostream_dataflow::{
    Config, HEARTBEAT, Limits, Progress, Ready, Stop, StreamsError, TotalsPace, run,
};
use emostream_log::{
    Cleanup, EventClock, Log, NewRecord,
    embedded::EmbeddedLog,
    testing::{self, KEEP, create_topics},
};
use emostream_model::{EmojiNames, Topics, WindowSize};
use prometheus::Registry;

/// A round of reactions begins here, at the start of a window of any usual size.
pub(crate) const T0: u64 = 1_764_000_000_000;

#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Topics,
    pub(crate) partitions: u32,
}

impl Stage {
    pub(crate) fn new(partitions: u32) -> Stage {
        let log = EmbeddedLog::in_memory().unwrap();
        Stage::keeping(Arc::new(log), partitions, KEEP, KEEP)
    }

    /// A stage that keeps its reactions and its finals for that long.
    pub(crate) fn keeping(
        log: Arc<dyn Log>,
        partitions: u32,
        reactions: Cleanup,
        finals: Cleanup,
    ) -> Stage {
        let topics = Topics::default();
        create_topics(
            &*log,
            [
                (topics.reactions(), partitions, reactions),
                (topics.windows(), 2, finals),
                (topics.live(), 2, KEEP),
                (topics.rejected(), 1, KEEP),
                (topics.totals(), 2, Cleanup::Compact),
                // Not compacted here, so that tests can check every record that was written.
                (topics.trending(), 2, KEEP),
                (topics.progress(), 1, Cleanup::Compact),
            ],
        );
        Stage {
            log,
            topics,
            partitions,
        }
    }

    /// Appends records in order and waits until all are stored.
    pub(crate) fn append(&self, records: Vec<NewRecord>) {
        testing::append(&*self.log, records);
    }

    pub(crate) fn reaction_record(
        &self,
        partition: u32,
        time_ms: u64,
        value: Vec<u8>,
    ) -> NewRecord {
        NewRecord {
            partition: Some(partition),
            time_ms: Some(time_ms),
            ..testing::record(self.topics.reactions(), value)
        }
    }

    /// Runs in a thread of its own until the [`Stop`] is requested. `ready` is called as its readiness changes.
    pub(crate) fn launch(
        &self,
        config: Config,
        registry: Registry,
        ready: Ready,
    ) -> (Stop, JoinHandle<Result<(), StreamsError>>) {
        let stop = Stop::default();
        let (log, asked) = (self.log.clone(), stop.clone());
        let running = thread::spawn(move || run(config, log, &registry, asked, ready));
        (stop, running)
    }

    pub(crate) fn values(&self, topic: &str) -> Vec<Vec<u8>> {
        testing::values(&*self.log, topic)
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

/// A configuration with which no partition becomes idle: otherwise the tests would depend on speed.
pub(crate) fn config(topics: &Topics, workers: usize) -> Config {
    Config {
        topics: topics.clone(),
        workers,
        cluster: None,
        window: WindowSize::from_ms(2000).unwrap(),
        lateness_ms: 750,
        idle_timeout: Duration::from_secs(600),
        live: Duration::from_millis(250),
        swarm_size: 1000,
        trending_span: Duration::from_secs(6),
        trending_top: 10,
        emojis: EmojiNames::default(),
        clock: EventClock::host(),
        hold_timeout: Duration::from_secs(60),
        commit_timeout: Duration::from_secs(60),
        standby: false,
        heartbeat: HEARTBEAT,
        takeover: Duration::from_secs(10),
        totals_pace: TotalsPace::default(),
        totals_retention: Duration::from_secs(1 << 40),
        unbounded_timestamps: true,
        limits: Limits::default(),
    }
}
