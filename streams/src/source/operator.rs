//! The source operator: reads the partitions of a worker, counts their events, and advances the frontier.
//!
//! ```text
//!              ┌── feedback: statuses of all partitions, durable rejections ◀───────┐
//!              ▼                                                                    │
//!  log ─▶ partitions ─▶ classify, count ─┬▶ partial counts, at the last instant of their window
//!   ▲                                    └▶ rejected records and marks, at the worker's frontier
//!   └─ requests for end offsets: may the frontier pass over a quiet partition?
//! ```
//!
//! Invariants:
//! - The worker's capability never passes a window for which one of the worker's partitions can still send events. If a
//!   partition is quiet, the capability advances without it as far as [`crate::time::idleness`] allows.
//! - The frontier does not advance until every partition is read up to the committed offset of the previous run.
//!   Otherwise a commit could contain a smaller committed offset than the previous commit, or a later final-until time
//!   than a rejection allows that must be written again. No timeout ends this wait.
//! - A record that is ahead of this host's clock is not read yet, and its partition holds the frontier back.
//! - A rejection is sent before the first mark whose committed offset is greater than the offset of the rejected
//!   record. So no commit contains that committed offset without the rejection.
//! - A partition with too many unwritten rejections is paused until some of them are written; see
//!   [`crate::sink::rejections`].
//! - A partition is read ahead of the durable frontier as far as [`super::read_ahead`] allows.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_log::{LogError, Reader, Wake};
use prometheus::Gauge;
use serde::{Deserialize, Serialize};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        Scope, StreamVec,
        channels::pact::Pipeline,
        operators::{
            Capability,
            generic::{OutputBuilder, OutputBuilderSession, builder_rc::OperatorBuilder},
            probe,
        },
    },
    scheduling::{Activator, SyncActivator},
};

use super::{
    end_offsets::EndOffsetRequests,
    format::Format,
    instances::Instances,
    partition::{PartitionReading, Read, ReadingTime, Rules},
    read_ahead::{ReadAhead, ReadPosition},
};
use crate::{
    Stop, StreamsError,
    aggregate::pre_aggregator::{PartialCount, PreAggregator},
    metrics::Metrics,
    sink::{
        operator::{Notice, RejectionsCommitted},
        rejections::{Rejected, Unwritten},
    },
    time::{
        clock::{GroupClock, PartitionStatus, PartitionUpdate},
        holds::{AheadRecord, Holds, Impediment},
        idleness::{IdleTimeouts, Idleness, Passage},
        timers::Timers,
    },
};

/// Maximum number of records that are polled from a partition before the next partition is polled.
const POLL_RECORDS: usize = 1000;

/// The number of events that a poll should read. One record may contain tens of thousands of events, and the counts of
/// all events of a poll are sent before the next poll.
const POLL_EVENTS: u64 = 50_000;

/// Maximum number of records of a poll while records are rejected, since rejected records may be very large.
const POLL_REJECTED_RECORDS: usize = 16;

/// Interval at which the worker checks whether a partition has become quiet, or is not held any more.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// If the next record of a partition is ahead of this host's clock, the partition waits. A wait is reported only if it
/// is longer than this, since clocks always differ a little.
const AHEAD_REPORTED_AFTER: Duration = Duration::from_secs(1);

/// Wakes the source of a worker from any thread. If the source is woken several times before it runs, it is activated
/// only once.
#[derive(Clone, Default)]
pub struct SourceWaker(Arc<(AtomicBool, OnceLock<SyncActivator>)>);

impl SourceWaker {
    /// Returns the function by which the log wakes the source.
    pub fn wake(&self) -> Wake {
        let waker = self.clone();
        Arc::new(move || {
            let (woken, activator) = &*waker.0;
            if !woken.swap(true, Ordering::AcqRel)
                && let Some(activator) = activator.get()
            {
                // The call fails only if the worker has ended.
                let _ = activator.activate();
            }
        })
    }

    fn set_activator(&self, activator: SyncActivator) {
        // A wake-up before this call has no effect, and is not needed: the operator is scheduled once at the start.
        let _ = self.0.1.set(activator);
    }

