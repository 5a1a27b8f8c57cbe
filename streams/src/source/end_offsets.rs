//! Requests the end offsets of partitions. The requests run on threads of their own, so that a worker never waits for a
//! broker.
//!
//! ```text
//!  source ──request──▶ thread of the partition ──▶ broker
//!    ▲                          │
//!    └──────answer, wake────────┘
//! ```
//!
//! Each partition has a thread of its own, which starts with its first request. So a partition whose broker does not
//! answer does not delay the answers for others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use emostream_log::{EndOffsets, Log, Wake};

/// Timeout of a request, after which the partition counts as unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// An answer: the partition, and its end offsets; `None` if the leader of the partition did not answer.
pub type Answer = (u32, Option<EndOffsets>);

/// Requests end offsets and collects the answers. No function of this trait waits.
pub trait EndOffsetRequests {
    /// Requests the end offsets of a partition. Records that were acknowledged before this call have lower offsets. A
    /// partition must not have more than one request in flight.
    fn request(&mut self, partition: u32);

    /// Returns the next answer that has arrived.
    fn answer(&mut self) -> Option<Answer>;
}

/// A function that creates a requester. Its argument is the function by which the requester wakes the source.
pub type StartRequests = Box<dyn Fn(Wake) -> Box<dyn EndOffsetRequests> + Send + Sync>;

/// A requester that sends the requests to a log, on threads.
pub struct RequestThreads {
    log: Arc<dyn Log>,
    topic: String,
    wake: Wake,
    /// For each partition, the queue of its thread. A queue contains at most one request.
    threads: BTreeMap<u32, Sender<()>>,
    answer: Sender<Answer>,
    answers: Receiver<Answer>,
}

impl RequestThreads {
    /// Creates a requester for the partitions of `topic`. It calls `wake` after each answer.
    pub fn new(log: Arc<dyn Log>, topic: String, wake: Wake) -> RequestThreads {
        let (answer, answers) = channel();
        RequestThreads {
            log,
            topic,
            wake,
            threads: BTreeMap::new(),
            answer,
            answers,
        }
    }

    fn start(&self, partition: u32) -> std::io::Result<Sender<()>> {
        let (request, requests) = channel();
        let (log, topic) = (self.log.clone(), self.topic.clone());
        let (wake, answer) = (self.wake.clone(), self.answer.clone());
        let serve = move || {
            for () in requests {
                let ends = log.end_offsets(&topic, partition, REQUEST_TIMEOUT);
                let ends = ends
                    .inspect_err(|error| tracing::debug!(partition, %error, "no end offset"))
                    .ok();
                if answer.send((partition, ends)).is_err() {
                    return;
                }
                wake();
            }
        };
        let name = format!("end-offsets-{partition}");
        thread::Builder::new().name(name).spawn(serve)?;
        Ok(request)
    }
}

impl EndOffsetRequests for RequestThreads {
    fn request(&mut self, partition: u32) {
        if !self.threads.contains_key(&partition)
            && let Ok(thread) = self.start(partition)
        {
            self.threads.insert(partition, thread);
        }
        let sent = self
            .threads
            .get(&partition)
            .is_some_and(|it| it.send(()).is_ok());
        if !sent {
            // The thread could not be started. The source gets the same answer as for a broker that does not answer,
            // and retries later. The send cannot fail, since this value owns the receiver.
            let _ = self.answer.send((partition, None));
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}
