//! The calls that declare a topology. Each call returns a type that has only the calls that may follow it.

use std::{cell::RefCell, time::Duration};

use emostream_protocol::WindowSize;

use super::{
    build::{CountWindows, FormattedTopic},
    formats::{FinalFormat, TopFormat, TotalsFormat},
    recorded::{DeclaredFinals, DeclaredTops, DeclaredTotals, Recorded},
};
use crate::{
    operators::{schedule::TotalsPace, tumbling::LiveTally},
    source::format::Format,
    topics::Topic,
};

/// Records the calls that declare a topology. The [module](super) has an example.
///
/// One source, one window and one table of each kind may be declared.
pub struct Topology<F: Format> {
    recorded: RefCell<Recorded<F>>,
}

impl<F: Format> Default for Topology<F> {
    fn default() -> Topology<F> {
        Topology {
            recorded: RefCell::default(),
        }
    }
}

impl<F: Format> Topology<F> {
    /// Declares the source: the events that `format` decodes from the records of a topic.
    pub fn source(&self, topic: impl Into<Topic>, format: F) -> Events<'_, F> {
        self.declare("a source", |it| &mut it.source, (topic.into(), format));
        Events { topology: self }
    }

    /// Returns the recorded calls.
    pub(super) fn into_recorded(self) -> Recorded<F> {
        self.recorded.into_inner()
    }

    fn declare<T>(
        &self,
        what: &'static str,
        slot: impl FnOnce(&mut Recorded<F>) -> &mut Option<T>,
        value: T,
    ) {
        let mut recorded = self.recorded.borrow_mut();
        if slot(&mut recorded).replace(value).is_some() {
            recorded.repeated = Some(what);
        }
    }
}

/// The events of the source.
pub struct Events<'t, F: Format> {
    topology: &'t Topology<F>,
}

impl<'t, F: Format> Events<'t, F> {
    /// Groups the events by [`Format::Key`]. One worker computes all results of a key. Each worker counts the events
    /// that it reads, and sends only the counts to the worker of their key.
    pub fn group_by_key(self) -> GroupedEvents<'t, F> {
        GroupedEvents {
            topology: self.topology,
        }
    }
}

/// Events, grouped by key.
pub struct GroupedEvents<'t, F: Format> {
    topology: &'t Topology<F>,
}

/// Windows of one size, which follow one another without gaps and do not overlap.
#[derive(Debug, Clone, Copy)]
pub struct Tumbling(WindowSize);

impl Tumbling {
    /// Returns windows of this size.
    pub fn of(size: WindowSize) -> Tumbling {
        Tumbling(size)
    }
}

impl<'t, F: Format> GroupedEvents<'t, F> {
    /// Groups the events of each key by the window that contains their time.
    pub fn window(self, windows: Tumbling) -> WindowedEvents<'t, F> {
        let topology = self.topology;
        topology.declare("a window", |it| &mut it.window, windows.0);
        WindowedEvents { topology }
    }
}

/// Events, grouped by key and window.
pub struct WindowedEvents<'t, F: Format> {
    topology: &'t Topology<F>,
}

impl<'t, F: Format> WindowedEvents<'t, F> {
    /// Counts the events of each [`Format::Item`].
    pub fn count_by_item(self) -> WindowCounts<'t, F> {
        WindowCounts {
            topology: self.topology,
            updates: NoUpdates,
        }
    }
}

/// The counts of each key and window.
pub struct WindowCounts<'t, F: Format, U = NoUpdates> {
    topology: &'t Topology<F>,
    updates: U,
}

/// The marker for a topology that does not write the counts of open windows.
#[derive(Debug, Clone, Copy)]
pub struct NoUpdates;

/// The topic to which the counts of open windows are written.
#[derive(Debug)]
pub struct Updates<R> {
    pub(super) interval: Duration,
    pub(super) topic: Topic,
    /// Encodes the value of a record.
    pub(super) value: R,
}

