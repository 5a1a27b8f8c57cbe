//! The thread that reads results and puts them into the hub.
//!
//! ```text
//!  start:  rooms as they stood ([`crate::rebuild`]) ─▶ ready
//!  then:   [windows], [trending], [live] ─▶ rooms, for ever; a failing log is tried again each second
//! ```

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
use emostream_log::{Doorbell, Log, LogError, Record};
use emostream_model::{ResultId, Trending, WindowRecord};

use crate::{
    Config,
    hub::Hub,
    metrics::Metrics,
    rebuild::{Sources, rebuild},
    room::RoomState,
    source::{Decoder, Source},
};

/// How often what is old is forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// A window that ended so long ago and is not final will hardly be: the dataflow that showed it is away,
/// or came back with other windows.
const OVERDUE: Duration = Duration::from_secs(60);
/// How long to wait before a failing log is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How long the thread sleeps at most before it looks whether it should end.
pub(crate) const PARK: Duration = Duration::from_millis(200);

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
        let mut decoder = Decoder::new(&metrics);
        let Sources {
            windows,
            trending,
            live,
            live_before,
        } = rebuild(config, &*log, &hub, &bell, &mut decoder)?;
        metrics.rooms.set(hub.len() as i64);
        metrics.upstream.set(1);
        let mut reading = Reading {
            log,
            hub,
            metrics,
            bell: bell.clone(),
            decoder,
            ring: config.ring,
            window_ms: config.window_ms,
            live_before,
            windows,
            trending,
            live,
            swept: Instant::now(),
        };
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
    /// How long windows were at the start.
    window_ms: u64,
    /// By partition: live tallies below this were written before the start.
    live_before: HashMap<u32, u64>,
    windows: Source,
    trending: Source,
    live: Source,
    swept: Instant,
}

impl Reading {
    /// One round: what is new, then sleep until there is more.
    fn go_on(&mut self, readiness: &Component) {
        match self.round() {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.bell.wait(PARK),
            Err(error) => {
                tracing::warn!(%error, "results cannot be read; trying again");
                self.metrics.upstream.set(0);
                readiness.not_ready(error.to_string());
                self.windows.reopen();
                self.trending.reopen();
                self.live.reopen();
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
            self.hub.sweep(ago(self.ring), ago(OVERDUE));
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
                    hub.follow(&result);
                    if entry.update(|state| state.push_final(id, written_ms, result, unread)) {
                        metrics.frames.with_label_values(&["final"]).inc();
                    }
                }
            })?;
        let trending = self
            .trending
            .poll(&*self.log, &self.bell, hub, &mut |record| {
                if let Some(result) = decoder.read(record)
                    && take_trending(hub, result)
                {
                    metrics.frames.with_label_values(&["trending"]).inc();
                }
            })?;
        let (window_ms, live_before) = (self.window_ms, &self.live_before);
        let live = self.live.poll(&*self.log, &self.bell, hub, &mut |record| {
            let before = live_before.get(&record.partition);
            let early = before.is_some_and(|before| record.offset < *before);
            let now = |result: &WindowRecord| !early || size_ms(result) == window_ms;
            if let Some(result) = decoder.read::<WindowRecord>(record).filter(now) {
                hub.follow(&result);
                let entry = hub.entry(&result.room, RoomState::default);
                if entry.update(|state| state.push_live(result)) {
                    metrics.frames.with_label_values(&["live"]).inc();
                }
            }
        })?;
        Ok(match finals + trending + live {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }
}

/// How long its window is. What was shown before the start in windows of another size was left open by an
/// earlier run for good.
fn size_ms(result: &WindowRecord) -> u64 {
    result.window.end.saturating_sub(result.window.start)
}

/// Puts what is trending where it belongs; `true` if it makes a frame.
pub(crate) fn take_trending(hub: &Hub, trending: Trending) -> bool {
    match trending {
        Trending::Room(record) => {
            let entry = hub.entry(&record.room, RoomState::default);
            entry.update(|state| state.push_trending(record))
        }
        Trending::All(leaders) => {
            hub.set_leaders(leaders);
            false
        }
    }
}

/// The id of a final.
pub(crate) fn id_of(record: Record<'_>) -> ResultId {
    ResultId {
        partition: record.partition,
        offset: record.offset,
    }
}

/// The moment that lies `span` back, Unix milliseconds.
pub(crate) fn ago(span: Duration) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.saturating_sub(span).as_millis() as u64)
}