    fn reset(&self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// The values with which a source starts.
pub struct SourceContext<F: Format> {
    /// The partitions of the worker.
    pub partitions: Vec<PartitionReading>,
    /// The watermarks and statuses of all partitions, as this worker knows them.
    pub group: GroupClock,
    /// The reader of the worker's partitions.
    pub reader: Box<dyn Reader>,
    /// Wakes the source when the reader has records, or an end offset has arrived.
    pub waker: SourceWaker,
    /// The final-until time at the start of the run.
    pub final_until_ms: u64,
    /// The rules by which events are classified and counted.
    pub rules: Rules<F>,
    /// The idle timeout and the hold timeout.
    pub timeouts: IdleTimeouts,
    /// The partitions that were idle when the previous run committed its progress.
    pub idle: Vec<u32>,
    /// The requester of end offsets.
    pub end_offsets: Box<dyn EndOffsetRequests>,
    /// Reports partitions that are held.
    pub holds: Arc<Holds>,
    /// The timers of the worker.
    pub timers: Timers,
    /// The probe of the durable frontier.
    pub durable: probe::Handle<u64>,
    /// For each partition, the offset of the next record to be read. The lag is measured from it.
    pub positions: Arc<Vec<AtomicU64>>,
    /// Maximum bytes of the rejections of one partition that are not written yet.
    pub max_unwritten_bytes: usize,
    /// The metrics of the application.
    pub metrics: Metrics,
    /// Stores a failure of the log, which stops the run.
    pub stop: Stop,
}

/// A message that the source receives from the feedback loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceFeedback {
    /// The status of a partition, which the worker sends that reads the partition.
    Partition(PartitionUpdate),
    /// A notice that rejections are durable.
    RejectionsCommitted(RejectionsCommitted),
}

/// The outputs of a source.
pub struct SourceStreams<'scope, F: Format> {
    /// Partial counts.
    pub counts: StreamVec<'scope, u64, PartialCount<F::Key, F::Item>>,
    /// Rejected records, and marks of progress.
    pub notices: StreamVec<'scope, u64, Notice>,
    /// Statuses of this worker's partitions, for all workers.
    pub updates: StreamVec<'scope, u64, PartitionUpdate>,
    /// Schedules the source again.
    pub activator: Activator,
}

type Output<'a, D> = OutputBuilderSession<'a, u64, CapacityContainerBuilder<Vec<D>>>;

/// Builds the source of one worker.
pub fn source<'scope, F: Format>(
    scope: Scope<'scope, u64>,
    feedback: StreamVec<'scope, u64, SourceFeedback>,
    start: SourceContext<F>,
) -> SourceStreams<'scope, F> {
    let mut builder = OperatorBuilder::new("read".to_owned(), scope);
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    start
        .waker
        .set_activator(scope.worker().sync_activator_for(address.to_vec()));
    // The feedback input is not connected to the outputs, so it never holds back the frontiers of the outputs.
    let mut feedback_input = builder.new_input_connection(feedback, Pipeline, []);
    let (counts, counts_stream) = builder.new_output_connection([]);
    let (notices, notices_stream) = builder.new_output_connection([]);
    let (updates, updates_stream) = builder.new_output_connection([]);
    let mut counts = OutputBuilder::from(counts);
    let mut notices = OutputBuilder::from(notices);
    let mut updates = OutputBuilder::from(updates);
    let again = activator.clone();
    builder.build(move |capabilities| {
        let mut source = Source::new(start, capabilities);
        move |_| {
            let Some(source) = &mut source else {
                feedback_input.for_each(|_, _| {});
                return;
            };
            source.start.waker.reset();
            feedback_input.for_each(|_, data| {
                for feedback in data.drain(..) {
                    source.on_feedback(feedback);
                }
            });
            let mut outputs = Outputs {
                counts: counts.activate(),
                notices: notices.activate(),
                updates: updates.activate(),
            };
            let now = source.start.timers.now();
            match source.run(now, &mut outputs) {
                Ok(Next::Now) => again.activate(),
                Ok(Next::At(time)) => source.start.timers.at(time, again.clone()),
                Ok(Next::WhenWoken) => {}
                Err(error) => source.start.stop.fail(StreamsError::Log(error)),
            }
        }
    });
    SourceStreams {
        counts: counts_stream,
        notices: notices_stream,
        updates: updates_stream,
        activator,
    }
}