impl<'t, F: Format> WindowCounts<'t, F> {
    /// Writes the counts of open windows to a topic: for each key, at most once in `interval`, and only if they have
    /// changed. `value` encodes the value of a record. Updates are written outside of transactions, so an update may be
    /// lost but is never written twice.
    pub fn updates<R>(
        self,
        interval: Duration,
        topic: impl Into<Topic>,
        value: R,
    ) -> WindowCounts<'t, F, Updates<R>>
    where
        R: Fn(&LiveTally<'_, F::Key, F::Item>) -> Vec<u8> + Clone + Send + Sync + 'static,
    {
        let (topology, topic) = (self.topology, topic.into());
        let declared = (interval, topic.clone());
        topology.declare("updates", |it| &mut it.updates, declared);
        WindowCounts {
            topology,
            updates: Updates {
                interval,
                topic,
                value,
            },
        }
    }
}

impl<'t, F: Format, U: CountWindows<F> + 'static> WindowCounts<'t, F, U> {
    /// Returns the final results: the counts of each window, once, when the window has closed. A window closes when the
    /// watermarks of all partitions have passed its end (Kafka Streams: `suppress(untilWindowCloses)`).
    pub fn finals(self) -> Finals<'t, F> {
        let topology = self.topology;
        let windows: Box<dyn CountWindows<F>> = Box::new(self.updates);
        topology.declare("finals", |it| &mut it.windows, windows);
        Finals { topology }
    }
}

/// The counts of closed windows.
pub struct Finals<'t, F: Format> {
    topology: &'t Topology<F>,
}

/// Sums of the counts in final results.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    /// If a key has no final result for longer than this, in event time, the key is removed, and its sums begin at 0
    /// with its next final result. At least the span of a sliding window over the same final results.
    pub retention: Duration,
    /// The settings that determine how often the records of keys with many items are written.
    pub pace: TotalsPace,
}

impl Default for Sum {
    /// Returns sums of keys that are never removed.
    fn default() -> Sum {
        Sum {
            retention: Duration::MAX,
            pace: TotalsPace::default(),
        }
    }
}

impl<'t, F: Format> Finals<'t, F> {
    /// Writes the final results to a topic, exactly once.
    pub fn to<V: FinalFormat<F::Key, F::Item>>(&self, topic: impl Into<Topic>, format: V) {
        let topic = topic.into();
        let finals = DeclaredFinals {
            summary: V::summary,
            counts: V::COUNTS,
            records: Box::new(FormattedTopic {
                topic: topic.name().to_owned(),
                format,
            }),
            topic,
        };
        let topology = self.topology;
        topology.declare("a topic of finals", |it| &mut it.finals, finals);
    }

    /// Adds the counts of each key and item to their totals.
    pub fn accumulate(&self, sum: Sum) -> Accumulated<'t, F> {
        Accumulated {
            topology: self.topology,
            sum,
        }
    }

    /// Sums the counts of each key and item in a span that slides by one window. The span is a whole number of windows.
    pub fn sliding(&self, span: Duration) -> Sliding<'t, F> {
        Sliding {
            topology: self.topology,
            span,
        }
    }
}

/// Totals of each key and item.
#[must_use = "without a call of `table`, nothing is written"]
pub struct Accumulated<'t, F: Format> {
    topology: &'t Topology<F>,
    sum: Sum,
}

impl<F: Format> Accumulated<'_, F> {
    /// Writes the totals of a key to a compacted topic when they change, exactly once. When a run starts, it restores
    /// the totals from this topic.
    pub fn to_table<V: TotalsFormat<F::Key, F::Item>>(self, topic: impl Into<Topic>, format: V) {
        let topic = topic.into();
        let totals = DeclaredTotals {
            sum: self.sum,
            record_bytes: V::record_bytes,
            key: V::key,
            counts: V::counts,
            records: Box::new(FormattedTopic {
                topic: topic.name().to_owned(),
                format,
            }),
            topic,
        };
        let topology = self.topology;
        topology.declare("a table of totals", |it| &mut it.totals, totals);
    }
}

