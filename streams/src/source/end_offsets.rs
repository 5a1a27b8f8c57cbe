//! Requests end offsets of partitions, so that a worker never waits for a broker.
//!
//! ```text
//!  source ──request──▶ thread of the partition ──▶ broker
//!    ▲                          │
//!    └──────answer, wake────────┘
//! ```
//!
//! Each partition has a thread of its own, started at its first request: one whose broker is away does not
//! delay the answers of others.

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

/// How long a leader may take to answer before its partition counts as unreachable for now.
const PATIENCE: Duration = Duration::from_secs(2);

/// A partition's ends, `None` if nothing answered.
pub type Answer = (u32, Option<EndOffsets>);

/// Requests end offsets and collects the answers. Neither waits.
pub trait EndOffsetRequests {
    /// Requests the ends of a partition: what was acknowledged before this call lies below them. One request a
    /// partition at a time.
    fn request(&mut self, partition: u32);

    /// The next answer that came.
    fn answer(&mut self) -> Option<Answer>;
}

/// Starts what requests end offsets, given what wakes the source.
pub type StartRequests = Box<dyn Fn(Wake) -> Box<dyn EndOffsetRequests> + Send + Sync>;

/// Requests them from a log, on threads.
pub struct RequestThreads {
    log: Arc<dyn Log>,
    topic: String,
    wake: Wake,
    /// By partition: at most one request waits in each.
    threads: BTreeMap<u32, Sender<()>>,
    answer: Sender<Answer>,
    answers: Receiver<Answer>,
}

impl RequestThreads {
    /// Requests of `topic`'s partitions; `wake` is called after each answer.
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
                let ends = log.end_offsets(&topic, partition, PATIENCE);
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
            // As if its broker did not answer; it is requested again later. This value holds the receiver.
            let _ = self.answer.send((partition, None));
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}
