//! Fixtures of unit tests.

use emostream_log::NewRecord;
use serde::{Deserialize, Serialize};

use crate::{metrics::MetricNames, sink::result::SinkResult, topics::Topics};

pub const METRICS: MetricNames = MetricNames {
    prefix: "app",
    reasons: &["late"],
};

pub fn topics() -> Topics {
    let topic = |name: &str| format!("app.{name}");
    Topics {
        application_id: "app".to_owned(),
        source: topic("source"),
        finals: topic("finals"),
        read_final: |_| None,
        tables: vec![topic("table")],
        updates: topic("updates"),
        rejected: topic("rejected"),
        progress: topic("progress"),
    }
}

/// A final, or a record of a table that has so many bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TestResult {
    Final,
    OfTable(usize),
}

impl SinkResult for TestResult {
    type Encoder = ();

    fn is_final(&self) -> bool {
        *self == TestResult::Final
    }

    fn bytes(&self) -> usize {
        match self {
            TestResult::Final => 100,
            TestResult::OfTable(bytes) => *bytes,
        }
    }

    fn record(&self, (): &()) -> NewRecord {
        let Topics { finals, tables, .. } = topics();
        NewRecord {
            topic: match self {
                TestResult::Final => finals,
                TestResult::OfTable(_) => tables.concat(),
            },
            partition: None,
            time_ms: None,
            key: Some("key".into()),
            value: vec![b'x'; self.bytes()].into(),
            headers: Vec::new(),
        }
    }
}
