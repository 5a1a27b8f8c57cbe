//! Builds the operators of a recorded topology on a worker.

use std::{borrow::Borrow, fmt::Debug, sync::Arc, time::Duration};

use bytes::Bytes;
use emostream_log::{Appender, NewRecord};
use timely::{
    ExchangeData,
    dataflow::{
        StreamVec,
        operators::{probe, vec::Map},
    },
};

use super::{
    builder::{NoUpdates, Updates},
    recorded::Declared,
};
use crate::{
    aggregate::pre_aggregator::PartialCount,
    config::Config,
    metrics::Metrics,
    operators::{
        records::{Records, TableChange, table},
        schedule::ScheduleParams,
        top::{TopParams, sliding_top},
        totals::{Totals, TotalsParams, totals},
        tumbling::{ClosedWindow, LiveTally, WindowParams, tumbling_window},
        updates::write_updates,
    },
    recovery::restore::RestoredTables,
    sink::result::{ResultEncoder, ResultStreams},
    source::format::Format,
    time::timers::Timers,
};

/// The stream of partial counts that the source sends.
pub type Counts<'scope, F> =
    StreamVec<'scope, u64, PartialCount<<F as Format>::Key, <F as Format>::Item>>;

/// A closed window, with the key and item types of a format.
pub(super) type Closed<F> = ClosedWindow<<F as Format>::Key, <F as Format>::Item>;

/// The values with which the operators are built on one worker.
pub struct WorkerContext<K, I> {
    /// The index of the worker among the workers of all processes.
    pub index: usize,
    /// The restored state of the worker.
    pub restored: RestoredTables<K, I>,
    /// The final-until time at the start of the run, Unix milliseconds: every window that ends at or before this time
    /// is final.
    pub final_until_ms: u64,
    /// The number of backward resets so far.
    pub resets: u64,
    /// The retention of final results in the log, milliseconds; `None` if it is unlimited.
    pub finals_kept_ms: Option<u64>,
    /// The probe whose frontier is the time up to which results are committed.
    pub durable: probe::Handle<u64>,
    /// The worker's timers.
    pub timers: Timers,
    /// The appender that writes updates, outside of transactions.
    pub appender: Arc<dyn Appender>,
    /// The metrics of the application.
    pub metrics: Metrics,
}

impl<K, I> WorkerContext<K, I> {
    fn windows(&self, config: &Config, live_interval: Option<Duration>) -> WindowParams {
        let worker = [self.index.to_string()];
        WindowParams {
            size: config.window,
            live_interval,
            max_step_counts: config.run.limits.max_step_counts,
            open_windows: self.metrics.open_windows.with_label_values(&worker),
            timers: self.timers.clone(),
        }
    }
}

/// Counts events in tumbling windows. Each implementation has the type of its updates as a type parameter, so counting
/// an event needs no dynamic call.
pub trait CountWindows<F: Format>: Send + Sync {
    /// Returns the closed windows, and writes updates with the counts of open windows.
    fn closed_windows<'scope>(
        &self,
        counts: Counts<'scope, F>,
        config: &Config,
        worker: &WorkerContext<F::Key, F::Item>,
    ) -> StreamVec<'scope, u64, Closed<F>>;
}

impl<F: Format> CountWindows<F> for NoUpdates {
    fn closed_windows<'scope>(
        &self,
        counts: Counts<'scope, F>,
        config: &Config,
        worker: &WorkerContext<F::Key, F::Item>,
    ) -> StreamVec<'scope, u64, Closed<F>> {
        tumbling_window(counts, worker.windows(config, None), |_| ()).0
    }
}

