//! Tests with more reactions than the log accepts: refusals are fast, memory is bounded, and no accepted reaction is
//! lost.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use emostream_ingest::Config;
use emostream_log::testing::{Appends, until};

use crate::fixture::{DEADLINE, Response, TestService, array};

const CAPACITY: u32 = 1000;
const CLIENTS: usize = 8;
const POSTED_AT_ONCE: usize = 50;

/// Minimum number of refusals. It is large enough that each of the three values of `Retry-After` almost certainly
/// occurs.
const REFUSALS: usize = 200;

/// Minimum number of accepted reactions: several times the capacity of the buffer, so that the log limits the
/// throughput.
const ACCEPTED: usize = 5 * CAPACITY as usize;

/// The responses that clients received.
#[derive(Default)]
struct Outcomes {
    accepted: Mutex<BTreeSet<String>>,
    retry_after: Mutex<BTreeSet<u64>>,
    refusals: AtomicUsize,
}

impl Outcomes {
    fn note(&self, response: &Response, users: Vec<String>) {
        match response.status {
            202 => self.accepted.lock().unwrap().extend(users),
            503 => {
                let seconds = response.header("retry-after").unwrap().parse().unwrap();
                self.retry_after.lock().unwrap().insert(seconds);
                self.refusals.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("{response:?}"),
        }
    }

    fn enough(&self) -> bool {
        let accepted = self.accepted.lock().unwrap().len();
        accepted >= ACCEPTED && self.refusals.load(Ordering::Relaxed) >= REFUSALS
    }
}

fn fill(service: &TestService) -> f64 {
    service.metric("emostream_ingest_buffer_reactions")
}

/// Posts reactions of users that no other request uses.
fn post_some(service: &TestService, client: usize, round: usize, outcomes: &Outcomes) {
    let users: Vec<String> = (0..POSTED_AT_ONCE)
        .map(|place| format!("{client}-{round}-{place}"))
        .collect();
    let entries: Vec<String> = users
        .iter()
        .map(|user| format!(r#"{{"user_id":"{user}","emoji_type":"🔥"}}"#))
        .collect();
    let response = service.post("/v1/reactions", format!("[{}]", entries.join(",")));
    outcomes.note(&response, users);
}

#[test]
fn above_the_throughput_of_the_log_some_are_refused_and_all_accepted_are_stored() {
    let mut service = TestService::start(Config {
        flush: Duration::from_millis(5),
        buffer_reactions: CAPACITY,
        ..Config::default()
    });
    service.log.appends(Appends::Held);
    let (outcomes, over) = (Outcomes::default(), AtomicBool::new(false));
    let start = Instant::now();
    thread::scope(|scope| {
        let _end = OnDrop(&over);
        for client in 0..CLIENTS {
            let (service, outcomes, over) = (&service, &outcomes, &over);
            scope.spawn(move || {
                let _end = OnDrop(over);
                let mut round = 0;
                while !over.load(Ordering::Relaxed) {
                    post_some(service, client, round, outcomes);
                    round += 1;
                }
            });
        }
        while !outcomes.enough() && !over.load(Ordering::Relaxed) {
            assert!(start.elapsed() < DEADLINE, "too little in time");
            let fill = fill(&service);
            assert!(fill <= f64::from(CAPACITY), "{fill}");
            service.log.release(3);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let waits = outcomes.retry_after.into_inner().unwrap();
    assert_eq!(waits, BTreeSet::from([1, 2, 3]), "jittered");
    service.log.store();
    service.stop(Duration::from_secs(10)).unwrap();
    let stored = service.reactions();
    let users: BTreeSet<String> = stored.iter().map(|r| r.user.as_str().to_owned()).collect();
    assert_eq!(stored.len(), users.len(), "none is stored twice");
    assert_eq!(users, outcomes.accepted.into_inner().unwrap());
}

#[test]
fn refusals_do_not_wait_for_the_log() {
    let service = TestService::start(Config {
        flush: Duration::from_millis(5),
        buffer_reactions: CAPACITY,
        ..Config::default()
    });
    service.log.appends(Appends::Held);
    let all = array(1000);
    until("full", || {
        service.post("/v1/reactions", &all);
        fill(&service) == f64::from(CAPACITY)
    });
    // The log acknowledges nothing in this loop, so a request that waits for the log would get no response.
    for _ in 0..100 {
        assert_eq!(service.post("/v1/reactions", array(1)).status, 503);
        assert_eq!(service.post("/emoji?wait=stored", array(1)).status, 503);
    }
    service.log.store();
    until("empty", || fill(&service) == 0.0);
    assert_eq!(service.post("/v1/reactions", array(1)).status, 202);
}

/// Sets its flag when it is dropped. So the other threads stop when this thread ends, even if it ends by a panic.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
