//! The thread that reads results and puts them into the hub.
//!
//! ```text
//!  start:  [totals] to its end ─┐
//!          [windows] of the ring ┴▶ rooms ─▶ ready
//!  then:   [windows], [live] ─▶ rooms, for ever; a failing log is tried again each second
//! ```
//!
//! Totals are read before the finals, so a final that comes in between is added, never missed. Nor is
//! one doubled: a window that the totals hold already is waited for, since Kafka shows the parts of a
//! transaction one after another.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emostream_http::Component;
use emostream_log::{Doorbell, Log, LogError, Reader, Record, read_to_end};
use emostream_model::{ResultId, Room, TotalsRecord, WindowRecord};
use prometheus::IntCounter;
use serde::de::DeserializeOwned;

use crate::{Config, hub::Hub, metrics::Metrics, room::RoomState, totals::RoomTotals};

/// Records taken from a partition before the next one has its turn.
const POLL_RECORDS: usize = 1000;
/// How often what is old is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long to wait before a failing log is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the thread sleeps at most before it looks whether it should end.
const PARK: Duration = Duration::from_millis(200);
/// The parts of a transaction are all seen within this time; on Kafka some milliseconds, but a broker
/// may restart in between. Older totals have their final in the log, or it has expired.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a start waits for the finals of totals that are younger than that.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often records that are no results are told of in the log; all are counted.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// The reading thread; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Tail {
    stop: Arc<AtomicBool>,
    bell: Doorbell,
    thread: Option<JoinHandle<()>>,
}

impl Tail {
    /// Rebuilds the rooms from the log, which may take some seconds, then reads on in a thread.
    pub(crate) fn start(
        config: &Config,
        log: Arc<dyn Log>,
        hub: Arc<Hub>,
        metrics: Metrics,
        readiness: Component,
    ) -> Result<Self, crate::BroadcastError> {
        let bell = Doorbell::default();
        let mut reading = Reading::rebuild(config, log, hub, metrics, bell.clone())?;
        readiness.ready();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                reading.go_on(&readiness);
            }
        };
        let named = std::thread::Builder::new().name("tail".to_owned());
        let thread = named.spawn(run).map_err(crate::BroadcastError::Thread)?;
        Ok(Self {
            stop,
            bell,
            thread: Some(thread),
        })
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // Its panic would have ended the process.
            let _ = thread.join();
        }
    }
}

struct Reading {
    log: Arc<dyn Log>,
    hub: Arc<Hub>,
    metrics: Metrics,
    bell: Doorbell,
    decoder: Decoder,
    ring: Duration,
    windows: Source,
    live: Source,
    swept: Instant,
}

/// One topic, read from where it was left.
struct Source {
    topic: String,
    /// Whether it holds finals, which subscribers must be told to have missed.
    finals: bool,
    next: Vec<(u32, u64)>,
    reader: Option<Box<dyn Reader>>,
}

/// What the rings are rebuilt from.
#[derive(Default)]
struct Kept {
    /// The finals of each room, in their order.
    finals: HashMap<Room, Vec<(ResultId, u64, WindowRecord)>>,
    /// The newest totals of each room.
    totals: HashMap<Room, TotalsRecord>,
    /// Rooms whose totals hold a window, which ends then, that was not seen yet.
    awaited: HashMap<Room, u64>,
}

impl Kept {
    /// The newest totals of each room; those written since `settled_ms` await their final.
    fn read_totals(
        log: &dyn Log,
        topic: &str,
        settled_ms: u64,
        decoder: &mut Decoder,
    ) -> Result<Self, LogError> {
        let mut kept = Self::default();
        read_to_end(log, topic, &mut |record| {
            if let Some(totals) = decoder.read::<TotalsRecord>(record) {
                if record.time_ms >= settled_ms {
                    kept.awaited.insert(totals.room.clone(), totals.window.end);
                }
                kept.totals.insert(totals.room.clone(), totals);
            }
        })?;
        Ok(kept)
    }

