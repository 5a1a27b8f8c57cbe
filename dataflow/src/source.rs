//! Reads a worker's partitions, counts what they hold, and tells how far time has come.
//!
//! ```text
//!              ┌── news: standings of all partitions, rejections that are durable ◀──┐
//!              ▼                                                                     │
//!  log ─▶ partitions ─▶ judge + count ─┬▶ partial tallies, at their window's time
//!                                      └▶ rejected records and marks, at the worker's time
//! ```
//!
//! Invariants:
//! - The worker's capability never passes a window that a partition of its own, not idle, can still
//!   send reactions for.
//! - Time stands still until what was read before is read again, so that no commit says a smaller N than
//!   the one before, nor passes a rejection that is to be written again.
//! - A rejection travels before the mark whose N is behind it, so that no commit says N without it.
//! - A partition with too many rejections that are not written waits for them: see
//!   [`crate::rejections`].
//! - A partition is not read further beyond what is durable than others may be silent, and
//!   [`READ_AHEAD_WINDOWS`], so a backlog costs little memory.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use emostream_log::{LogError, Reader, Wake};
use emostream_model::{Emoji, Room};
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

use crate::{
    DataflowError, Stop,
    aggregate::Aggregate,
    clock::{Gossip, GroupClock, Standing},
    metrics::Metrics,
    partition::{PartitionReading, Rejected, Rules},
    rejections::MOST_UNWRITTEN_BYTES,
    sink::{Outcome, Written},
    timers::Timers,
    tumble::PartialTally,
};

/// How many windows a partition may be read ahead of what is durable, beyond the idle timeout (until that
/// is over a stalled partition stops nobody): enough for the next while a transaction is under way.
const READ_AHEAD_WINDOWS: u64 = 4;

/// Records taken from a partition before the next one has its turn.
const POLL_RECORDS: usize = 1000;

/// Reactions that a poll is to bring at most: what they are counted in is sent before the next poll, and
/// batches may hold tens of thousands each.
const POLL_REACTIONS: u64 = 50_000;

/// The same while records are rejected, which may be giants.
const POLL_REJECTED_RECORDS: usize = 16;

/// How often the worker looks whether a partition has become idle.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// Wakes the source of a worker from any thread, at most once until it runs.
#[derive(Clone, Default)]
pub struct SourceBell(Arc<(AtomicBool, OnceLock<SyncActivator>)>);

impl SourceBell {
    /// What the log calls.
    pub fn wake(&self) -> Wake {
        let bell = self.clone();
        Arc::new(move || {
            let (rung, activator) = &*bell.0;
            if !rung.swap(true, Ordering::AcqRel)
                && let Some(activator) = activator.get()
            {
                // A worker that is gone needs no waking.
                let _ = activator.activate();
            }
        })
    }

    fn hears(&self, activator: SyncActivator) {
        // Rung before it was built: the operator runs once at the start anyway.
        let _ = self.0.1.set(activator);
    }

    fn quiet(&self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// What a source reads with.
pub struct SourceStart {
    /// The worker's partitions.
    pub partitions: Vec<PartitionReading>,
    /// Where they stand, and all the others.
    pub group: GroupClock,
    /// Reads the worker's partitions.
    pub reader: Box<dyn Reader>,
    /// Rung by the reader.
    pub bell: SourceBell,
    /// F.
    pub final_until_ms: u64,
    /// How to judge and count.
    pub rules: Rules,
    /// When a quiet partition is idle.
    pub idle_timeout: Duration,
    /// The worker's.
    pub timers: Timers,
    /// What is durable.
    pub durable: probe::Handle<u64>,
    /// Where each partition is read, for others to see.
    pub positions: Arc<Vec<AtomicU64>>,
    /// What to count.
    pub metrics: Metrics,
    /// Where to report a failure of the log.
    pub stop: Stop,
}

/// What a source hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// How a partition of another worker stands.
    Standing(Gossip),
    /// That rejections are durable.
    Written(Written),
}

/// What a source sends.
pub struct SourceStreams<'scope> {
    /// Counted reactions.
    pub tallies: StreamVec<'scope, u64, PartialTally>,
    /// Rejected records, and marks of progress.
    pub notices: StreamVec<'scope, u64, Outcome>,
    /// Standings for all workers.
    pub gossip: StreamVec<'scope, u64, Gossip>,
    /// Runs the source again.
    pub activator: Activator,
}

type Output<'a, D> = OutputBuilderSession<'a, u64, CapacityContainerBuilder<Vec<D>>>;

