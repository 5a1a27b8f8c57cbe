//! Sends every request at its intended moment, or as soon after as the bound on open ones allows.

use std::{sync::Arc, time::Instant};

use indicatif::ProgressBar;
use tokio::sync::Semaphore;

use super::{crowd::Crowd, ledger::Ledger, schedule::Schedule};
use crate::client::Poster;

/// The most requests under way: what a few cores can usefully hold open. Beyond it requests wait,
/// and their wait is part of their latency.
pub(super) const IN_FLIGHT: usize = 512;

/// Sends them all and waits for their answers.
pub(super) async fn send_all(
    plan: &Schedule,
    crowd: Crowd,
    poster: &Poster,
    path: &'static str,
    ledger: &Arc<Ledger>,
    bar: &ProgressBar,
) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT));
    let start = Instant::now();
    for nth in 0..plan.posts() {
        let due = start + plan.due(nth);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let (poster, ledger, bar) = (poster.clone(), ledger.clone(), bar.clone());
        let (reacted, body) = crowd.next();
        tokio::spawn(async move {
            let answer = poster.post(path, body).await;
            ledger.book(reacted, &answer, due.elapsed());
            bar.inc(1);
            drop(place);
        });
    }
    // All places free: all answered.
    let _ = places.acquire_many(IN_FLIGHT as u32).await;
}