    fn take(&mut self, id: ResultId, written_ms: u64, record: WindowRecord) {
        let awaited = self.awaited.get(&record.room);
        if awaited.is_some_and(|end| record.window.end >= *end) {
            self.awaited.remove(&record.room);
        }
        let finals = self.finals.entry(record.room.clone()).or_default();
        finals.push((id, written_ms, record));
    }

    fn fill(mut self, hub: &Hub) {
        for (room, finals) in self.finals {
            let records: Vec<WindowRecord> = finals.iter().map(|(_, _, r)| r.clone()).collect();
            let before = RoomTotals::before(self.totals.remove(&room).as_ref(), &records);
            let entry = hub.entry(&room, || RoomState::new(before));
            for (id, written_ms, record) in finals {
                let unread = hub.unread(id.partition);
                entry.update(|state| state.push_final(id, written_ms, record, unread));
            }
        }
        for (room, record) in self.totals {
            hub.entry(&room, || {
                RoomState::new(RoomTotals::before(Some(&record), &[]))
            });
        }
    }
}

impl Reading {
    fn rebuild(
        config: &Config,
        log: Arc<dyn Log>,
        hub: Arc<Hub>,
        metrics: Metrics,
        bell: Doorbell,
    ) -> Result<Self, LogError> {
        let ago = |span: Duration| now_ms().saturating_sub(span.as_millis() as u64);
        let mut decoder = Decoder::new(&metrics);
        let settled_ms = ago(SETTLED.min(config.ring / 2));
        let topic = config.topics.totals();
        let mut kept = Kept::read_totals(&*log, &topic, settled_ms, &mut decoder)?;
        let since_ms = ago(config.ring);
        let from = |topic: &str, at: &dyn Fn(u32) -> Result<u64, LogError>| {
            let partitions = 0..log.partitions(topic)?;
            partitions
                .map(|p| Ok((p, at(p)?)))
                .collect::<Result<Vec<_>, LogError>>()
        };
        let topic = config.topics.windows();
        let windows = from(&topic, &|p| log.offset_at(&topic, p, since_ms))?;
        for (partition, start) in &windows {
            hub.begins(*partition, *start);
        }
        let mut windows = Source::new(topic, true, windows);
        let topic = config.topics.live();
        // The tallies of the window that is open now, and of the one that is about to close.
        let open_ms = ago(Duration::from_millis(2 * config.window_ms));
        let live = from(&topic, &|p| log.offset_at(&topic, p, open_ms))?;
        let live = Source::new(topic, false, live);

        let mut at_end_since = None;
        loop {
            let read = windows.poll(&*log, &bell, &hub, &mut |record| {
                if let Some(result) = decoder.read(record) {
                    kept.take(id_of(record), record.time_ms, result);
                }
            })?;
            if read == 0 {
                let at_end = windows.at_end().then(Instant::now);
                at_end_since = at_end_since.or(at_end);
                let waited = at_end_since.map(|since| since.elapsed());
                if waited.is_some_and(|waited| kept.awaited.is_empty() || waited > PATIENCE) {
                    break;
                }
                bell.wait(PARK);
            }
        }
        if !kept.awaited.is_empty() {
            let rooms = kept.awaited.len();
            tracing::warn!(rooms, "the finals of the newest totals are missing");
        }
        kept.fill(&hub);
        metrics.rooms.set(hub.len() as i64);
        metrics.upstream.set(1);
        Ok(Self {
            log,
            hub,
            metrics,
            bell,
            decoder,
            ring: config.ring,
            windows,
            live,
            swept: Instant::now(),
        })
    }

