//! The only thread that writes to the database.
//!
//! ```text
//! append, commit, … ──▶ queue ──all requests──▶ one write transaction ──fsync──▶ results, wake-ups
//! ```
//!
//! While a transaction is written to the disk, further requests are queued, and the next transaction executes all of
//! them: the slower the disk, the larger the groups. No result is returned, and no reader sees a record, before its
//! transaction is durable.

#![allow(
    clippy::disallowed_methods,
    reason = "the writer thread reads the clock"
)]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use redb::Database;

use super::{
    batch::{Accepted, Batch, Tail, accept, create_topic, epoch, fence},
    queue::{Queue, Request},
    retention,
    store::Store,
    tables::PartitionId,
    topics::Topics,
};
use crate::{EventClock, LogError, NewRecord, TopicSpec};

/// Maximum number of requests in a transaction. Without this limit, the transactions could become ever larger, and the
/// first request of each would wait ever longer.
const MAX_GROUP_REQUESTS: usize = 20_000;
/// Interval of the sweeps that delete records. So a record may be stored for this time longer than configured.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Pause before the next sweep if there are more records to delete than one transaction should delete.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// Callback that sends the result of a request to its caller. Its argument is `None` if the transaction is durable,
/// otherwise the error of the transaction.
type Completion = Box<dyn FnOnce(Option<LogError>) + Send>;

/// State of the writer, shared with the rest of the log.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) topics: Topics,
    pub(super) queue: Queue,
    /// Clock that sets the time of records without one, and decides which records are too far ahead or too old.
    pub(super) clock: EventClock,
}

struct Writer {
    shared: Arc<Shared>,
    tails: HashMap<PartitionId, Tail>,
    sweep_at: Instant,
}

/// Starts the writer on its own thread. The thread ends when the queue is closed and empty.
pub(super) fn start(
    shared: Arc<Shared>,
    tails: HashMap<PartitionId, Tail>,
) -> std::io::Result<JoinHandle<()>> {
    let writer = Writer {
        shared,
        tails,
        sweep_at: Instant::now() + SWEEP_INTERVAL,
    };
    thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || writer.run())
}

/// Refuses the queued requests when it is dropped, so that no caller waits for a writer that panicked.
struct Abandon(Arc<Shared>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.queue.abandon();
    }
}

impl Writer {
    fn run(mut self) {
        let shared = self.shared.clone();
        let _abandon = Abandon(shared.clone());
        let Some(db) = shared.store.writable() else {
            return;
        };
        loop {
            let timeout = self.sweep_at.saturating_duration_since(Instant::now());
            let Some(requests) = shared.queue.drain(MAX_GROUP_REQUESTS, timeout) else {
                return;
            };
            self.serve(db, requests);
            if Instant::now() >= self.sweep_at {
                let again = match self.sweep(db) {
                    Ok(true) => SWEEP_PAUSE,
                    Ok(false) => SWEEP_INTERVAL,
                    Err(error) => {
                        tracing::warn!(%error, "records that exceed the retention could not be deleted");
                        SWEEP_INTERVAL
                    }
                };
                self.sweep_at = Instant::now() + again;
            }
        }
    }

    /// Executes the requests in their order, as many as possible in one transaction.
    fn serve(&mut self, db: &Database, requests: Vec<Request>) {
        let mut group = Vec::with_capacity(requests.len());
        for request in requests {
            match request {
                Request::Create { spec, reply } => {
                    self.write(db, std::mem::take(&mut group));
                    let _ = reply.send(self.create(db, &spec));
                }
                Request::Sweep { reply } => {
                    self.write(db, std::mem::take(&mut group));
                    let _ = reply.send(self.sweep_all(db));
                }
                other => group.push(other),
            }
        }
        self.write(db, group);
    }

    /// Executes a group in one transaction.
    fn write(&mut self, db: &Database, group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        let mut completions = Vec::with_capacity(group.len());
        let written = self.try_write(db, group, &mut completions);
        let failure = written.err().map(|error| self.shared.store.error(error));
        if let Some(error) = &failure {
            tracing::error!(%error, "the embedded log could not write");
        }
        for complete in completions {
            complete(failure.clone());
        }
    }

    fn try_write(
        &mut self,
        db: &Database,
        group: Vec<Request>,
        completions: &mut Vec<Completion>,
    ) -> Result<(), redb::Error> {
        // If the transaction cannot begin, or fails midway, the requests that were not executed also get a completion:
        // otherwise their callers would get no result.
        let mut waiting = group.into_iter();
        let written = self.fill(db, &mut waiting, completions);
        for unserved in waiting {
            completions.push(Box::new(move |failure| {
                unserved.refuse(failure.unwrap_or_else(super::queue::closed));
            }));
        }
        let changed = written?;
        self.publish(changed);
        Ok(())
    }

