//! A reader of the embedded log. It has a position in each partition, and reads from a new snapshot in each poll.

use std::sync::Arc;

use super::{source::Source, topics::Topic};
use crate::{LogError, Reader, Record, Wake};

/// The position of a reader in a partition.
struct Cursor {
    partition: u32,
    next: u64,
    at_end: bool,
}

/// The registration of a reader's wake callback; dropping it ends the registration.
pub(super) trait WakeRegistration: Send {
    /// Returns `true` if there is no record at `offset` or later, as far as this is known without reading the source.
    fn nothing_at(&self, partition: u32, offset: u64) -> bool;
}

/// Reads a topic from a source. The registration calls the reader's wake callback.
pub(super) struct EmbeddedReader {
    source: Arc<dyn Source>,
    topic: String,
    cursors: Vec<Cursor>,
    registration: Box<dyn WakeRegistration>,
}

impl EmbeddedReader {
    pub(super) fn new(
        source: Arc<dyn Source>,
        topic: &str,
        from: &[(u32, u64)],
        registration: Box<dyn WakeRegistration>,
    ) -> Result<Self, LogError> {
        let partitions = source.describe(topic)?.partitions;
        if let Some((partition, _)) = from.iter().find(|(partition, _)| *partition >= partitions) {
            return Err(LogError::UnknownPartition {
                topic: topic.to_owned(),
                partition: *partition,
            });
        }
        let cursors = from
            .iter()
            .map(|(partition, next)| Cursor {
                partition: *partition,
                next: *next,
                at_end: false,
            })
            .collect();
        Ok(Self {
            source,
            topic: topic.to_owned(),
            cursors,
            registration,
        })
    }

    fn cursor(&self, partition: u32) -> Option<&Cursor> {
        self.cursors
            .iter()
            .find(|cursor| cursor.partition == partition)
    }
}

impl Reader for EmbeddedReader {
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError> {
        let Some(cursor) = self
            .cursors
            .iter_mut()
            .find(|cursor| cursor.partition == partition)
        else {
            return Err(LogError::UnknownPartition {
                topic: self.topic.clone(),
                partition,
            });
        };
        if self.registration.nothing_at(partition, cursor.next) {
            cursor.at_end = true;
            return Ok(0);
        }
        let page = self
            .source
            .read(&self.topic, partition, cursor.next, limit, each)?;
        cursor.next = page.next;
        cursor.at_end = page.at_end;
        Ok(page.count)
    }

    fn position(&self, partition: u32) -> u64 {
        self.cursor(partition).map_or(0, |cursor| cursor.next)
    }

    fn at_end(&self, partition: u32) -> bool {
        self.cursor(partition).is_some_and(|cursor| cursor.at_end)
    }
}

/// Registration with the writer of this process, which wakes readers after each commit to their topic.
pub(super) struct Subscription<Keep> {
    topic: Arc<Topic>,
    id: u64,
    /// Value that must live as long as the reader.
    _keep: Keep,
}

impl<Keep: Send> Subscription<Keep> {
    pub(super) fn new(topic: Arc<Topic>, wake: Wake, keep: Keep) -> Self {
        let id = topic.subscribe(wake);
        Self {
            topic,
            id,
            _keep: keep,
        }
    }
}

impl<Keep: Send> WakeRegistration for Subscription<Keep> {
    fn nothing_at(&self, partition: u32, offset: u64) -> bool {
        self.topic.end(partition) == Some(offset)
    }
}

impl<Keep> Drop for Subscription<Keep> {
    fn drop(&mut self) {
        self.topic.unsubscribe(self.id);
    }
}
