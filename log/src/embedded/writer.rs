//! The one thread that writes.
//!
//! ```text
//! append, commit, … ──▶ queue ──all that wait──▶ one write transaction ──fsync──▶ answers, wakes
//! ```
//!
//! While one transaction is on its way to the disk the queue fills, and the next one takes all of it:
//! the slower the disk, the larger the groups. Nothing is answered, and no reader sees anything, before
//! its transaction is durable.

#![allow(clippy::disallowed_methods, reason = "the writer thread")]

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
    tables::Place,
    topics::Topics,
};
use crate::{EventClock, LogError, NewRecord, TopicSpec};

/// The most requests of one transaction, so that the first of them does not wait for ever larger ones.
const GROUP_REQUESTS: usize = 20_000;
/// How often retention looks. Records may live that much longer than asked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long until it goes on, when it had more to delete than one transaction should hold up.
const SWEEP_AGAIN: Duration = Duration::from_millis(100);

/// Tells one caller what became of its request: `None` when it is durable, else why it is not.
type Answer = Box<dyn FnOnce(Option<LogError>) + Send>;

/// What the writer works on, shared with the rest of the log.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) topics: Topics,
    pub(super) queue: Queue,
    /// Dates records, and judges which are ahead or too old.
    pub(super) clock: EventClock,
}

struct Writer {
    shared: Arc<Shared>,
    tails: HashMap<Place, Tail>,
    sweep_at: Instant,
}

/// Starts the writer on its own thread. It ends when the queue is closed and empty.
pub(super) fn start(
    shared: Arc<Shared>,
    tails: HashMap<Place, Tail>,
) -> std::io::Result<JoinHandle<()>> {
    let writer = Writer {
        shared,
        tails,
        sweep_at: Instant::now() + SWEEP_EVERY,
    };
    thread::Builder::new()
        .name("log-writer".to_owned())
        .spawn(move || writer.run())
}

/// Refuses whatever still waits, so that nobody waits for a writer that panicked.
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
            let patience = self.sweep_at.saturating_duration_since(Instant::now());
            let Some(requests) = shared.queue.take(GROUP_REQUESTS, patience) else {
                return;
            };
            self.serve(db, requests);
            if Instant::now() >= self.sweep_at {
                let again = match self.sweep(db) {
                    Ok(true) => SWEEP_AGAIN,
                    Ok(false) => SWEEP_EVERY,
                    Err(error) => {
                        tracing::warn!(%error, "retention could not run");
                        SWEEP_EVERY
                    }
                };
                self.sweep_at = Instant::now() + again;
            }
        }
    }

    /// Serves the requests in their order, as many as possible in one transaction.
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

    /// One transaction for the whole group.
    fn write(&mut self, db: &Database, group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        let mut answers = Vec::with_capacity(group.len());
        let written = self.try_write(db, group, &mut answers);
        let failure = written.err().map(|error| self.shared.store.error(error));
        if let Some(error) = &failure {
            tracing::error!(%error, "the embedded log could not write");
        }
        for answer in answers {
            answer(failure.clone());
        }
    }

    fn try_write(
        &mut self,
        db: &Database,
        group: Vec<Request>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), redb::Error> {
        // Answered even if the very transaction cannot begin: a request that is dropped is never heard of.
        let mut waiting = group.into_iter();
        let written = self.fill(db, &mut waiting, answers);
        for unserved in waiting {
            answers.push(Box::new(move |failure| {
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
        answers: &mut Vec<Answer>,
    ) -> Result<HashMap<Place, Tail>, redb::Error> {
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
                    answered(answers, outcome, done)?;
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
                    answered(answers, outcome, move |result| drop(reply.send(result)))?;
                }
                Request::Fence { id, reply } => {
                    let outcome = fence(&transaction, &id).map(Ok);
                    answered(answers, outcome, move |result| drop(reply.send(result)))?;
                }
                // Served between groups.
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

    /// Lets readers see what was committed.
    fn publish(&mut self, changed: HashMap<Place, Tail>) {
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
            topic.ring();
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

    /// Deletes what retention allows, a bounded part at a time. Whether there is more to do.
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

/// Notes what to tell the caller once the transaction is durable. A failure of the database is told to
/// this caller like to all others, and ends the group.
fn answered<T: Send + 'static>(
    answers: &mut Vec<Answer>,
    outcome: Result<Result<T, LogError>, redb::Error>,
    tell: impl FnOnce(Result<T, LogError>) + Send + 'static,
) -> Result<(), redb::Error> {
    let (result, failed) = match outcome {
        Ok(result) => (result, None),
        Err(error) => (Err(super::queue::closed()), Some(error)),
    };
    answers.push(Box::new(move |failure| tell(failure.map_or(result, Err))));
    failed.map_or(Ok(()), Err)
}