/// Builds the source of one worker.
pub fn source<'scope>(
    scope: Scope<'scope, u64>,
    news: StreamVec<'scope, u64, News>,
    start: SourceStart,
) -> SourceStreams<'scope> {
    let mut builder = OperatorBuilder::new("read".to_owned(), scope);
    let address = builder.operator_info().address;
    let activator = scope.activator_for(address.clone());
    start
        .bell
        .hears(scope.worker().sync_activator_for(address.to_vec()));
    // News tell how it stands elsewhere; they never hold back what is sent.
    let mut heard = builder.new_input_connection(news, Pipeline, []);
    let (tallies, tallies_stream) = builder.new_output_connection([]);
    let (notices, notices_stream) = builder.new_output_connection([]);
    let (gossip, gossip_stream) = builder.new_output_connection([]);
    let mut tallies = OutputBuilder::from(tallies);
    let mut notices = OutputBuilder::from(notices);
    let mut gossip = OutputBuilder::from(gossip);
    let again = activator.clone();
    builder.build(move |capabilities| {
        let mut source = Source::new(start, capabilities);
        move |_| {
            let Some(source) = &mut source else {
                heard.for_each(|_, _| {});
                return;
            };
            source.start.bell.quiet();
            heard.for_each(|_, data| {
                for news in data.drain(..) {
                    source.hear(news);
                }
            });
            let mut outputs = Outputs {
                tallies: tallies.activate(),
                notices: notices.activate(),
                gossip: gossip.activate(),
            };
            let now = source.start.timers.now();
            match source.run(now, &mut outputs) {
                Ok(Next::Now) => again.activate(),
                Ok(Next::At(time)) => source.start.timers.at(time, again.clone()),
                Ok(Next::WhenWoken) => {}
                Err(error) => source.start.stop.fail(DataflowError::Log(error)),
            }
        }
    });
    SourceStreams {
        tallies: tallies_stream,
        notices: notices_stream,
        gossip: gossip_stream,
        activator,
    }
}

struct Outputs<'a> {
    tallies: Output<'a, PartialTally>,
    notices: Output<'a, Outcome>,
    gossip: Output<'a, Gossip>,
}

/// When the source should run again.
enum Next {
    Now,
    At(Instant),
    WhenWoken,
}

struct Source {
    start: SourceStart,
    own: Vec<Own>,
    aggregate: Aggregate,
    rejected: Vec<Rejected>,
    tallies: Capability<u64>,
    notices: Capability<u64>,
    /// Stays at the beginning: gossip has no time.
    gossip: Capability<u64>,
    check_idle: Instant,
}

struct Own {
    partition: u32,
    reading: PartitionReading,
    quiet_since: Instant,
    idle: bool,
    watermark: Gauge,
    /// Of rejections that were sent and are not durable.
    unwritten_bytes: usize,
    /// How many records the next poll takes.
    poll_records: usize,
}

/// How many records the poll after one of `records` with so many reactions takes: as many as it may, but
/// no leap, since the next records may hold more.
fn next_poll(records: usize, reactions: u64, limit: usize) -> usize {
    let most = match reactions {
        0 => POLL_RECORDS,
        _ => (records as u64 * POLL_REACTIONS / reactions) as usize,
    };
    most.clamp(1, POLL_RECORDS).min(limit * 2)
}

impl Own {
    /// Whether it has not come to where the run before it was.
    fn reads_again(&self, reader: &dyn Reader) -> bool {
        reader.position(self.partition) < self.reading.settled_offset()
            && !reader.at_end(self.partition)
    }
}