    fn fill(
        &self,
        db: &Database,
        group: &mut dyn Iterator<Item = Request>,
        completions: &mut Vec<Completion>,
    ) -> Result<HashMap<PartitionId, Tail>, redb::Error> {
        let transaction = db.begin_write()?;
        let now_ms = self.shared.clock.unix_ms();
        let mut batch = Batch::begin(&transaction, &self.tails)?;
        for request in group {
            match request {
                Request::Append { record, done } => {
                    let outcome = match accept(&self.shared.topics, record, now_ms) {
                        Ok(accepted) => batch.append(accepted).map(Ok),
                        Err(refused) => Ok(Err(refused)),
                    };
                    complete_when_durable(completions, outcome, done)?;
                }
                Request::Commit {
                    id,
                    epoch: own,
                    records,
                    reply,
                } => {
                    let outcome = match epoch(&transaction, &id) {
                        Ok(newest) if newest != Some(own) => Ok(Err(LogError::Fenced { id })),
                        Ok(_) => self.append_all(&mut batch, records, now_ms),
                        Err(error) => Err(error),
                    };
                    complete_when_durable(completions, outcome, move |result| {
                        drop(reply.send(result))
                    })?;
                }
                Request::Fence { id, reply } => {
                    let outcome = fence(&transaction, &id).map(Ok);
                    complete_when_durable(completions, outcome, move |result| {
                        drop(reply.send(result))
                    })?;
                }
                // `serve` executes these requests between groups, so a group does not contain them.
                Request::Create { .. } | Request::Sweep { .. } => {
                    request.refuse(super::queue::closed())
                }
            }
        }
        let changed = batch.finish()?;
        transaction.commit()?;
        Ok(changed)
    }

    fn append_all(
        &self,
        batch: &mut Batch<'_>,
        records: Vec<NewRecord>,
        now_ms: u64,
    ) -> Result<Result<(), LogError>, redb::Error> {
        let checked = records
            .into_iter()
            .map(|record| accept(&self.shared.topics, record, now_ms));
        let accepted: Vec<Accepted> = match checked.collect() {
            Ok(accepted) => accepted,
            Err(refused) => return Ok(Err(refused)),
        };
        for record in accepted {
            batch.append(record)?;
        }
        Ok(Ok(()))
    }

    /// Makes committed records visible to readers.
    fn publish(&mut self, changed: HashMap<PartitionId, Tail>) {
        let ids: HashSet<u32> = changed.keys().map(|(id, _)| *id).collect();
        let touched = self
            .shared
            .topics
            .all()
            .into_iter()
            .filter(|topic| ids.contains(&topic.id));
        for topic in touched {
            for partition in 0..topic.partitions() {
                if let Some(tail) = changed.get(&(topic.id, partition)) {
                    topic.publish(partition, tail.next);
                }
            }
            topic.wake_readers();
        }
        self.tails.extend(changed);
    }

    fn create(&mut self, db: &Database, spec: &TopicSpec) -> Result<(), LogError> {
        let made = create_topic(db, spec).map_err(|error| self.shared.store.error(error))?;
        if let Some(topic) = made {
            for partition in 0..topic.partitions() {
                self.tails.insert((topic.id, partition), Tail::default());
            }
            self.shared.topics.add(topic);
        }
        Ok(())
    }

    fn sweep_all(&mut self, db: &Database) -> Result<(), LogError> {
        while self.sweep(db)? {}
        Ok(())
    }

    /// Deletes a bounded number of records that exceed the retention. Returns whether there may be more.
    fn sweep(&mut self, db: &Database) -> Result<bool, LogError> {
        let sweep = || -> Result<_, redb::Error> {
            let transaction = db.begin_write()?;
            let mut batch = Batch::begin(&transaction, &self.tails)?;
            let now_ms = self.shared.clock.unix_ms();
            let more = retention::sweep(&mut batch, &self.shared.topics, now_ms)?;
            let changed = batch.finish()?;
            if !changed.is_empty() {
                transaction.commit()?;
            }
            Ok((changed, more))
        };
        let (changed, more) = sweep().map_err(|error| self.shared.store.error(error))?;
        self.tails.extend(changed);
        Ok(more)
    }
}

/// Adds a completion that passes the result of a request to `callback` when the transaction is durable. If the
/// transaction fails, `callback` gets its error instead. If `outcome` is a failure of the database, returns it, since
/// the whole transaction has failed then.
fn complete_when_durable<T: Send + 'static>(
    completions: &mut Vec<Completion>,
    outcome: Result<Result<T, LogError>, redb::Error>,
    callback: impl FnOnce(Result<T, LogError>) + Send + 'static,
) -> Result<(), redb::Error> {
    let (result, failed) = match outcome {
        Ok(result) => (result, None),
        Err(error) => (Err(super::queue::closed()), Some(error)),
    };
    completions.push(Box::new(move |failure| {
        callback(failure.map_or(result, Err))
    }));
    failed.map_or(Ok(()), Err)
}