struct Outputs<'a, F: Format> {
    counts: Output<'a, PartialCount<F::Key, F::Item>>,
    notices: Output<'a, Notice>,
    updates: Output<'a, PartitionUpdate>,
}

/// The next time at which the source must run even if no record arrives.
enum Next {
    Now,
    At(Instant),
    WhenWoken,
}

struct Source<F: Format> {
    start: SourceContext<F>,
    own: Vec<OwnPartition>,
    aggregate: PreAggregator<F::Key, F::Item>,
    rejected: Vec<Rejected>,
    read_ahead: ReadAhead,
    instances: Instances,
    counts: Capability<u64>,
    notices: Capability<u64>,
    /// The capability of the updates. It is never downgraded, since statuses have no time.
    updates: Capability<u64>,
    check_idle: Instant,
}

struct OwnPartition {
    partition: u32,
    reading: PartitionReading,
    idleness: Idleness,
    /// If the next record is ahead of this host's clock: its offset and time, and the time at which it was first
    /// polled.
    ahead: Option<(AheadRecord, Instant)>,
    watermark: Gauge,
    unwritten: Unwritten,
    /// Maximum number of records of the next poll.
    poll_records: usize,
}

/// Returns the maximum number of records of the next poll. The last poll had the maximum `limit`, and has read
/// `records` records with `events` events. The new maximum is at most twice `limit`, since the next records may contain
/// more events.
fn next_poll(records: usize, events: u64, limit: usize) -> usize {
    let most = match events {
        0 => POLL_RECORDS,
        _ => (records as u64 * POLL_EVENTS / events) as usize,
    };
    most.clamp(1, POLL_RECORDS).min(limit * 2)
}

impl OwnPartition {
    /// Whether the partition still reads records below the committed offset of the previous run.
    fn reads_again(&self, reader: &dyn Reader) -> bool {
        reader.position(self.partition) < self.reading.settled_offset()
    }

    /// Returns the status of the partition for the other workers.
    fn status(&self, now: Instant) -> PartitionStatus {
        let clock = self.reading.clock();
        PartitionStatus {
            watermark_ms: clock.watermark_ms(),
            newest_ms: clock.newest_ms(),
            quiet: self.idleness.is_quiet(now),
            held: self.idleness.is_held() || self.ahead.is_some(),
        }
    }

    /// Returns the reason why the partition holds back the frontier or is behind; `None` if it does neither.
    fn impediment(&self, now: Instant) -> Option<Impediment> {
        let ahead = self
            .ahead
            .filter(|(_, since)| now >= *since + AHEAD_REPORTED_AFTER);
        ahead
            .map(|(record, _)| Impediment::Ahead(record))
            .or_else(|| self.idleness.held().map(Impediment::Held))
            .or_else(|| self.idleness.released().map(Impediment::Behind))
    }
}

impl<F: Format> Source<F> {
    /// Creates the state of a source. Returns `None` for a worker without partitions. Its capabilities are dropped, so
    /// that they do not hold back the frontier.
    fn new(mut start: SourceContext<F>, capabilities: Vec<Capability<u64>>) -> Option<Source<F>> {
        let mut capabilities = capabilities.into_iter();
        let (mut counts, mut notices) = (capabilities.next()?, capabilities.next()?);
        let updates = capabilities.next()?;
        let now = start.timers.now();
        let own: Vec<OwnPartition> = std::mem::take(&mut start.partitions)
            .into_iter()
            .map(|reading| OwnPartition {
                watermark: start
                    .metrics
                    .watermark
                    .with_label_values(&[reading.partition().to_string()]),
                partition: reading.partition(),
                idleness: Idleness::new(
                    start.timeouts,
                    now,
                    reading.settled_offset(),
                    start.idle.contains(&reading.partition()),
                ),
                reading,
                ahead: None,
                unwritten: Unwritten::new(start.max_unwritten_bytes),
                poll_records: POLL_REJECTED_RECORDS,
            })
            .collect();
        if own.is_empty() {
            return None;
        }
        counts.downgrade(&start.final_until_ms);
        notices.downgrade(&start.final_until_ms);
        let IdleTimeouts { idle, hold } = start.timeouts;
        Some(Source {
            read_ahead: ReadAhead::new(start.rules.size, idle, hold),
            instances: Instances::new(start.rules.lateness_ms),
            start,
            own,
            aggregate: PreAggregator::default(),
            rejected: Vec::new(),
            counts,
            notices,
            updates,
            check_idle: now,
        })
    }

