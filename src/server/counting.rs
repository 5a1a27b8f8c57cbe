//! The dataflow of a process, on a thread of its own.

#![allow(clippy::disallowed_methods, reason = "a stop has a deadline")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use emostream_dataflow::{Activity, Config, Stop, StreamsError};
use emostream_http::Component;
use emostream_log::Log;
use tokio::sync::{oneshot, watch};

use super::{drain::Drain, watch::Watch};
use crate::exit::{Exit, Failure};

/// How long a dataflow that stops waits for a log that does not respond. Its last transaction is either committed or
/// not, and the next run finds out: no result is lost if the dataflow does not wait.
const LOG_PATIENCE: Duration = Duration::from_millis(400);

/// A dataflow on a thread of its own.
pub(crate) struct Counting {
    stop: Stop,
    log: Arc<dyn Log>,
    reactions: String,
    begun: watch::Receiver<bool>,
    ended: oneshot::Receiver<Result<(), StreamsError>>,
}

impl Counting {
    pub(crate) fn start(config: Config, log: Arc<dyn Log>, watch: &Watch) -> Result<Self, Failure> {
        let stop = Stop::default();
        let reactions = config.topics.reactions();
        let counted = log.clone();
        let (end, ended) = oneshot::channel();
        let (registry, stopping) = (watch.registry.clone(), stop.clone());
        let component: Component = watch.readiness.component("dataflow");
        let (begins, begun) = watch::channel(false);
        let ready = Arc::new(move |state: Result<Activity, String>| match state {
            Ok(Activity::Active) => {
                component.ready_as("active");
                begins.send_replace(true);
            }
            Ok(Activity::Standby(active)) => {
                component.ready_as(format!("standby; {active}"));
                begins.send_replace(false);
            }
            Err(why) => component.not_ready(why),
        });
        thread::Builder::new()
            .name("dataflow".to_owned())
            .spawn(move || {
                let outcome = emostream_dataflow::run(config, counted, &registry, stopping, ready);
                // The receiver may be dropped while the process ends.
                let _ = end.send(outcome);
            })
            .map_err(|error| {
                Failure::unavailable(format!("the dataflow's thread cannot start: {error}"))
            })?;
        Ok(Self {
            stop,
            log,
            reactions,
            begun,
            ended,
        })
    }

    /// Waits until the dataflow counts; returns an error if it ends before.
    pub(crate) async fn begins(&mut self) -> Result<(), Failure> {
        let mut begun = self.begun.clone();
        tokio::select! {
            Ok(_) = begun.wait_for(|begun| *begun) => Ok(()),
            failure = self.fails() => Err(failure),
        }
    }

    /// Waits until the dataflow ends by itself: with an error, or without one because another process of its cluster
    /// was stopped.
    pub(crate) async fn ends(&mut self) -> Result<(), Failure> {
        match (&mut self.ended).await {
            Ok(ended) => ended.map_err(Failure::from),
            Err(_) => Err(Failure::new(Exit::Defect, "the dataflow's thread is gone")),
        }
    }

    /// Waits until the dataflow ends by itself. Without a cluster this is always a failure.
    pub(crate) async fn fails(&mut self) -> Failure {
        match self.ends().await {
            Err(failure) => failure,
            Ok(()) => Failure::new(Exit::Defect, "the dataflow ended without being asked to"),
        }
    }

    /// Stops the dataflow. Does not wait long for one that has not begun, or for a log that does not respond.
    pub(crate) async fn stop(self, drain: &Drain) -> Result<(), Failure> {
        self.stop.request();
        let patience = match *self.begun.borrow() {
            true => drain.left(),
            false => LOG_PATIENCE,
        };
        let until = Instant::now() + patience;
        let answers = async || {
            let (log, topic) = (self.log.clone(), self.reactions.clone());
            let answer = tokio::task::spawn_blocking(move || log.answers(&topic, LOG_PATIENCE));
            matches!(answer.await, Ok(Ok(())))
        };
        // Checked repeatedly: the log may become unreachable during the last transaction.
        let left_behind = async {
            while Instant::now() < until && answers().await {
                tokio::time::sleep(LOG_PATIENCE).await;
            }
        };
        tokio::select! {
            biased;
            ended = self.ended => match ended {
                Ok(Err(error)) => Err(error.into()),
                _ => Ok(()),
            },
            () = left_behind => {
                tracing::warn!("the dataflow does not wait for the log any longer; what was not committed is counted by the next run");
                Ok(())
            }
        }
    }
}
