//! More than the log takes: quick refusals, bounded room, nothing lost of what was accepted.

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

use crate::stage::{Answer, DEADLINE, Stage, array};

const CAPACITY: u32 = 1000;
const CLIENTS: usize = 8;
const POSTED_AT_ONCE: usize = 50;

/// Enough that chance does not leave one of three waits out.
const REFUSALS: usize = 200;

/// Several times what the buffer holds, so the log's pace decides.
const ACCEPTED: usize = 5 * CAPACITY as usize;

/// What clients were told.
#[derive(Default)]
struct Told {
    accepted: Mutex<BTreeSet<String>>,
    retry_after: Mutex<BTreeSet<u64>>,
    refusals: AtomicUsize,
}

impl Told {
    fn note(&self, said: &Answer, users: Vec<String>) {
        match said.status {
            202 => self.accepted.lock().unwrap().extend(users),
            503 => {
                let seconds = said.header("retry-after").unwrap().parse().unwrap();
                self.retry_after.lock().unwrap().insert(seconds);
                self.refusals.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("{said:?}"),
        }
    }

    fn enough(&self) -> bool {
        let accepted = self.accepted.lock().unwrap().len();
        accepted >= ACCEPTED && self.refusals.load(Ordering::Relaxed) >= REFUSALS
    }
}

fn fill(stage: &Stage) -> f64 {
    stage.metric("emostream_ingest_buffer_reactions")
}

/// Posts reactions of users that nobody else has.
fn post_some(stage: &Stage, client: usize, round: usize, told: &Told) {
    let users: Vec<String> = (0..POSTED_AT_ONCE)
        .map(|place| format!("{client}-{round}-{place}"))
        .collect();
    let entries: Vec<String> = users
        .iter()
        .map(|user| format!(r#"{{"user_id":"{user}","emoji_type":"🔥"}}"#))
        .collect();
    let said = stage.post("/v1/reactions", format!("[{}]", entries.join(",")));
    told.note(&said, users);
}

#[test]
fn beyond_what_the_log_takes_some_are_refused_and_every_accepted_one_is_stored() {
    let mut stage = Stage::start(Config {
        flush: Duration::from_millis(5),
        buffer_reactions: CAPACITY,
        ..Config::default()
    });
    stage.log.appends(Appends::Held);
    let (told, over) = (Told::default(), AtomicBool::new(false));
    let start = Instant::now();
    thread::scope(|scope| {
        let _end = OnDrop(&over);
        for client in 0..CLIENTS {
            let (stage, told, over) = (&stage, &told, &over);
            scope.spawn(move || {
                let _end = OnDrop(over);
                let mut round = 0;
                while !over.load(Ordering::Relaxed) {
                    post_some(stage, client, round, told);
                    round += 1;
                }
            });
        }
        while !told.enough() && !over.load(Ordering::Relaxed) {
            assert!(start.elapsed() < DEADLINE, "too little in time");
            let fill = fill(&stage);
            assert!(fill <= f64::from(CAPACITY), "{fill}");
            stage.log.release(3);
            thread::sleep(Duration::from_millis(2));
        }
    });
    let waits = told.retry_after.into_inner().unwrap();
    assert_eq!(waits, BTreeSet::from([1, 2, 3]), "jittered");
    stage.log.store();
    stage.stop(Duration::from_secs(10)).unwrap();
    let stored = stage.reactions();
    let users: BTreeSet<String> = stored.iter().map(|r| r.user.as_str().to_owned()).collect();
    assert_eq!(stored.len(), users.len(), "none is stored twice");
    assert_eq!(users, told.accepted.into_inner().unwrap());
}

#[test]
fn refusals_do_not_wait_for_the_log() {
    let stage = Stage::start(Config {
        flush: Duration::from_millis(5),
        buffer_reactions: CAPACITY,
        ..Config::default()
    });
    stage.log.appends(Appends::Held);
    let all = array(1000);
    until("full", || {
        stage.post("/v1/reactions", &all);
        fill(&stage) == f64::from(CAPACITY)
    });
    // The log says nothing all the while.
    for _ in 0..100 {
        assert_eq!(stage.post("/v1/reactions", array(1)).status, 503);
        assert_eq!(stage.post("/emoji?wait=stored", array(1)).status, 503);
    }
    stage.log.store();
    until("empty", || fill(&stage) == 0.0);
    assert_eq!(stage.post("/v1/reactions", array(1)).status, 202);
}

/// Tells the others to end when this one does, panicking or not.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