    fn on_feedback(&mut self, feedback: SourceFeedback) {
        match feedback {
            SourceFeedback::Partition(update) => {
                self.start.group.apply(update);
            }
            SourceFeedback::RejectionsCommitted(RejectionsCommitted { partition, bytes }) => {
                let own = self.own.iter_mut().find(|own| own.partition == partition);
                if let Some(own) = own {
                    own.unwritten.written(bytes);
                }
            }
        }
    }

    fn run(&mut self, now: Instant, outputs: &mut Outputs<'_, F>) -> Result<Next, LogError> {
        let now_ms = self.start.timers.unix_time().as_millis() as u64;
        let more = self.read(now, now_ms)?;
        self.send(outputs);
        self.apply_answers(now);
        self.report(now, outputs);
        self.advance(now, now_ms, outputs);
        if more {
            return Ok(Next::Now);
        }
        // The source has only one timer at a time: it sets the next timer after the current one has fired.
        if now < self.check_idle {
            return Ok(Next::WhenWoken);
        }
        self.check_idle = now + IDLE_CHECK;
        Ok(Next::At(self.check_idle))
    }

    /// Polls every partition that is not read too far ahead. Returns whether a partition may have more records.
    fn read(&mut self, now: Instant, now_ms: u64) -> Result<bool, LogError> {
        let closed_until_ms = *self.counts.time();
        let durable = self.start.durable.with_frontier(|f| f.first().copied());
        let time = ReadingTime {
            closed_until_ms,
            final_until_ms: durable.unwrap_or(0),
            now_ms,
        };
        let mut read_position = ReadPosition {
            watermark_ms: 0,
            lowest_ms: self.start.group.lowest_watermark_ms(),
            durable_ms: durable.unwrap_or(closed_until_ms),
            holding: self.start.group.is_holding(),
        };
        self.read_ahead.release(read_position.durable_ms);
        let mut more = false;
        for own in &mut self.own {
            read_position.watermark_ms = own.reading.clock().watermark_ms();
            // Rejections of events in later windows are written only after the frontier has advanced. The frontier may
            // wait for this partition, so such rejections must not pause the partition.
            let passed_ms = read_position.watermark_ms.max(read_position.durable_ms);
            let full = own.unwritten.is_full(passed_ms);
            // Below the committed offset the limits do not apply: the previous run has read these records within its
            // limits, and the frontier waits until they are read.
            if !own.reads_again(&*self.start.reader)
                && (full || !self.read_ahead.allows(read_position))
            {
                own.idleness.on_paused(now);
                continue;
            }
            let mut read = Read::default();
            let mut bytes = 0;
            let mut ahead = None;
            let before = self.rejected.len();
            let (aggregate, rejected) = (&mut self.aggregate, &mut self.rejected);
            let (reading, rules) = (&mut own.reading, &self.start.rules);
            let instances = &mut self.instances;
            let records =
                self.start
                    .reader
                    .poll_while(own.partition, own.poll_records, &mut |record| {
                        bytes += record.value.len() as u64;
                        match reading.read(record, rules, time, aggregate, rejected) {
                            Ok(of_record) => {
                            read += of_record;
                            let behind_ms = reading.behind_ms();
                            if let Some(instance) = instances.observe(now, behind_ms, record.headers) {
                                tracing::warn!(
                                    "the clock of producer {instance} is {behind_ms} ms behind the others, more \
                                     than --lateness: its events are late; synchronise that clock"
                                );
                            }
                        }
                            Err(record) => ahead = Some(record),
                        }
                        ahead.is_none()
                    })?;
            let rejected = &self.rejected[before..];
            own.unwritten.sent(rejected);
            own.poll_records = match rejected.len() {
                0 => next_poll(records, read.counted, own.poll_records),
                _ => POLL_REJECTED_RECORDS,
            };
            self.start.metrics.events.inc_by(read.counted);
            self.start.metrics.late.inc_by(read.late);
            self.read_ahead
                .add(own.reading.clock().watermark_ms(), bytes);
            let position = self.start.reader.position(own.partition);
            let since = own.ahead.take().map_or(now, |(_, since)| since);
            own.ahead = ahead.map(|record| (record, since));
            if own.ahead.is_some() {
                own.idleness.on_paused(now);
            } else if records > 0 {
                own.idleness.on_records(now, position);
            }
            // The source must poll until there are no more records: the log does not wake the source for records that a
            // poll did not return.
            more |= records > 0;
            if let Some(seen) = self.start.positions.get(own.partition as usize) {
                seen.store(position, Ordering::Relaxed);
            }
        }
        Ok(more)
    }

