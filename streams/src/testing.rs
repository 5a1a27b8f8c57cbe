//! Fixtures of unit tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{sync::Arc, time::Duration};

use emostream_log::{
    EventClock, Log, NewRecord,
    embedded::EmbeddedLog,
    testing::{DEADLINE, KEEP, create_topics},
};
use emostream_protocol::WindowSize;
use prometheus::Registry;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, HEARTBEAT, Limits},
    metrics::Metrics,
    progress::{newest::fence, record::Progress, settings::Settings, stored::progress_record},
    sink::result::{ResultEncoder, SinkResult},
    topics::Topics,
};

/// Metrics of a registry of their own.
pub fn metrics() -> Metrics {
    Metrics::register(&Registry::new(), "app", &["late"]).unwrap()
}

pub fn topics() -> Topics {
    let topic = |name: &str| format!("app.{name}");
    Topics {
        application_id: "app".to_owned(),
        source: topic("source"),
        finals: topic("finals"),
        read_final: |_| None,
        totals: topic("totals"),
        tops: topic("tops"),
        updates: topic("updates"),
        rejected: topic("rejected"),
        progress: topic("progress"),
    }
}

/// A configuration whose times are so long that no test waits for them.
pub fn config() -> Config {
    Config {
        topics: topics(),
        settings: Settings::default().with("lateness_ms", "--lateness (ms)", 750),
        agreed: Vec::new(),
        workers: 1,
        cluster: None,
        window: WindowSize::from_ms(2000).unwrap(),
        lateness_ms: 750,
        idle_timeout: DEADLINE,
        hold_timeout: DEADLINE,
        commit_timeout: DEADLINE,
        standby: false,
        heartbeat: HEARTBEAT,
        takeover: DEADLINE,
        unbounded_timestamps: true,
        finals_needed: Duration::ZERO,
        span_ms: 0,
        retention_ms: u64::MAX,
        limits: Limits::default(),
        clock: EventClock::host(),
    }
}

/// A log with all topics of one partition.
pub fn log() -> Arc<EmbeddedLog> {
    let log = Arc::new(EmbeddedLog::in_memory().unwrap());
    let names = topics();
    let other = [
        &names.source,
        &names.updates,
        &names.rejected,
        &names.progress,
    ];
    let all = names.results().chain(other);
    create_topics(&*log, all.map(|name| (name.clone(), 1, KEEP)));
    log
}

/// Commits the progress, and fences every run by that.
pub fn commit(log: &dyn Log, progress: &Progress) {
    let mut transactor = fence(&topics(), log, DEADLINE).unwrap();
    let record = progress_record(&topics(), progress);
    transactor.commit(vec![record]).unwrap();
}

/// A final, or a record of a table with this number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestResult {
    Final,
    OfTable(usize),
}

impl SinkResult for TestResult {
    fn is_final(&self) -> bool {
        *self == TestResult::Final
    }

    fn bytes(&self) -> usize {
        match self {
            TestResult::Final => 100,
            TestResult::OfTable(bytes) => *bytes,
        }
    }

    fn record(&self) -> NewRecord {
        let Topics { finals, totals, .. } = topics();
        NewRecord {
            topic: match self {
                TestResult::Final => finals,
                TestResult::OfTable(_) => totals,
            },
            partition: None,
            time_ms: None,
            key: Some("key".into()),
            value: vec![b'x'; self.bytes()].into(),
            headers: Vec::new(),
        }
    }
}

/// Encodes results by their own functions.
#[derive(Debug)]
pub struct TestEncoder;

impl ResultEncoder<TestResult> for TestEncoder {
    const IS_FINAL: bool = true;

    fn bytes(&self, result: &TestResult) -> usize {
        result.bytes()
    }

    fn encode(&self, result: &TestResult) -> NewRecord {
        result.record()
    }
}