impl Source {
    /// `None` for a worker without partitions: its capabilities go, and hold nobody back.
    fn new(mut start: SourceStart, capabilities: Vec<Capability<u64>>) -> Option<Source> {
        let mut capabilities = capabilities.into_iter();
        let (mut tallies, mut notices) = (capabilities.next()?, capabilities.next()?);
        let gossip = capabilities.next()?;
        let now = start.timers.now();
        let own: Vec<Own> = std::mem::take(&mut start.partitions)
            .into_iter()
            .map(|reading| Own {
                watermark: start
                    .metrics
                    .watermark
                    .with_label_values(&[reading.partition().to_string()]),
                partition: reading.partition(),
                reading,
                quiet_since: now,
                idle: false,
                unwritten_bytes: 0,
                poll_records: POLL_REJECTED_RECORDS,
            })
            .collect();
        if own.is_empty() {
            return None;
        }
        tallies.downgrade(&start.final_until_ms);
        notices.downgrade(&start.final_until_ms);
        Some(Source {
            start,
            own,
            aggregate: Aggregate::default(),
            rejected: Vec::new(),
            tallies,
            notices,
            gossip,
            check_idle: now,
        })
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Standing(gossip) => {
                self.start.group.learn(gossip);
            }
            News::Written(Written { partition, bytes }) => {
                let own = self.own.iter_mut().find(|own| own.partition == partition);
                if let Some(own) = own {
                    own.unwritten_bytes = own.unwritten_bytes.saturating_sub(bytes);
                }
            }
        }
    }

    fn run(&mut self, now: Instant, outputs: &mut Outputs<'_>) -> Result<Next, LogError> {
        let more = self.read(now)?;
        self.send(outputs);
        self.tell(outputs);
        self.advance(outputs);
        if more {
            return Ok(Next::Now);
        }
        // One timer at a time: the next is asked for when this one is over.
        if now < self.check_idle {
            return Ok(Next::WhenWoken);
        }
        self.check_idle = now + IDLE_CHECK;
        Ok(Next::At(self.check_idle))
    }

    /// Reads every partition that is not too far ahead; whether one has more.
    fn read(&mut self, now: Instant) -> Result<bool, LogError> {
        let closed_until_ms = *self.tallies.time();
        let size = self.start.rules.size;
        let durable = self.start.durable.with_frontier(|f| f.first().copied());
        let ahead_ms = READ_AHEAD_WINDOWS
            .saturating_mul(size.as_ms())
            .saturating_add(self.start.idle_timeout.as_millis() as u64);
        let limit_ms = durable.unwrap_or(closed_until_ms).saturating_add(ahead_ms);
        let mut more = false;
        for own in &mut self.own {
            let ahead = size.floor(own.reading.clock().watermark_ms()) > limit_ms;
            let full = own.unwritten_bytes > MOST_UNWRITTEN_BYTES;
            // What is read again fitted once, and is waited for.
            if !own.reads_again(&*self.start.reader) && (ahead || full) {
                continue;
            }
            let mut read = crate::partition::Read::default();
            let before = self.rejected.len();
            let records =
                self.start
                    .reader
                    .poll(own.partition, own.poll_records, &mut |record| {
                        read += own.reading.take(
                            record,
                            &self.start.rules,
                            closed_until_ms,
                            &mut self.aggregate,
                            &mut self.rejected,
                        );
                    })?;
            let rejected = &self.rejected[before..];
            own.unwritten_bytes += rejected.iter().map(Rejected::bytes).sum::<usize>();
            own.poll_records = match rejected.len() {
                0 => next_poll(records, read.counted, own.poll_records),
                _ => POLL_REJECTED_RECORDS,
            };
            self.start.metrics.events.inc_by(read.counted);
            self.start.metrics.late.inc_by(read.late);
            if records > 0 {
                own.quiet_since = now;
            }
            let quiet = now.saturating_duration_since(own.quiet_since);
            own.idle = quiet >= self.start.idle_timeout && self.start.reader.at_end(own.partition);
            // Until a poll brings nothing: what it leaves behind rings no bell.
            more |= records > 0;
            let position = self.start.reader.position(own.partition);
            if let Some(seen) = self.start.positions.get(own.partition as usize) {
                seen.store(position, Ordering::Relaxed);
            }
        }
        Ok(more)
    }

    /// Sends what was counted, each window at its time, and what was rejected, at the worker's.
    fn send(&mut self, outputs: &mut Outputs<'_>) {
        let Source {
            aggregate, tallies, ..
        } = self;
        aggregate.drain(
            |start_ms, counts: &mut dyn Iterator<Item = (Room, Emoji, u64)>| {
                let at = tallies.delayed(&start_ms);
                let tally = |(room, emoji, count)| PartialTally {
                    start_ms,
                    room,
                    emoji,
                    count,
                };
                outputs
                    .tallies
                    .session(&at)
                    .give_iterator(counts.map(tally));
            },
        );
        let rejected = self.rejected.drain(..).map(Outcome::Rejected);
        outputs
            .notices
            .session(&self.notices)
            .give_iterator(rejected);
    }

    /// Tells the group how this worker's partitions stand, where that changed.
    fn tell(&mut self, outputs: &mut Outputs<'_>) {
        for own in &self.own {
            let standing = Standing {
                watermark_ms: own.reading.clock().watermark_ms(),
                newest_ms: own.reading.clock().newest_ms(),
                idle: own.idle,
            };
            let gossip = Gossip {
                partition: own.partition,
                standing,
            };
            if self.start.group.learn(gossip) {
                own.watermark.set(standing.watermark_ms as f64 / 1000.0);
                outputs.gossip.session(&self.gossip).give(gossip);
            }
        }
    }

    /// Lets time advance as far as the group's clock allows, leaving marks of progress behind.
    fn advance(&mut self, outputs: &mut Outputs<'_>) {
        let (from_ms, to_ms) = (*self.tallies.time(), self.start.group.frontier_ms());
        let reader = &self.start.reader;
        if to_ms <= from_ms || self.own.iter().any(|own| own.reads_again(&**reader)) {
            return;
        }
        for own in &mut self.own {
            let position = self.start.reader.position(own.partition);
            for (time_ms, mark) in own.reading.advance(from_ms, to_ms, position) {
                let at = self.notices.delayed(&time_ms);
                outputs.notices.session(&at).give(Outcome::Mark(mark));
            }
        }
        self.tallies.downgrade(&to_ms);
        self.notices.downgrade(&to_ms);
    }
}
