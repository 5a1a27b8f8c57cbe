//! The thread that reads results and feeds them to the rooms.
//!
//! ```text
//!  start:  rooms as they stood ([`crate::source::restore`]) ─▶ ready
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
    time::{Duration, Instant},
};

use emostream_http::Component;
use emostream_log::{Doorbell, Log, LogError};
use emostream_model::{RelayUpdate, WindowRecord};

use crate::{
    config::Config,
    error::BroadcastError,
    hub::{
        updates::{Updates, now_us},
        upstream_status::UpstreamStatus,
    },
    room::result_order::resets,
    source::{
        restore::{Sources, rebuild},
        topic_reader::{Decoder, PARK, Source, id_of, of_trending},
    },
};

/// How long to wait before a failing log is asked again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a log that fails for longer is logged.
const WARN_EVERY: Duration = Duration::from_secs(30);

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
        updates: Arc<Updates>,
        readiness: Component,
    ) -> Result<Self, BroadcastError> {
        let bell = Doorbell::default();
        let mut decoder = Decoder::new(&updates.metrics);
        let Sources {
            windows,
            trending,
            live,
            live_before,
        } = rebuild(config, &*log, &updates, &bell, &mut decoder)?;
        updates.metrics.rooms.set(updates.hub.len() as i64);
        let mut reading = Reading {
            log,
            updates,
            bell: bell.clone(),
            decoder,
            window_ms: config.window_ms,
            live_before,
            windows,
            trending,
            live,
            reads: false,
            warned: None,
        };
        reading.goes_well(&readiness);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                reading.go_on(&readiness);
            }
        };
        let named = std::thread::Builder::new().name("tail".to_owned());
        let thread = named.spawn(run).map_err(BroadcastError::Thread)?;
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
    updates: Arc<Updates>,
    bell: Doorbell,
    decoder: Decoder,
    /// How long windows were at the start.
    window_ms: u64,
    /// By partition: live tallies below this were written before the start.
    live_before: HashMap<u32, u64>,
    windows: Source,
    trending: Source,
    live: Source,
    /// Whether the log could be read at last.
    reads: bool,
    /// When it was last logged that it cannot be.
    warned: Option<Instant>,
}

impl Reading {
    /// One round: what is new, then sleep until there is more.
    fn go_on(&mut self, readiness: &Component) {
        match self.round() {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.bell.wait(PARK),
            Err(error) => {
                self.reads = false;
                // Between two reports of a broker, reading may look well.
                if self.warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    tracing::warn!(%error, "results cannot be read; trying again");
                    self.warned = Some(Instant::now());
                }
                self.updates.metrics.upstream.set(0);
                self.updates
                    .hub
                    .upstream_status()
                    .send_replace(UpstreamStatus::Disconnected);
                readiness.not_ready(error.to_string());
                self.windows.reopen();
                self.trending.reopen();
                self.live.reopen();
                std::thread::sleep(RETRY);
                return;
            }
        }
        if !self.reads {
            self.goes_well(readiness);
        }
        self.updates.sweep();
    }

    fn goes_well(&mut self, readiness: &Component) {
        self.reads = true;
        self.updates.metrics.upstream.set(1);
        self.updates
            .hub
            .upstream_status()
            .send_replace(UpstreamStatus::from_log());
        readiness.ready();
    }

    /// Reads what is there; `Break` when that was nothing.
    fn round(&mut self) -> Result<ControlFlow<()>, LogError> {
        let (updates, decoder) = (&*self.updates, &mut self.decoder);
        let origin_us = now_us();
        // An update of another log ends this node; nothing else is rejected.
        let apply = |update| drop(updates.apply(origin_us, None, update));
        let finals = self
            .windows
            .poll(&*self.log, &self.bell, updates, &mut |record| {
                if let Some(result) = decoder.read::<WindowRecord>(record) {
                    let update = RelayUpdate::Final {
                        id: id_of(record),
                        written_ms: record.time_ms,
                        record: result,
                    };
                    drop(updates.apply(origin_us, Some(resets(&record)), update));
                }
            })?;
        let trending = self
            .trending
            .poll(&*self.log, &self.bell, updates, &mut |record| {
                if let Some(result) = decoder.read(record) {
                    apply(of_trending(result));
                }
            })?;
        let (window_ms, live_before) = (self.window_ms, &self.live_before);
        let live = self
            .live
            .poll(&*self.log, &self.bell, updates, &mut |record| {
                let before = live_before.get(&record.partition);
                let early = before.is_some_and(|before| record.offset < *before);
                let now = |result: &WindowRecord| !early || size_ms(result) == window_ms;
                if let Some(result) = decoder.read::<WindowRecord>(record).filter(now) {
                    apply(RelayUpdate::Live(result));
                }
            })?;
        updates.log.flush();
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
