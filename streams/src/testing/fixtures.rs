//! Fixtures of the unit tests of this crate.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::{collections::BTreeMap, sync::Arc};

use emostream_log::{
    Log, NewRecord,
    embedded::EmbeddedLog,
    testing::{DEADLINE, KEEP, create_topics},
};
use emostream_protocol::WindowSize;
use prometheus::Registry;
use serde::{Deserialize, Serialize};

use crate::{
    config::{AppConfig, Config, Declarations, RunConfig},
    metrics::Metrics,
    progress::{newest::fence, record::Progress, settings::Settings, stored::progress_record},
    sink::result::{ResultEncoder, SinkResult},
    topics::Topics,
};

/// Returns metrics with a registry of their own.
pub fn metrics() -> Metrics {
    Metrics::register(&Registry::new(), "app", &["late"]).unwrap()
}

pub fn topics() -> Topics {
    Topics {
        application_id: "app".to_owned(),
        source: "app.source".to_owned(),
        finals: "app.finals".to_owned(),
        read_final: |_| None,
        totals: Some("app.totals".to_owned()),
        tops: None,
        updates: None,
        rejected: "app.rejected".to_owned(),
        progress: "app.progress".to_owned(),
        kept: BTreeMap::new(),
    }
}

/// Returns a configuration whose timeouts are so long that none of them expires during a test.
pub fn config() -> Config {
    let app = AppConfig {
        run: RunConfig {
            idle_timeout: DEADLINE,
            hold_timeout: DEADLINE,
            commit_timeout: DEADLINE,
            takeover: DEADLINE,
            unbounded_timestamps: true,
            ..RunConfig::default()
        },
        ..AppConfig::new("app")
    };
    let declared = Declarations {
        window: WindowSize::from_ms(2000).unwrap(),
        span_ms: 0,
        retention_ms: u64::MAX,
        totals_period_ms: None,
    };
    Config {
        settings: Settings::default().with("lateness_ms", "--lateness (ms)", 750),
        ..Config::new(&app, topics(), declared).unwrap()
    }
}

/// Returns a log with all topics, each with one partition.
pub fn log() -> Arc<EmbeddedLog> {
    let log = Arc::new(EmbeddedLog::in_memory().unwrap());
    create_topics(
        &*log,
        topics().all().into_iter().map(|name| (name, 1, KEEP)),
    );
    log
}

/// Commits `progress` with a new transactor, which fences every run.
pub fn commit(log: &dyn Log, progress: &Progress) {
    let mut transactor = fence(&topics(), log, DEADLINE).unwrap();
    let record = progress_record(&topics(), progress);
    transactor.commit(vec![record]).unwrap();
}

/// A result that a test writes: a final result, or a record of a table with this number of bytes.
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
                TestResult::OfTable(_) => totals.unwrap(),
            },
            partition: None,
            time_ms: None,
            key: Some("key".into()),
            value: vec![b'x'; self.bytes()].into(),
            headers: Vec::new(),
        }
    }
}

/// An encoder that calls the functions of the [`TestResult`] itself.
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
