//! The topics as the owning process knows them: where each partition ends, and who wants to be woken.
//!
//! Readers look here first, so that polling a partition without news costs no transaction.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::tables::TopicRow;
use crate::{Cleanup, LogError, TopicDescription, TopicSpec, Wake};

/// A topic that exists.
pub(super) struct Topic {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) cleanup: Cleanup,
    pub(super) max_ahead: Option<Duration>,
    /// The next offset of each partition, as of the last commit.
    ends: Vec<AtomicU64>,
    bells: Mutex<Vec<(u64, Wake)>>,
    next_bell: AtomicU64,
}

impl Topic {
    /// The topic of a stored row, with the next offset of each of its partitions.
    pub(super) fn new(name: &str, row: TopicRow, ends: Vec<u64>) -> Self {
        let (id, _, after_ms, bytes, max_ahead_ms) = row;
        Self {
            id,
            name: name.to_owned(),
            cleanup: match after_ms {
                Some(ms) => Cleanup::Delete {
                    after: Duration::from_millis(ms),
                    bytes,
                },
                None => Cleanup::Compact,
            },
            max_ahead: max_ahead_ms.map(Duration::from_millis),
            ends: ends.into_iter().map(AtomicU64::new).collect(),
            bells: Mutex::default(),
            next_bell: AtomicU64::new(0),
        }
    }

    /// What it was made with.
    pub(super) fn describe(&self) -> TopicDescription {
        TopicDescription::of(&TopicSpec {
            name: self.name.clone(),
            partitions: self.partitions(),
            replication: 1,
            min_in_sync: 1,
            cleanup: self.cleanup,
            max_ahead: self.max_ahead,
        })
    }

    pub(super) fn partitions(&self) -> u32 {
        // Made from a u32 in the row.
        self.ends.len() as u32
    }

    /// The next offset of `partition` as of the last commit; `None` if there is no such partition.
    pub(super) fn end(&self, partition: u32) -> Option<u64> {
        let end = self.ends.get(partition as usize)?;
        Some(end.load(Ordering::Acquire))
    }

    /// Tells that what lies before `end` is committed.
    pub(super) fn publish(&self, partition: u32, end: u64) {
        if let Some(slot) = self.ends.get(partition as usize) {
            slot.store(end, Ordering::Release);
        }
    }

    /// Has `wake` called after each commit that touches the topic, until [`Topic::unsubscribe`].
    pub(super) fn subscribe(&self, wake: Wake) -> u64 {
        let bell = self.next_bell.fetch_add(1, Ordering::Relaxed);
        self.bells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((bell, wake));
        bell
    }

    pub(super) fn unsubscribe(&self, bell: u64) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.retain(|(other, _)| *other != bell);
    }

    /// Wakes every reader of the topic.
    pub(super) fn ring(&self) {
        let bells: Vec<Wake> = self
            .bells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(_, wake)| wake.clone())
            .collect();
        // Outside the lock: a wake may well drop a reader of this topic.
        for wake in bells {
            wake();
        }
    }
}

/// All topics, by name.
#[derive(Default)]
pub(super) struct Topics(RwLock<HashMap<String, Arc<Topic>>>);

impl Topics {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        self.get(name).ok_or_else(|| LogError::UnknownTopic {
            topic: name.to_owned(),
        })
    }

    pub(super) fn add(&self, topic: Topic) {
        let mut topics = self.0.write().unwrap_or_else(PoisonError::into_inner);
        topics.insert(topic.name.clone(), Arc::new(topic));
    }

    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }
}