    /// One round: what is new, then sleep until there is more.
    fn go_on(&mut self, readiness: &Component) {
        match self.round() {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.bell.wait(PARK),
            Err(error) => {
                tracing::warn!(%error, "results cannot be read; trying again");
                self.metrics.upstream.set(0);
                readiness.not_ready(error.to_string());
                self.windows.reader = None;
                self.live.reader = None;
                std::thread::sleep(RETRY);
                return;
            }
        }
        if self.metrics.upstream.get() == 0 {
            self.metrics.upstream.set(1);
            readiness.ready();
        }
        if self.swept.elapsed() > SWEEP_EVERY {
            self.swept = Instant::now();
            self.hub
                .sweep(now_ms().saturating_sub(self.ring.as_millis() as u64));
            self.metrics.rooms.set(self.hub.len() as i64);
        }
    }

    /// Reads what is there; `Break` when that was nothing.
    fn round(&mut self) -> Result<ControlFlow<()>, LogError> {
        let (hub, metrics, decoder) = (&self.hub, &self.metrics, &mut self.decoder);
        let finals = self
            .windows
            .poll(&*self.log, &self.bell, hub, &mut |record| {
                if let Some(result) = decoder.read::<WindowRecord>(record) {
                    let (id, written_ms) = (id_of(record), record.time_ms);
                    let entry = hub.entry(&result.room, RoomState::default);
                    let unread = hub.unread(id.partition);
                    if entry.update(|state| state.push_final(id, written_ms, result, unread)) {
                        metrics.frames.with_label_values(&["final"]).inc();
                    }
                }
            })?;
        let live = self.live.poll(&*self.log, &self.bell, hub, &mut |record| {
            if let Some(result) = decoder.read::<WindowRecord>(record) {
                let entry = hub.entry(&result.room, RoomState::default);
                if entry.update(|state| state.push_live(result)) {
                    metrics.frames.with_label_values(&["live"]).inc();
                }
            }
        })?;
        Ok(match finals + live {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }
}

impl Source {
    fn new(topic: String, finals: bool, next: Vec<(u32, u64)>) -> Self {
        Self {
            topic,
            finals,
            next,
            reader: None,
        }
    }

    /// Takes what is there in each partition; how many records that were.
    fn poll(
        &mut self,
        log: &dyn Log,
        bell: &Doorbell,
        hub: &Hub,
        each: &mut dyn FnMut(Record<'_>),
    ) -> Result<usize, LogError> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(log.reader(&self.topic, &self.next, bell.wake())?),
        };
        let mut read = 0;
        for (partition, next) in &mut self.next {
            match reader.poll(*partition, POLL_RECORDS, each) {
                Ok(records) => read += records,
                Err(LogError::Expired { start, offset, .. }) => {
                    let topic = &self.topic;
                    tracing::warn!(%topic, partition, offset, start, "results were deleted unread");
                    *next = start;
                    if self.finals {
                        hub.begins(*partition, start);
                    }
                    self.reader = None;
                    return Ok(read + 1);
                }
                Err(error) => return Err(error),
            }
            *next = reader.position(*partition);
            if self.finals {
                hub.reaches(*partition, *next);
            }
        }
        Ok(read)
    }

    /// Whether the last poll had read all that there was.
    fn at_end(&self) -> bool {
        let reader = self.reader.as_ref();
        let at_end = |(p, _): &(u32, u64)| reader.is_some_and(|reader| reader.at_end(*p));
        self.next.iter().all(at_end)
    }
}

/// Reads results; what is none is counted, and now and then told of.
struct Decoder {
    unreadable: IntCounter,
    told: Option<Instant>,
}

impl Decoder {
    fn new(metrics: &Metrics) -> Self {
        Self {
            unreadable: metrics.unreadable.clone(),
            told: None,
        }
    }

    fn read<T: DeserializeOwned>(&mut self, record: Record<'_>) -> Option<T> {
        let error = match serde_json::from_slice(record.value) {
            Ok(result) => return Some(result),
            Err(error) => error,
        };
        self.unreadable.inc();
        if self.told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            self.told = Some(Instant::now());
            let (partition, offset) = (record.partition, record.offset);
            tracing::warn!(partition, offset, %error, "records that are no results are skipped");
        }
        None
    }
}

fn id_of(record: Record<'_>) -> ResultId {
    ResultId {
        partition: record.partition,
        offset: record.offset,
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
