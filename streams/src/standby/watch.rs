//! The requests that a standby sends to the log, one after the other.

#![allow(
    clippy::disallowed_methods,
    reason = "this module sends requests at intervals"
)]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use emostream_log::{EndOffsets, Log, LogError, Reader, Record, WakeSignal};

use super::takeover::{Decision, Observation, TakeoverDetector, Timeouts};
use crate::{
    Stop, StreamsError,
    config::Config,
    progress::{
        newest,
        record::{Progress, RunIdentity},
    },
    recovery::take_over,
};

/// Interval of the requests for the end offset of the progress topic. A takeover may be delayed by up to this time.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Interval at which a pause checks whether a stop is requested.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Timeout of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum number of records of a poll.
const POLL_RECORDS: usize = 100;

/// A record's offset and value.
type OffsetValue = (u64, Vec<u8>);

/// A standby, which waits until the active run has ended.
pub struct Standby {
    config: Config,
    log: Arc<dyn Log>,
    detector: TakeoverDetector,
    /// The reader of the progress topic, which begins at the newest record; `None` before the first request and after a
    /// failure.
    reader: Option<Box<dyn Reader>>,
    bell: WakeSignal,
    newest: Option<Progress>,
    /// The offset of the newest progress record at the start of the process. Only a reset at a later offset ends the
    /// standby.
    known: Option<u64>,
}

impl Standby {
    /// Creates a standby in a process that began with the progress at offset `known`.
    pub fn new(config: Config, log: Arc<dyn Log>, known: Option<u64>) -> Standby {
        Standby {
            detector: TakeoverDetector::new(Timeouts {
                takeover: config.run.takeover,
                commit_timeout: config.run.commit_timeout,
            }),
            reader: None,
            bell: WakeSignal::default(),
            newest: None,
            known,
            config,
            log,
        }
    }

    /// Waits until the active run has stopped committing. Returns the end offset of the progress topic, or `None` if
    /// `stop` was requested. Calls `report` after each request with the run that committed last, if it is known.
    pub fn wait(
        &mut self,
        stop: &Stop,
        report: &mut dyn FnMut(Option<&RunIdentity>),
    ) -> Result<Option<u64>, StreamsError> {
        while !stop.is_requested() {
            let requested = Instant::now();
            let silent = self.poll(requested, &Instant::now)?;
            report(self.newest.as_ref().and_then(|newest| newest.run.as_ref()));
            if silent.is_some() {
                return Ok(silent);
            }
            pause(stop, requested + POLL_INTERVAL);
        }
        Ok(None)
    }

    /// Requests the end offset once, at the time `requested`; `now` returns the time of the response. Returns the end
    /// offset of the progress topic if the standby must take over, otherwise `None`.
    pub fn poll(
        &mut self,
        requested: Instant,
        now: &dyn Fn() -> Instant,
    ) -> Result<Option<u64>, StreamsError> {
        let ends = self.ends()?;
        let observation = ends.map_or(Observation::NoResponse, |ends| Observation::Response {
            requested,
            ends,
            heartbeats: self.heartbeats(),
        });
        match self.detector.on(observation, now()) {
            Decision::TakeOver => Ok(ends.map(|ends| ends.end)),
            Decision::Wait => Ok(None),
        }
    }

    /// Whether the run that has committed last has heartbeats, so that it commits again within a heartbeat interval.
    /// The result is also true after a reset, since a reset ends every run, and without progress, since maybe no run
    /// has ever committed.
    fn heartbeats(&self) -> bool {
        let newest = self.newest.as_ref();
        newest.is_none_or(|it| it.heartbeat_ms.is_some() || it.is_of_a_reset())
    }

    /// Returns the end offsets of the progress topic, after all committed records of it are read; `None` if there is no
    /// response.
    fn ends(&mut self) -> Result<Option<EndOffsets>, StreamsError> {
        let topic = self.config.topics.progress.clone();
        let response = self
            .log
            .end_offsets(&topic, 0, REQUEST_TIMEOUT)
            .and_then(|ends| {
                let records = self.read(ends.stable)?;
                Ok((ends, records))
            });
        match response {
            Ok((ends, Some(records))) => {
                for (offset, value) in records {
                    self.apply(offset, &value)?;
                }
                Ok(Some(ends))
            }
            Ok((_, None)) => Ok(None),
            Err(error @ LogError::Denied { repeated: true, .. }) => Err(StreamsError::Log(error)),
            Err(error) => {
                tracing::debug!(%error, "no response from the progress topic");
                self.reader = None;
                Ok(None)
            }
        }
    }