    /// Applies the answers to requests of end offsets.
    fn apply_answers(&mut self, now: Instant) {
        while let Some((partition, ends)) = self.start.end_offsets.answer() {
            let position = self.start.reader.position(partition);
            let own = self.own.iter_mut().find(|own| own.partition == partition);
            if let Some(own) = own {
                own.idleness.on_answer(now, position, ends);
            }
        }
    }

    /// Sends partial counts, at the last instant of their window, and rejections, at the worker's frontier.
    fn send(&mut self, outputs: &mut Outputs<'_, F>) {
        let Source {
            aggregate, counts, ..
        } = self;
        aggregate.drain(
            |time_ms, of_window: &mut dyn Iterator<Item = (F::Key, F::Item, u64)>| {
                let at = counts.delayed(&time_ms);
                let partial = |(key, item, count)| PartialCount {
                    time_ms,
                    key,
                    item,
                    count,
                };
                outputs
                    .counts
                    .session(&at)
                    .give_iterator(of_window.map(partial));
            },
        );
        let rejected = self.rejected.drain(..).map(Notice::Rejected);
        outputs
            .notices
            .session(&self.notices)
            .give_iterator(rejected);
    }

    /// Sends the statuses of this worker's partitions that have changed to all workers, and reports the partitions that
    /// are held or behind.
    fn report(&mut self, now: Instant, outputs: &mut Outputs<'_, F>) {
        for own in &self.own {
            let update = PartitionUpdate {
                partition: own.partition,
                status: own.status(now),
            };
            if self.start.group.apply(update) {
                own.watermark
                    .set(update.status.watermark_ms as f64 / 1000.0);
                outputs.updates.session(&self.updates).give(update);
            }
            self.start.holds.report(own.partition, own.impediment(now));
        }
    }

    /// Advances the frontier as far as the watermarks and the quiet partitions allow, and sends marks of progress.
    /// Requests the end offsets that are needed to advance without quiet partitions.
    fn advance(&mut self, now: Instant, now_ms: u64, outputs: &mut Outputs<'_, F>) {
        let from_ms = *self.counts.time();
        let mut to_ms = self.start.group.frontier_ms(now_ms);
        let wanted_ms = self.start.group.frontier_without_holds_ms(now_ms);
        for own in &mut self.own {
            // End offsets are requested even while the frontier does not advance, since a partition whose hold timeout
            // has passed may be read to its end by now.
            let wants = own
                .idleness
                .wants_request(now, to_ms.max(from_ms), wanted_ms);
            if wants {
                self.start.end_offsets.request(own.partition);
            }
        }
        for own in &self.own {
            if let Passage::Until(until_ms) = own.idleness.passage(now) {
                to_ms = to_ms.min(until_ms);
            }
        }
        let reader = &self.start.reader;
        if to_ms <= from_ms || self.own.iter().any(|own| own.reads_again(&**reader)) {
            return;
        }
        for own in &mut self.own {
            let position = self.start.reader.position(own.partition);
            let idle = own.idleness.is_idle(now);
            for (time_ms, mark) in own.reading.advance(from_ms, to_ms, position, idle) {
                let at = self.notices.delayed(&time_ms);
                outputs.notices.session(&at).give(Notice::Mark(mark));
            }
        }
        self.counts.downgrade(&to_ms);
        self.notices.downgrade(&to_ms);
    }
}