impl<F: Format, R> CountWindows<F> for Updates<R>
where
    R: Fn(&LiveTally<'_, F::Key, F::Item>) -> Vec<u8> + Clone + Send + Sync + 'static,
{
    fn closed_windows<'scope>(
        &self,
        counts: Counts<'scope, F>,
        config: &Config,
        worker: &WorkerContext<F::Key, F::Item>,
    ) -> StreamVec<'scope, u64, Closed<F>> {
        let windows = worker.windows(config, Some(self.interval));
        let (topic, value) = (self.topic.name().to_owned(), self.value.clone());
        let record = move |tally: LiveTally<'_, F::Key, F::Item>| {
            let key: &str = tally.key.borrow();
            NewRecord {
                topic: topic.clone(),
                partition: None,
                time_ms: Some(tally.emitted_at_ms),
                key: Some(Bytes::copy_from_slice(key.as_bytes())),
                value: value(&tally).into(),
                headers: Vec::new(),
            }
        };
        let (closed, updates) = tumbling_window(counts, windows, record);
        write_updates(updates, worker.appender.clone(), worker.metrics.clone());
        closed
    }
}

/// A topic to which the sink writes results of one type.
pub(super) trait ResultTopic<T>: Send + Sync {
    /// Adds a stream of results to the sink. `resets` is the number of backward resets before this run.
    fn add<'scope>(
        &self,
        stream: StreamVec<'scope, u64, T>,
        resets: u64,
        results: &mut ResultStreams<'scope>,
    );
}

/// A topic, with the format in which its values are written.
pub(super) struct FormattedTopic<V> {
    pub topic: String,
    pub format: V,
}

impl<T, V> ResultTopic<T> for FormattedTopic<V>
where
    T: ExchangeData + Debug + Send,
    V: Clone + Send + Sync + 'static,
    Records<V>: ResultEncoder<T> + Debug,
{
    fn add<'scope>(
        &self,
        stream: StreamVec<'scope, u64, T>,
        resets: u64,
        results: &mut ResultStreams<'scope>,
    ) {
        let records = Records::new(self.topic.as_str(), resets, self.format.clone());
        results.add(stream, records);
    }
}

impl<F: Format> Declared<F> {
    /// Builds the operators between the source and the sink, and adds their results to `results`.
    ///
    /// If there are totals, they mark each final result with which the totals of a key begin at 0. In this case the
    /// marked final results are written.
    pub(super) fn build<'scope>(
        &self,
        config: &Config,
        counts: Counts<'scope, F>,
        worker: WorkerContext<F::Key, F::Item>,
        results: &mut ResultStreams<'scope>,
    ) {
        let resets = worker.resets;
        let max_step_counts = config.run.limits.max_step_counts;
        let mut finals = self.windows.closed_windows(counts, config, &worker);
        let mut of_totals = None;
        if let Some(declared) = &self.totals {
            let params = TotalsParams {
                schedule: ScheduleParams {
                    pace: declared.sum.pace,
                    size: config.window,
                    finals_kept_ms: worker.finals_kept_ms,
                    record_bytes: declared.record_bytes,
                },
                retention_ms: config.retention_ms,
                final_until_ms: worker.final_until_ms,
                resets,
                max_step_counts,
            };
            let built = totals(
                finals,
                worker.restored.totals,
                params,
                worker.durable.clone(),
            );
            let Totals {
                finals: marked,
                records,
                removed,
                unwritten,
            } = built;
            finals = marked;
            results.unwritten = Some(unwritten);
            of_totals = Some((declared, records, removed));
        }
        let of_tops = self.tops.as_ref().map(|declared| {
            let params = TopParams {
                span: config.span(),
                top: declared.top,
                final_until_ms: worker.final_until_ms,
                max_step_counts,
                durable: worker.durable,
            };
            let rows = sliding_top(finals.clone(), worker.restored.sliding, params);
            (declared, rows)
        });
        self.finals.records.add(finals, resets, results);
        let removed = of_totals.map(|(declared, records, removed)| {
            let rows = table(records, removed.clone());
            declared.records.add(rows, resets, results);
            removed
        });
        if let Some((declared, rows)) = of_tops {
            let rows = match removed {
                Some(removed) => table(rows, removed),
                None => rows.map(TableChange::Row),
            };
            declared.records.add(rows, resets, results);
        }
    }
}
