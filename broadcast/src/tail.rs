//! The thread that reads results and puts them into the hub.
//!
//! ```text
//!  start:  [totals] to its end ─┐
//!          [windows] of the ring ┴▶ rooms ─▶ ready
//!  then:   [windows], [live] ─▶ rooms, for ever; a failing log is tried again each second
//! ```
//!
//! Totals are read before the finals, so a final that comes in between is added, never missed.

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

use crate::{Config, hub::Hub, metrics::Metrics, room::RoomState, totals::RoomTotals};

/// Records taken from a partition before the next one has its turn.
const POLL_RECORDS: usize = 1000;
/// How often what is old is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// How long to wait before a failing log is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the thread sleeps at most before it looks whether it should end.
const PARK: Duration = Duration::from_millis(200);

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

/// Finals of one room while the ring is rebuilt, in their order.
type Kept = HashMap<Room, Vec<(ResultId, u64, WindowRecord)>>;

impl Reading {
    fn rebuild(
        config: &Config,
        log: Arc<dyn Log>,
        hub: Arc<Hub>,
        metrics: Metrics,
        bell: Doorbell,
    ) -> Result<Self, LogError> {
        let mut totals = newest_totals(&*log, &config.topics.totals(), &metrics)?;
        let since_ms = now_ms().saturating_sub(config.ring.as_millis() as u64);
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
        let live = Source::new(
            topic.clone(),
            false,
            from(&topic, &|p| Ok(log.offsets(&topic, p)?.end))?,
        );

        let mut kept = Kept::new();
        windows.read_all(&*log, &bell, &hub, &mut |record| {
            if let Some(result) = read(record, &metrics) {
                let id = id_of(record);
                let finals = kept.entry(result.room.clone()).or_default();
                finals.push((id, record.time_ms, result));
            }
        })?;
        for (room, finals) in kept {
            let records: Vec<WindowRecord> = finals.iter().map(|(_, _, r)| r.clone()).collect();
            let before = RoomTotals::before(totals.remove(&room).as_ref(), &records);
            let entry = hub.entry(&room, || RoomState::new(before));
            for (id, written_ms, record) in finals {
                let unread = hub.unread(id.partition);
                entry.update(|state| state.push_final(id, written_ms, record, unread));
            }
        }
        for (room, record) in totals {
            hub.entry(&room, || {
                RoomState::new(RoomTotals::before(Some(&record), &[]))
            });
        }
        metrics.rooms.set(hub.len() as i64);
        metrics.upstream.set(1);
        Ok(Self {
            log,
            hub,
            metrics,
            bell,
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
        let (hub, metrics) = (&self.hub, &self.metrics);
        let finals = self
            .windows
            .poll(&*self.log, &self.bell, hub, &mut |record| {
                if let Some(result) = read(record, metrics) {
                    let (id, written_ms) = (id_of(record), record.time_ms);
                    let entry = hub.entry(&result.room, RoomState::default);
                    let unread = hub.unread(id.partition);
                    if entry.update(|state| state.push_final(id, written_ms, result, unread)) {
                        metrics.frames.with_label_values(&["final"]).inc();
                    }
                }
            })?;
        let live = self.live.poll(&*self.log, &self.bell, hub, &mut |record| {
            if let Some(result) = read(record, metrics) {
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
        }
        Ok(read)
    }

    /// Reads to the end as it is when it gets there.
    fn read_all(
        &mut self,
        log: &dyn Log,
        bell: &Doorbell,
        hub: &Hub,
        each: &mut dyn FnMut(Record<'_>),
    ) -> Result<(), LogError> {
        loop {
            let read = self.poll(log, bell, hub, each)?;
            let reader = self.reader.as_ref();
            let at_end = |(p, _): &(u32, u64)| reader.is_some_and(|reader| reader.at_end(*p));
            if read == 0 && self.next.iter().all(at_end) {
                return Ok(());
            }
            if read == 0 {
                bell.wait(PARK);
            }
        }
    }
}

fn newest_totals(
    log: &dyn Log,
    topic: &str,
    metrics: &Metrics,
) -> Result<HashMap<Room, TotalsRecord>, LogError> {
    let mut totals = HashMap::new();
    read_to_end(
        log,
        topic,
        &mut |record| match serde_json::from_slice::<TotalsRecord>(record.value) {
            Ok(record) => drop(totals.insert(record.room.clone(), record)),
            Err(_) => metrics.unreadable.inc(),
        },
    )?;
    Ok(totals)
}

fn read(record: Record<'_>, metrics: &Metrics) -> Option<WindowRecord> {
    let result = serde_json::from_slice(record.value);
    if let Err(error) = &result {
        let (partition, offset) = (record.partition, record.offset);
        tracing::warn!(partition, offset, %error, "a record that is no result is skipped");
        metrics.unreadable.inc();
    }
    result.ok()
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
