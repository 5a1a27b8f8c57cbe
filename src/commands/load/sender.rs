//! Sends each request at its scheduled time. If all connections are in use, the request is sent as soon as one is idle.
//!
//! If a request waits for a connection, the server has not responded on the others, so the wait is part of the latency.
//! If a request is late although a connection is idle, this machine is too busy. That delay is also measured
//! separately; otherwise a slow generator would look like a slow server.

#![allow(clippy::disallowed_methods, reason = "this module measures latencies")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use hyper::{Method, Uri};
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use super::{
    ledger::{Ledger, latencies, record},
    schedule::Schedule,
    workload::Workload,
};
use crate::client::{ApiRequest, Connections};

/// Time after the end of the schedule in which delayed requests are still sent.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(15);
/// Number of requests after which the task yields if it is late, so that responses are processed.
const YIELD_EVERY: u64 = 16;
/// Delay up to which the sender counts as on time: twice the resolution of tokio's timer.
const CAUGHT_UP: Duration = Duration::from_millis(2);

/// Sends the requests of a schedule.
pub(super) struct Sender {
    plan: Schedule,
    workload: Workload,
    connections: Arc<Connections>,
    path: Uri,
    ledger: Arc<Ledger>,
    bar: ProgressBar,
    sent: u64,
    own_delay_us: Histogram<u64>,
    /// A channel to detect that no request is in flight. The task of each request has a clone of the channel's sender,
    /// so the receiver ends after the last response.
    in_flight: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

/// The requests that a sender has sent, and their delays.
#[derive(Debug)]
pub(super) struct Performed {
    /// Number of requests that were sent.
    pub(super) sent: u64,
    /// The delays of requests that this machine caused and not the server, microseconds.
    pub(super) own_delay_us: Histogram<u64>,
}

impl Sender {
    /// Creates a sender of POST requests to `path`.
    pub(super) fn new(
        plan: Schedule,
        workload: Workload,
        (connections, path): (Arc<Connections>, &'static str),
        ledger: Arc<Ledger>,
        bar: ProgressBar,
    ) -> Self {
        Self {
            plan,
            workload,
            connections,
            path: Uri::from_static(path),
            ledger,
            bar,
            sent: 0,
            own_delay_us: latencies(),
            in_flight: mpsc::channel(1),
        }
    }

    /// Sends all requests. If this future is dropped, the requests in flight continue.
    pub(super) async fn send_all(&mut self) {
        let start = Instant::now();
        let last = start + self.plan.due(self.plan.posts()) + CATCH_UP_LIMIT;
        let mut held_up = false;
        while self.sent < self.plan.posts() {
            let due = start + self.plan.due(self.sent);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            } else if self.sent.is_multiple_of(YIELD_EVERY) {
                tokio::task::yield_now().await;
            }
            let behind = due.elapsed();
            held_up &= behind > CAUGHT_UP;
            if !held_up {
                record(&mut self.own_delay_us, behind);
            }
            let waited_from = Instant::now();
            let Ok(permit) = tokio::time::timeout_at(last.into(), self.connections.permit()).await
            else {
                return;
            };
            held_up |= waited_from.elapsed() > CAUGHT_UP;
            let (kinds, body, token) = self.workload.next();
            let request = ApiRequest {
                method: Method::POST,
                path: self.path.clone(),
                body,
                token,
            };
            let (connections, ledger) = (self.connections.clone(), self.ledger.clone());
            let (bar, in_flight) = (self.bar.clone(), self.in_flight.0.clone());
            tokio::spawn(async move {
                let (answer, at) = connections.send(permit, request).await;
                ledger.book(&kinds, &answer, at.saturating_duration_since(due));
                bar.inc(1);
                drop(in_flight);
            });
            self.sent += 1;
        }
    }

    /// Waits until no request is in flight, and returns the result.
    pub(super) async fn answered(self) -> Performed {
        let (own, mut all) = self.in_flight;
        drop(own);
        // No value is sent over the channel: `recv` returns when all clones of its sender are dropped.
        let _ = all.recv().await;
        Performed {
            sent: self.sent,
            own_delay_us: self.own_delay_us,
        }
    }
}