    /// Returns the records below `stable` that were not read yet, in the order of their offsets; `None` if they do not
    /// arrive in time. In that case the reader and the records are dropped, and the next call opens another reader.
    fn read(&mut self, stable: u64) -> Result<Option<Vec<OffsetValue>>, LogError> {
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open()?,
        };
        let (mut records, until) = (Vec::new(), Instant::now() + REQUEST_TIMEOUT);
        loop {
            let mut keep =
                |record: Record<'_>| records.push((record.offset, record.value.to_vec()));
            while reader.poll(0, POLL_RECORDS, &mut keep)? > 0 {}
            if reader.position(0) >= stable {
                self.reader = Some(reader);
                return Ok(Some(records));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            self.bell.wait(STOP_CHECK_INTERVAL);
        }
    }

    fn open(&self) -> Result<Box<dyn Reader>, LogError> {
        let topic = self.config.topics.progress.clone();
        let from = match newest::newest_record(&self.config.topics, &*self.log)? {
            Some(newest) => newest.offset,
            None => self
                .log
                .offsets(&topic)?
                .first()
                .map_or(0, |kept| kept.start),
        };
        self.log.reader(&topic, &[(0, from)], self.bell.wake())
    }

    fn apply(&mut self, offset: u64, value: &[u8]) -> Result<(), StreamsError> {
        self.newest = newest::decode(&self.config.topics, value)?;
        let Some(newest) = &self.newest else {
            return Ok(());
        };
        if newest.is_of_a_reset() && self.known.is_none_or(|known| offset > known) {
            let topic = self.config.topics.progress.clone();
            return Err(StreamsError::ResetMeanwhile { topic });
        }
        take_over::require_settings(&self.config, newest)
    }
}

fn pause(stop: &Stop, until: Instant) {
    while !stop.is_requested() && Instant::now() < until {
        thread::sleep(STOP_CHECK_INTERVAL.min(until.saturating_duration_since(Instant::now())));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;
    use crate::{
        progress::settings::Settings,
        testing::{commit, config, log},
    };

    fn newest_offset(log: &dyn Log) -> u64 {
        let newest = newest::newest_record(&config().topics, log);
        newest.unwrap().unwrap().offset
    }

    fn of_a_run() -> Progress {
        Progress {
            settings: Some(config().settings),
            run: Some(config().identity()),
            heartbeat_ms: Some(2000),
            ..Progress::default()
        }
    }

    /// Returns progress without settings, as a reset stores it, so that a run with any settings may continue from it.
    fn of_a_reset() -> Progress {
        Progress::default()
    }

    fn poll_once(log: &Arc<impl Log + 'static>, known: Option<u64>) -> Result<(), StreamsError> {
        let (mut standby, now) = (Standby::new(config(), log.clone(), known), Instant::now());
        standby.poll(now, &|| now).map(drop)
    }

    /// The standby ends without a wait, so that an operator sees wrong flags when the standby starts, not when it must
    /// take over.
    #[test]
    fn progress_of_other_settings_ends_a_standby_at_once() {
        let log = log();
        commit(&*log, &of_a_run());
        assert!(poll_once(&log, None).is_ok());
        let other = Progress {
            settings: Some(Settings::default().with("lateness_ms", "", 1)),
            ..of_a_run()
        };
        commit(&*log, &other);
        let ended = poll_once(&log, None);
        assert!(matches!(ended, Err(StreamsError::OtherSettings { .. })));
    }

    #[test]
    fn a_reset_ends_a_standby_unless_the_process_began_with_it() {
        let log = log();
        commit(&*log, &of_a_reset());
        let known = newest_offset(&*log);
        assert!(poll_once(&log, Some(known)).is_ok());
        let is_reset = |known| {
            let ended = poll_once(&log, known);
            matches!(ended, Err(StreamsError::ResetMeanwhile { .. }))
        };
        assert!(is_reset(None));
        commit(&*log, &of_a_reset());
        assert!(is_reset(Some(known)));
    }

    #[test]
    fn a_standby_waits_longer_only_for_a_run_without_heartbeats() {
        let takes_over_after = |progress: &Progress| {
            let log = log();
            commit(&*log, progress);
            let known = newest_offset(&*log);
            let mut standby = Standby::new(config(), log, Some(known));
            let begun = Instant::now();
            (0..=200).find(|seconds| {
                let now = begun + Duration::from_secs(*seconds);
                standby.poll(now, &|| now).unwrap().is_some()
            })
        };
        let takeover = Some(config().run.takeover.as_secs());
        assert_eq!(takes_over_after(&of_a_run()), takeover);
        assert_eq!(takes_over_after(&of_a_reset()), takeover);
        let of_a_former_version = Progress {
            heartbeat_ms: None,
            ..of_a_run()
        };
        assert_eq!(takes_over_after(&of_a_former_version), Some(180));
    }
}
