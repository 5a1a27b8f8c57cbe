//! The tailer: the thread that reads results from the log and applies them to the rooms.
//!
//! ```text
//!  start:  rooms are restored ([`crate::source::restore`]) ─▶ ready
//!  then:   [windows], [trending], [live] ─▶ updates, until it is dropped; a failed read is retried each second
//!          [progress] ─▶ whether the dataflow counts ([`crate::source::commits`])
//! ```
//!
//! The removal of a room and the final results of the room are in different topics. After the tailer has read a
//! removal, it reads the final results up to the end of their topic, and only then applies the removal. So all final
//! results from before the removal are applied before it. In another order, a tailer that lags behind would set the
//! totals to 0 and then add final results from before the removal.

#![allow(
    clippy::disallowed_methods,
    reason = "the thread sleeps before it retries a read"
)]

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
use emostream_log::{Log, LogError, Record, WakeSignal};
use emostream_model::{RelayUpdate, WindowRecord};

use crate::config::Config;
use crate::error::BroadcastError;
use crate::hub::updates::{Updates, now_us};
use crate::hub::upstream_status::UpstreamStatus;
use crate::source::commits::Commits;
use crate::source::restore::{Restored, restore};
use crate::source::topic_reader::{Decoder, PARK, TopicReader, final_of, trending_of};

/// Pause before a failed read is retried.
const RETRY: Duration = Duration::from_secs(1);
/// Minimum time between two log lines about failed reads.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// The thread of the tailer. It is stopped when this value is dropped.
pub(crate) struct Tailer {
    stop: Arc<AtomicBool>,
    bell: WakeSignal,
    thread: Option<JoinHandle<()>>,
}

impl Tailer {
    /// Restores the rooms from the log, which may take some seconds, then starts the thread.
    pub(crate) fn start(
        config: &Config,
        log: Arc<dyn Log>,
        updates: Arc<Updates>,
        readiness: Component,
    ) -> Result<Self, BroadcastError> {
        let bell = WakeSignal::default();
        let mut decoder = Decoder::new(&updates.metrics);
        let Restored {
            windows,
            trending,
            live,
            progress,
            live_before,
            removals,
        } = restore(config, &*log, &updates, &bell, &mut decoder)?;
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
            progress,
            commits: Commits::new(Instant::now()),
            removals,
            is_healthy: false,
            warned: None,
        };
        reading.mark_healthy(&readiness);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                reading.poll_once(&readiness);
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

impl Drop for Tailer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.bell.notify();
        if let Some(thread) = self.thread.take() {
            // The result is ignored: a panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}

struct Reading {
    log: Arc<dyn Log>,
    updates: Arc<Updates>,
    bell: WakeSignal,
    decoder: Decoder,
    /// Configured length of windows.
    window_ms: u64,
    /// The end offset of each partition of the live topic at the start. Live tallies before these offsets are from
    /// before the start.
    live_before: HashMap<u32, u64>,
    windows: TopicReader,
    trending: TopicReader,
    live: TopicReader,
    progress: TopicReader,
    commits: Commits,
    /// Removals of rooms that were read from the trending topic. They are applied once all final results are read, and
    /// until then the trending topic is not read. So the list has at most the removals of one poll. After the start, it
    /// has at most one removal for each known room.
    removals: Vec<RelayUpdate>,
    /// Whether the last read succeeded.
    is_healthy: bool,
    /// Time at which a failed read was last logged.
    warned: Option<Instant>,
}

impl Reading {
    /// Reads new results, or waits until there are some.
    fn poll_once(&mut self, readiness: &Component) {
        match self.round() {
            Ok(ControlFlow::Continue(())) => {}
            Ok(ControlFlow::Break(())) => self.bell.wait(PARK),
            Err(error) => {
                self.is_healthy = false;
                // Reads may succeed between two errors of a broker, so log lines are limited by the time since the last
                // line and not by a change of the state.
                if self.warned.is_none_or(|at| at.elapsed() > WARN_EVERY) {
                    tracing::warn!(%error, "results cannot be read; the read is retried");
                    self.warned = Some(Instant::now());
                }
                self.updates.metrics.upstream.set(0);
                self.updates
                    .hub
                    .upstream_status
                    .send_replace(UpstreamStatus::Disconnected);
                readiness.not_ready(error.to_string());
                self.windows.reopen();
                self.trending.reopen();
                self.live.reopen();
                self.progress.reopen();
                self.update_counting();
                std::thread::sleep(RETRY);
                return;
            }
        }
        if !self.is_healthy {
            self.mark_healthy(readiness);
        }
        self.update_counting();
        self.updates.sweep();
    }

    fn update_counting(&self) {
        let counting = self.commits.is_counting(Instant::now());
        self.updates.hub.set_counting(counting);
    }

    fn mark_healthy(&mut self, readiness: &Component) {
        self.is_healthy = true;
        self.updates.metrics.upstream.set(1);
        self.updates
            .hub
            .upstream_status
            .send_replace(UpstreamStatus::Connected(Arc::new([])));
        readiness.ready();
    }

    /// Reads new results. Returns `Break` if there were none.
    fn round(&mut self) -> Result<ControlFlow<()>, LogError> {
        let (updates, decoder) = (&*self.updates, &mut self.decoder);
        let origin_us = now_us();
        // The result is ignored: only an update of another log is rejected, and `Updates` then ends this node.
        let apply = |update| drop(updates.apply(origin_us, update));
        let finals = self
            .windows
            .poll(&*self.log, &self.bell, updates, &mut |record| {
                if let Some(closed) = final_of(decoder, record) {
                    apply(RelayUpdate::Final(closed));
                }
            })?;
        if self.windows.at_end() {
            self.removals.drain(..).for_each(apply);
        }
        let removals = &mut self.removals;
        let mut trending = 0;
        if removals.is_empty() {
            let mut handle = |record: Record<'_>| match trending_of(decoder, record) {
                Some(removed @ RelayUpdate::Removed { .. }) => removals.push(removed),
                Some(update) => apply(update),
                None => {}
            };
            let (log, bell) = (&*self.log, &self.bell);
            trending = self.trending.poll(log, bell, updates, &mut handle)?;
        }
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
        let commits = &mut self.commits;
        let progress = self
            .progress
            .poll(&*self.log, &self.bell, updates, &mut |record| {
                commits.observe(record.value, Instant::now());
            })?;
        Ok(match finals + trending + live + progress {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }
}

/// Returns the length of a result's window. A live tally from before the start may have another length than configured.
/// An earlier run has then written it and has not closed its window, so the tailer drops this tally.
fn size_ms(result: &WindowRecord) -> u64 {
    result.window.end.saturating_sub(result.window.start)
}
