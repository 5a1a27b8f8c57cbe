//! Runs the dataflow of an application on a thread of its own.

#![allow(clippy::disallowed_methods, reason = "computes the deadline of a stop")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use emostream_http::Component;
use emostream_log::Log;
use emostream_streams::{
    Stop, StreamsError,
    runtime::run::{Activity, run},
    source::format::Format,
    topology::Application,
};
use tokio::sync::{oneshot, watch};

use super::{drain::Drain, observability::Observability};
use crate::process::{Exit, Failure};

/// Maximum time that a dataflow waits for a log that does not respond, after its stop was requested. A short time is
/// enough: the last transaction is either committed or not, the next run detects which of the two is the case, and no
/// result is lost.
const LOG_TIMEOUT: Duration = Duration::from_millis(400);

/// The dataflow of an application on a thread of its own.
pub struct DataflowThread {
    stop: Stop,
    log: Arc<dyn Log>,
    source: String,
    active: watch::Receiver<bool>,
    ended: oneshot::Receiver<Result<(), StreamsError>>,
}

impl DataflowThread {
    /// Starts the thread, which runs `app`. From now on, `/readyz` depends on the state of the dataflow.
    pub fn start<F: Format>(
        app: Application<F>,
        log: Arc<dyn Log>,
        observability: &Observability,
    ) -> Result<Self, Failure> {
        let stop = Stop::default();
        let source = app.config().topics.source.clone();
        let counted = log.clone();
        let (end, ended) = oneshot::channel();
        let (registry, stopping) = (observability.registry.clone(), stop.clone());
        let component: Component = observability.readiness.component("dataflow");
        let (set_active, active) = watch::channel(false);
        let ready = Arc::new(move |state: Result<Activity, String>| match state {
            Ok(Activity::Active) => {
                component.ready_as("active");
                set_active.send_replace(true);
            }
            Ok(Activity::Standby(active)) => {
                component.ready_as(format!("standby; {active}"));
                set_active.send_replace(false);
            }
            Err(why) => component.not_ready(why),
        });
        thread::Builder::new()
            .name("dataflow".to_owned())
            .spawn(move || {
                let outcome = run(app, counted, &registry, stopping, ready);
                // An error is ignored, since the receiver may be dropped while the process ends.
                let _ = end.send(outcome);
            })
            .map_err(|error| {
                Failure::unavailable(format!("the dataflow's thread cannot start: {error}"))
            })?;
        Ok(Self {
            stop,
            log,
            source,
            active,
            ended,
        })
    }

    /// Waits until the dataflow is active. Returns an error if the dataflow ends before that.
    pub async fn until_active(&mut self) -> Result<(), Failure> {
        let mut active = self.active.clone();
        tokio::select! {
            Ok(_) = active.wait_for(|active| *active) => Ok(()),
            failure = self.until_failed() => Err(failure),
        }
    }

    /// Waits until the dataflow ends although this process has not requested it. The dataflow ends with an error, or
    /// without an error if another process of its cluster was stopped.
    pub async fn until_ended(&mut self) -> Result<(), Failure> {
        match (&mut self.ended).await {
            Ok(ended) => ended.map_err(Failure::from),
            Err(_) => Err(Failure::new(
                Exit::Defect,
                "the dataflow's thread ended without a result",
            )),
        }
    }

    /// Waits until the dataflow ends although this process has not requested it, and returns the reason. A dataflow
    /// without a cluster ends in this way only because of a failure.
    pub async fn until_failed(&mut self) -> Failure {
        match self.until_ended().await {
            Err(failure) => failure,
            Ok(()) => Failure::new(Exit::Defect, "the dataflow ended without a request to stop"),
        }
    }

    /// Stops the dataflow, and waits for its end until the deadline of `drain`. If the dataflow is not active, or if
    /// the log does not respond, the wait is shorter.
    pub async fn stop(self, drain: &Drain) -> Result<(), Failure> {
        self.stop.request();
        let timeout = match *self.active.borrow() {
            true => drain.left(),
            false => LOG_TIMEOUT,
        };
        let until = Instant::now() + timeout;
        let log_responds = async || {
            let (log, topic) = (self.log.clone(), self.source.clone());
            let response = tokio::task::spawn_blocking(move || log.answers(&topic, LOG_TIMEOUT));
            matches!(response.await, Ok(Ok(())))
        };
        // The function checks repeatedly whether the log responds, because the log may become unreachable during the
        // last transaction.
        let timed_out = async {
            while Instant::now() < until && log_responds().await {
                tokio::time::sleep(LOG_TIMEOUT).await;
            }
        };
        tokio::select! {
            biased;
            ended = self.ended => match ended {
                Ok(Err(error)) => Err(error.into()),
                _ => Ok(()),
            },
            () = timed_out => {
                tracing::warn!("the dataflow stops waiting for the log; the next run counts the events that were not committed");
                Ok(())
            }
        }
    }
}