/// Counts of each key and item in a sliding span.
#[must_use = "without a call of `table`, nothing is written"]
pub struct Sliding<'t, F: Format> {
    topology: &'t Topology<F>,
    span: Duration,
}

impl<'t, F: Format> Sliding<'t, F> {
    /// Selects the greatest counts: the top items of each key, and the top items and keys over all keys. The top over
    /// all keys is in the record with the key [`ALL_KEYS`](crate::operators::top::ALL_KEYS).
    pub fn top(self, most: usize) -> Tops<'t, F> {
        Tops {
            topology: self.topology,
            span: self.span,
            most,
        }
    }
}

/// The greatest counts in a sliding span.
#[must_use = "without a call of `table`, nothing is written"]
pub struct Tops<'t, F: Format> {
    topology: &'t Topology<F>,
    span: Duration,
    most: usize,
}

impl<F: Format> Tops<'_, F> {
    /// Writes a top to a compacted topic when it changes, exactly once.
    pub fn to_table<V: TopFormat<F::Key, F::Item>>(self, topic: impl Into<Topic>, format: V) {
        let topic = topic.into();
        let tops = DeclaredTops {
            span: self.span,
            top: self.most,
            decode: V::top,
            records: Box::new(FormattedTopic {
                topic: topic.name().to_owned(),
                format,
            }),
            topic,
        };
        let topology = self.topology;
        topology.declare("a table of tops", |it| &mut it.tops, tops);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use emostream_log::{Cleanup, Record};

    use super::*;
    use crate::{
        StreamsError,
        aggregate::pre_aggregator::{Event, InternedKeys},
        config::{AppConfig, Config},
        operators::records::ValueFormat,
        recovery::restore::{StoredCounts, StoredTop},
        source::format::RecordTimes,
        topics::FinalSummary,
        topology::{Application, JsonFinals, formats::DecodeCounts},
    };

    #[derive(Clone)]
    struct Nothing;

    impl Format for Nothing {
        type Key = String;
        type Item = u16;

        fn decode(
            &self,
            _: Record<'_>,
            _: &mut InternedKeys<String>,
            _: &mut Vec<Event<u16>>,
        ) -> Option<RecordTimes> {
            None
        }
    }

    #[derive(Debug, Clone)]
    struct Table;

    impl<T> ValueFormat<T> for Table {
        fn bytes(&self, _: &T) -> usize {
            0
        }

        fn encode(&self, _: &T) -> Vec<u8> {
            Vec::new()
        }
    }

    impl TotalsFormat<String, u16> for Table {
        fn record_bytes(_: usize) -> usize {
            0
        }

        fn key(text: &str) -> Option<String> {
            Some(text.to_owned())
        }

        fn counts(_: &[u8]) -> Option<StoredCounts<String, u16>> {
            None
        }
    }

    impl FinalFormat<String, u16> for Table {
        fn summary(_: &[u8]) -> Option<FinalSummary> {
            None
        }

        const COUNTS: Option<DecodeCounts<String, u16>> = Some(|_| None);
    }

    impl TopFormat<String, u16> for Table {
        fn top(_: &[u8]) -> Option<StoredTop<String, u16>> {
            None
        }
    }

    fn finals(t: &Topology<Nothing>) -> Finals<'_, Nothing> {
        t.source(Topic::new("events").kept(Duration::from_secs(60)), Nothing)
            .group_by_key()
            .window(Tumbling::of(WindowSize::from_ms(2000).unwrap()))
            .count_by_item()
            .updates(Duration::from_secs(1), "updates", |_| Vec::new())
            .finals()
    }

    fn all(t: &Topology<Nothing>) {
        let finals = finals(t);
        finals.to("finals", Table);
        let retention = Duration::from_secs(600);
        let sum = Sum {
            retention,
            ..Sum::default()
        };
        finals.accumulate(sum).to_table("totals", Table);
        let trending = finals.sliding(Duration::from_secs(60)).top(10);
        trending.to_table("tops", Table);
    }

    fn app(topology: fn(&Topology<Nothing>)) -> Result<Application<Nothing>, StreamsError> {
        Application::new(AppConfig::new("app"), topology)
    }

    fn config(topology: fn(&Topology<Nothing>)) -> Config {
        app(topology).unwrap().config().clone()
    }

    const TOPICS: [&str; 7] = [
        "events",
        "finals",
        "totals",
        "tops",
        "updates",
        "app.rejected",
        "app.progress",
    ];

    #[test]
    fn all_topics_are_those_of_the_calls() {
        let app = app(all).unwrap();
        let topics = &app.config().topics;
        assert_eq!(topics.all(), TOPICS);
        let described = app.describe();
        for topic in TOPICS {
            assert!(described.contains(topic), "{described}");
        }
        let kept = |cleanup| match cleanup {
            Cleanup::Delete { after, .. } => Some(after.as_secs()),
            _ => None,
        };
        let specs = topics.specs(8, 3).into_iter();
        let specs: Vec<_> = specs
            .map(|it| (kept(it.cleanup), it.partitions, it.max_ahead.is_some()))
            .collect();
        let week = Some(7 * 24 * 3600);
        assert_eq!(
            specs,
            [
                (Some(60), 8, true),
                (week, 8, false),
                (None, 8, false),
                (None, 8, false),
                (week, 8, false),
                (week, 8, false),
                (None, 1, false)
            ]
        );
    }

    #[test]
    fn finals_are_needed_for_as_long_as_the_tables_of_the_calls_need_them() {
        let needed = |topology| config(topology).finals_needed.as_millis();
        let open_ms = 2000 + 750 + 60_000;
        assert_eq!(needed(all), 2 * (120_000 + open_ms));
        assert_eq!(needed(|t| finals(t).to("finals", JsonFinals::Events)), 0);
        assert_eq!(
            needed(|t| {
                let finals = finals(t);
                finals.to("finals", Table);
                let tops = finals.sliding(Duration::from_secs(60)).top(1);
                tops.to_table("tops", Table);
            }),
            60_000 + open_ms
        );
    }

    #[test]
    fn a_topology_that_is_not_complete_or_repeats_a_call_is_an_error() {
        let error = |topology| app(topology).unwrap_err().to_string();
        assert!(error(|_| ()).contains("declares no source"));
        let no_topic = error(|t| {
            finals(t);
        });
        assert!(no_topic.contains("declares no topic of finals"));
        let no_counts = error(|t| {
            let finals = finals(t);
            finals.to("finals", JsonFinals::Events);
            finals.accumulate(Sum::default()).to_table("totals", Table);
        });
        assert!(
            no_counts.contains("cannot restore the table"),
            "{no_counts}"
        );
        let tops = |span_ms, most| {
            Application::new(AppConfig::new("app"), move |t: &Topology<Nothing>| {
                let finals = finals(t);
                finals.to("finals", Table);
                let sliding = finals.sliding(Duration::from_millis(span_ms));
                sliding.top(most).to_table("tops", Table);
            })
            .map(|_| ())
        };
        assert!(tops(2000, 1).is_ok());
        for (span_ms, most) in [(0, 1), (1000, 1), (3000, 1), (2000, 0)] {
            assert!(tops(span_ms, most).is_err(), "{span_ms} {most}");
        }
        let one_topic = error(|t| finals(t).to("events", Table));
        assert!(one_topic.contains("the topic events twice"), "{one_topic}");
        let twice = error(|t| {
            all(t);
            finals(t);
        });
        assert!(twice.contains("twice"), "{twice}");
        let short = error(|t| {
            let finals = finals(t);
            finals.to("finals", Table);
            let sum = Sum {
                retention: Duration::from_secs(59),
                ..Sum::default()
            };
            finals.accumulate(sum).to_table("totals", Table);
            finals
                .sliding(Duration::from_secs(60))
                .top(1)
                .to_table("tops", Table);
        });
        assert!(short.contains("must not be shorter"), "{short}");
    }
}
