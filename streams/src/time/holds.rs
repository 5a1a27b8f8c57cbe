//! The reasons why windows do not become final: partitions that hold the frontier back or are behind, and commits that
//! fail. `/readyz` and a metric show these reasons, and the log of the program has a line when a reason begins and when
//! it ends.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{format_time, idleness::HoldReason};
use crate::metrics::Metrics;

/// A record that is not read, since its time is further ahead of this host's clock than records may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AheadRecord {
    /// The offset of the record.
    pub offset: u64,
    /// The newest time in the record, Unix milliseconds.
    pub time_ms: u64,
}

/// The reason why a partition is not read as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impediment {
    /// The partition holds the frontier back.
    Held(HoldReason),
    /// The next record of the partition is ahead of this host's clock, and the partition holds the frontier back.
    Ahead(AheadRecord),
    /// The partition was held for this reason until the hold timeout expired, and has not caught up.
    Behind(HoldReason),
}

impl Impediment {
    /// Returns the reason why the partition holds the frontier back, if it does.
    fn held(&self) -> Option<HoldReason> {
        match self {
            Impediment::Held(reason) => Some(*reason),
            Impediment::Ahead(_) => Some(HoldReason::Ahead),
            Impediment::Behind(_) => None,
        }
    }
}

impl fmt::Display for Impediment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Impediment::Held(HoldReason::OpenTransaction) => f.write_str(
                "is held by an open transaction of another producer; windows stay open until it ends, or until \
                 --hold-timeout has passed",
            ),
            Impediment::Ahead(record) => write!(
                f,
                "is held: its record at offset {} has the timestamp {}, ahead of this host's clock; correct the clock, \
                 or reject such records with `emostream reset --reject-ahead`",
                record.offset,
                format_time(record.time_ms)
            ),
            Impediment::Held(_) => f.write_str(
                "is held because its leader does not respond, or its records do not arrive; windows stay open until \
                 they arrive, or until --hold-timeout has passed",
            ),
            Impediment::Behind(reason) => write!(
                f,
                "is behind: it was held ({}) for longer than --hold-timeout, so its records for closed windows are \
                 late until it has caught up",
                reason.as_str()
            ),
        }
    }
}

/// The impediments of the partitions of a process, and the failure of its commits.
pub struct Holds {
    topic: String,
    metrics: Metrics,
    known: Mutex<BTreeMap<u32, Impediment>>,
    /// The reason why the last attempt to commit failed, until one succeeds.
    commit: Mutex<Option<String>>,
    version: AtomicU64,
}

impl Holds {
    /// Creates an empty collection of impediments for the partitions of `topic`.
    pub fn new(topic: String, metrics: Metrics) -> Holds {
        Holds {
            topic,
            metrics,
            known: Mutex::default(),
            commit: Mutex::default(),
            version: AtomicU64::new(0),
        }
    }

    /// Creates the metric series of a partition, with the value 0: the partition is not held. An alert on a series that
    /// does not exist before the first hold would miss the beginning of that hold.
    pub fn begin(&self, partition: u32) {
        self.show(partition, None);
    }

    fn show(&self, partition: u32, now: Option<HoldReason>) {
        let number = partition.to_string();
        for reason in HoldReason::ALL {
            let labels = [number.as_str(), reason.as_str()];
            let held = self.metrics.held.with_label_values(&labels);
            held.set((now == Some(reason)).into());
        }
    }

    /// Returns the number of changes so far.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, Impediment>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the current impediment of a partition; `None` if it has none.
    pub fn report(&self, partition: u32, now: Option<Impediment>) {
        let before = match now {
            Some(impediment) => self.known().insert(partition, impediment),
            None => self.known().remove(&partition),
        };
        if before == now {
            return;
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        self.show(partition, now.and_then(|it| it.held()));
        let topic = &self.topic;
        match now {
            Some(impediment) => tracing::warn!("{topic}/{partition} {impediment}"),
            None => tracing::info!("{topic}/{partition} is no longer held, and has caught up"),
        }
    }

    fn commit(&self) -> MutexGuard<'_, Option<String>> {
        self.commit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the reason why the last attempt to commit failed, or `None` after one has succeeded.
    pub fn commit_failing(&self, reason: Option<String>) {
        let sentence = reason.map(|reason| {
            format!("results cannot be committed, and the commit is retried: {reason}")
        });
        let before = std::mem::replace(&mut *self.commit(), sentence.clone());
        if before == sentence {
            return;
        }
        self.version.fetch_add(1, Ordering::AcqRel);
        match (sentence, before) {
            (Some(sentence), None) => tracing::warn!("{sentence}"),
            (Some(sentence), Some(_)) => tracing::debug!("{sentence}"),
            (None, _) => tracing::info!("results are committed again"),
        }
    }

    /// Returns the reason why the process is not ready, if there is an impediment or a failure.
    pub fn reason(&self) -> Option<String> {
        if let Some(reason) = self.commit().clone() {
            return Some(reason);
        }
        let known = self.known();
        let (partition, impediment) = known.first_key_value()?;
        let others = match known.len() - 1 {
            0 => String::new(),
            others => format!(" ({others} more partitions are held or behind)"),
        };
        Some(format!("{}/{partition} {impediment}{others}", self.topic))
    }

    /// Returns the partitions whose hold timeout expired.
    #[cfg(any(test, feature = "simulation"))]
    pub fn behind(&self) -> Vec<u32> {
        let known = self.known();
        let behind = known
            .iter()
            .filter(|(_, it)| matches!(it, Impediment::Behind(_)));
        behind.map(|(partition, _)| *partition).collect()
    }
}
