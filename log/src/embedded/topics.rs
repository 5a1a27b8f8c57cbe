//! The topics in the memory of the process that has the log open: the end of each partition, and the callbacks of
//! readers.
//!
//! A reader first compares its offset with the end in memory, so that polling a partition without new records needs no
//! transaction.

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

/// An existing topic.
pub(super) struct Topic {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) cleanup: Cleanup,
    pub(super) max_ahead: Option<Duration>,
    /// The next offset of each partition, as of the last commit.
    ends: Vec<AtomicU64>,
    wakers: Mutex<Vec<(u64, Wake)>>,
    next_id: AtomicU64,
}

impl Topic {
    /// Returns the topic of a stored row. `ends` has the next offset of each partition.
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
            wakers: Mutex::default(),
            next_id: AtomicU64::new(0),
        }
    }

    /// Returns the settings with which the topic was created.
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
        // The cast loses nothing, since the number of partitions is a `u32` in the row of the topic.
        self.ends.len() as u32
    }

    /// Returns the next offset of `partition` at the last commit; `None` if the partition does not exist.
    pub(super) fn end(&self, partition: u32) -> Option<u64> {
        let end = self.ends.get(partition as usize)?;
        Some(end.load(Ordering::Acquire))
    }

    /// Makes the records before `end` visible as committed.
    pub(super) fn publish(&self, partition: u32, end: u64) {
        if let Some(slot) = self.ends.get(partition as usize) {
            slot.store(end, Ordering::Release);
        }
    }

    /// Registers `wake`, which is called after each commit to the topic. Returns the id for [`Topic::unsubscribe`].
    pub(super) fn subscribe(&self, wake: Wake) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((id, wake));
        id
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.retain(|(other, _)| *other != id);
    }

    /// Wakes all readers of the topic.
    pub(super) fn wake_readers(&self) {
        let wakers: Vec<Wake> = self
            .wakers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(_, wake)| wake.clone())
            .collect();
        // The callbacks are called without the lock, since a callback may drop a reader of this topic, which needs the
        // lock.
        for wake in wakers {
            wake();
        }
    }
}

/// All topics. The key is the name.
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
