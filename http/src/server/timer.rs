//! The timer that HTTP/1 watches a connection's heads with.
//!
//! ```text
//!  head awaited until 12:00:30 ──▶ set for 12:00:30
//!  head comes, the next one is awaited until 12:00:31, 12:00:32 …   the timer stays as it is
//!  12:00:30: it fires, nothing is due yet ──▶ set for what is awaited now
//! ```
//!
//! hyper sets a timer for each head and takes it back when the head is there, each time in the runtime's common
//! list of timers. Deadlines of a connection move only forward, so one timer is set now and then instead.
//!
//! Invariant: a sleep ends neither before its deadline nor, but for the runtime's grain, later.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

/// The timer of one connection. Of its sleeps, one at a time is waited for.
#[derive(Clone, Default)]
pub(crate) struct ConnectionTimer(Arc<Mutex<Set>>);

/// What the runtime was asked for, if it was.
type Set = Option<Pin<Box<tokio::time::Sleep>>>;

struct Due {
    at: Instant,
    timer: Arc<Mutex<Set>>,
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Sleep>> {
        let timer = self.0.clone();
        Box::pin(Due { at, timer })
    }
}

impl Sleep for Due {}

impl Future for Due {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut set = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let at = tokio::time::Instant::from_std(self.at);
        let sleep = set.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]
    use super::*;
    use proptest::prelude::*;
    use std::task::Waker;

    const HOUR_MS: u64 = 3_600_000;
    /// What must happen happens long before this.
    const DEADLINE: Duration = Duration::from_secs(20);

    /// Deadlines that are given up, some after they have passed, then one that is waited for.
    async fn wait_at_last(given_up: Vec<(u64, bool)>, last_ms: u64) {
        let timer = ConnectionTimer::default();
        let after = |ms| timer.sleep_until(Instant::now() + Duration::from_millis(ms));
        for (ms, passes) in given_up {
            let mut sleep = after(ms);
            let _ = sleep.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            drop(sleep);
            if passes && ms < HOUR_MS {
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        }
        let begun = Instant::now();
        let slept = tokio::time::timeout(DEADLINE, after(last_ms)).await;
        slept.expect("it is not later than it was asked for");
        assert!(begun.elapsed() >= Duration::from_millis(last_ms));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_sleep_takes_its_time_whatever_was_awaited_before_and_given_up(
            given_up in proptest::collection::vec(
                (prop_oneof![0_u64..10, Just(HOUR_MS)], any::<bool>()),
                0..6,
            ),
            last_ms in 0_u64..20,
        ) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            runtime.block_on(wait_at_last(given_up, last_ms));
        }
    }
}
