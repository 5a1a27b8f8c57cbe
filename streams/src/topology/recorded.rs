//! The recorded calls of a topology.

use std::time::Duration;

use emostream_protocol::WindowSize;

use super::{
    build::{Closed, CountWindows, ResultTopic},
    builder::Sum,
    formats::DecodeCounts,
};
use crate::{
    StreamsError,
    config::{AppConfig, Config, Declarations},
    operators::{records::TableChange, top::TopChange, totals::KeyTotals},
    recovery::restore::{StoredFormat, StoredTop},
    source::format::Format,
    topics::{FinalSummary, Topic, Topics},
};

/// A function that decodes a final result, or a record of totals, with the key and item types of a format.
pub(super) type CountsOf<F> = DecodeCounts<<F as Format>::Key, <F as Format>::Item>;

/// A function that decodes a record of tops, with the key and item types of a format.
pub(super) type DecodeTop<F> =
    fn(&[u8]) -> Option<StoredTop<<F as Format>::Key, <F as Format>::Item>>;

/// A change of a table whose rows have the type `T`.
type Change<F, T> = TableChange<<F as Format>::Key, T>;

/// Totals, with the key and item types of a format.
type TotalsOf<F> = KeyTotals<<F as Format>::Key, <F as Format>::Item>;

/// A top, with the key and item types of a format.
type TopOf<F> = TopChange<<F as Format>::Key, <F as Format>::Item>;

/// The calls of a topology that were recorded so far.
pub(super) struct Recorded<F: Format> {
    pub source: Option<(Topic, F)>,
    pub window: Option<WindowSize>,
    pub windows: Option<Box<dyn CountWindows<F>>>,
    /// The interval and the topic of updates.
    pub updates: Option<(Duration, Topic)>,
    pub finals: Option<DeclaredFinals<F>>,
    pub totals: Option<DeclaredTotals<F>>,
    pub tops: Option<DeclaredTops<F>>,
    /// The name of a declaration that was made twice; `None` if there is none.
    pub repeated: Option<&'static str>,
}

impl<F: Format> Default for Recorded<F> {
    fn default() -> Recorded<F> {
        Recorded {
            source: None,
            window: None,
            windows: None,
            updates: None,
            finals: None,
            totals: None,
            tops: None,
            repeated: None,
        }
    }
}

/// The topic of final results.
pub(super) struct DeclaredFinals<F: Format> {
    pub topic: Topic,
    pub summary: fn(&[u8]) -> Option<FinalSummary>,
    pub counts: Option<CountsOf<F>>,
    pub records: Box<dyn ResultTopic<Closed<F>>>,
}

/// The table of totals.
pub(super) struct DeclaredTotals<F: Format> {
    pub topic: Topic,
    pub sum: Sum,
    pub record_bytes: fn(usize) -> usize,
    pub key: fn(&str) -> Option<F::Key>,
    pub counts: CountsOf<F>,
    pub records: Box<dyn ResultTopic<Change<F, TotalsOf<F>>>>,
}

/// The table of tops in a sliding span.
pub(super) struct DeclaredTops<F: Format> {
    pub topic: Topic,
    pub span: Duration,
    pub top: usize,
    pub decode: DecodeTop<F>,
    pub records: Box<dyn ResultTopic<Change<F, TopOf<F>>>>,
}

/// A complete topology: the required declarations exist, and none was made twice.
pub(super) struct Declared<F: Format> {
    pub source: Topic,
    pub format: F,
    pub window: WindowSize,
    pub windows: Box<dyn CountWindows<F>>,
    /// The interval and the topic of updates.
    pub updates: Option<(Duration, Topic)>,
    pub finals: DeclaredFinals<F>,
    pub totals: Option<DeclaredTotals<F>>,
    pub tops: Option<DeclaredTops<F>>,
}

impl<F: Format> Recorded<F> {
    /// Returns the complete topology, or an error if a declaration is missing or was made twice.
    pub(super) fn complete(self) -> Result<Declared<F>, StreamsError> {
        let defect = |what: String| StreamsError::Worker(format!("the topology {what}"));
        if let Some(repeated) = self.repeated {
            return Err(defect(format!("declares {repeated} twice")));
        }
        let missing = |what: &str| defect(format!("declares no {what}"));
        let (source, format) = self.source.ok_or_else(|| missing("source"))?;
        let window = self.window.ok_or_else(|| missing("window"))?;
        let windows = self.windows.ok_or_else(|| missing("finals"))?;
        let finals = self.finals.ok_or_else(|| missing("topic of finals"))?;
        if (self.totals.is_some() || self.tops.is_some()) && finals.counts.is_none() {
            let what =
                "has a table, but its format of finals cannot restore the table: COUNTS is None";
            return Err(defect(what.to_owned()));
        }
        if let Some(tops) = &self.tops {
            let window_ns = u128::from(window.as_ms()) * 1_000_000;
            if tops.span.is_zero() || !tops.span.as_nanos().is_multiple_of(window_ns) {
                let what = "has a sliding span that is not a whole number of windows";
                return Err(defect(what.to_owned()));
            }
            if tops.top == 0 {
                return Err(defect("has a table of tops with 0 places".to_owned()));
            }
        }
        Ok(Declared {
            source,
            format,
            window,
            windows,
            updates: self.updates,
            finals,
            totals: self.totals,
            tops: self.tops,
        })
    }
}

impl<F: Format> Declared<F> {
    /// Returns the complete configuration of the application.
    pub(super) fn config(&self, app: &AppConfig) -> Result<Config, StreamsError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let declarations = Declarations {
            window: self.window,
            span_ms: self.tops.as_ref().map_or(0, |tops| millis(tops.span)),
            retention_ms: self
                .totals
                .as_ref()
                .map_or(u64::MAX, |totals| millis(totals.sum.retention)),
            totals_period_ms: self.totals.as_ref().map(|totals| totals.sum.pace.period_ms),
        };
        Config::new(app, self.topics(app), declarations)
    }

    fn topics(&self, app: &AppConfig) -> Topics {
        let name = |topic: &Topic| topic.name().to_owned();
        let updates = self.updates.as_ref().map(|(_, topic)| topic);
        let deleted = [&self.source, &self.finals.topic, &app.rejected];
        let deleted = deleted.into_iter().chain(updates);
        Topics {
            application_id: app.application_id.clone(),
            source: name(&self.source),
            finals: name(&self.finals.topic),
            read_final: self.finals.summary,
            totals: self.totals.as_ref().map(|totals| name(&totals.topic)),
            tops: self.tops.as_ref().map(|tops| name(&tops.topic)),
            updates: updates.map(name),
            rejected: name(&app.rejected),
            progress: app.progress.clone(),
            kept: deleted
                .map(|topic| (name(topic), topic.retention()))
                .collect(),
        }
    }

    /// Returns the functions that decode the records from which the tables are restored.
    pub(super) fn stored(&self) -> StoredFormat<F::Key, F::Item> {
        let none = StoredFormat::default();
        let (totals, tops) = (self.totals.as_ref(), self.tops.as_ref());
        StoredFormat {
            key: totals.map_or(none.key, |totals| totals.key),
            finals: self.finals.counts.unwrap_or(none.finals),
            totals: totals.map_or(none.totals, |totals| totals.counts),
            top: tops.map_or(none.top, |tops| tops.decode),
        }
    }
}
