//! Sends every request at its intended moment, or as soon after as the limit on connections allows.
//!
//! A request that waits for a connection waits because the server holds the others: the wait is part of
//! its latency. A request that is late though a connection is free is late because this machine is
//! busy; that is measured apart, or a slow generator would pass for a slow server.

#![allow(clippy::disallowed_methods, reason = "measures latencies")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use hyper::{Method, Uri};
use indicatif::ProgressBar;
use tokio::sync::mpsc;

use super::{
    crowd::Crowd,
    ledger::{Ledger, latencies, record},
    schedule::Schedule,
};
use crate::client::{Connections, Question};

/// How long after the end the server may still be behind; what is unsent then is not sent.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(15);
/// So many requests behind, answers are looked at before more are sent.
const AT_ONCE: u64 = 16;
/// Behind by less, and the sender has caught up: twice the timer's grain.
const CAUGHT_UP: Duration = Duration::from_millis(2);

/// What was sent, in time or not.
pub(super) struct Sender {
    plan: Schedule,
    crowd: Crowd,
    connections: Arc<Connections>,
    path: Uri,
    ledger: Arc<Ledger>,
    bar: ProgressBar,
    sent: u64,
    own_delay_us: Histogram<u64>,
    /// Dropped with the answer of the request it was given to.
    under_way: (mpsc::Sender<()>, mpsc::Receiver<()>),
}

/// What became of the plan.
#[derive(Debug)]
pub(super) struct Performed {
    /// Requests sent.
    pub(super) sent: u64,
    /// How late this machine was itself, microseconds.
    pub(super) own_delay_us: Histogram<u64>,
}

impl Sender {
    /// Posts go to the path over the connections.
    pub(super) fn new(
        plan: Schedule,
        crowd: Crowd,
        (connections, path): (Arc<Connections>, &'static str),
        ledger: Arc<Ledger>,
        bar: ProgressBar,
    ) -> Self {
        Self {
            plan,
            crowd,
            connections,
            path: Uri::from_static(path),
            ledger,
            bar,
            sent: 0,
            own_delay_us: latencies(),
            under_way: mpsc::channel(1),
        }
    }

    /// Sends them all. May be dropped: what was sent is under way.
    pub(super) async fn send_all(&mut self) {
        let start = Instant::now();
        let last = start + self.plan.due(self.plan.posts()) + CATCH_UP_LIMIT;
        let mut held_up = false;
        while self.sent < self.plan.posts() {
            let due = start + self.plan.due(self.sent);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            } else if self.sent.is_multiple_of(AT_ONCE) {
                tokio::task::yield_now().await;
            }
            let behind = due.elapsed();
            held_up &= behind > CAUGHT_UP;
            if !held_up {
                record(&mut self.own_delay_us, behind);
            }
            let waited_from = Instant::now();
            let Ok(place) = tokio::time::timeout_at(last.into(), self.connections.place()).await
            else {
                return;
            };
            held_up |= waited_from.elapsed() > CAUGHT_UP;
            let (kinds, body, token) = self.crowd.next();
            let question = Question {
                method: Method::POST,
                path: self.path.clone(),
                body,
                token,
            };
            let (connections, ledger) = (self.connections.clone(), self.ledger.clone());
            let (bar, under_way) = (self.bar.clone(), self.under_way.0.clone());
            tokio::spawn(async move {
                let (answer, at) = connections.ask(place, question).await;
                ledger.book(&kinds, &answer, at.saturating_duration_since(due));
                bar.inc(1);
                drop(under_way);
            });
            self.sent += 1;
        }
    }

    /// Waits for the answers of what was sent.
    pub(super) async fn answered(self) -> Performed {
        let (mine, mut theirs) = self.under_way;
        drop(mine);
        // Nobody sends: it ends when all have gone.
        let _ = theirs.recv().await;
        Performed {
            sent: self.sent,
            own_delay_us: self.own_delay_us,
        }
    }
}
