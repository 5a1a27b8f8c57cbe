//! A full buffer, and a log that refuses or says nothing.

use std::{io::Write, time::Duration};

use emostream_ingest::{Config, DrainError};
use emostream_log::testing::{Appends, until};

use crate::stage::{Answer, NEVER, PARTITIONS, Stage, array};

fn stored(stage: &Stage) -> f64 {
    stage.metric(r#"emostream_ingest_reactions_total{outcome="stored"}"#)
}

fn lost(stage: &Stage) -> f64 {
    stage.metric(r#"emostream_ingest_reactions_total{outcome="lost"}"#)
}

#[test]
fn a_full_buffer_is_503_before_the_body_is_read() {
    let mut stage = Stage::start(Config {
        flush: NEVER,
        buffer_reactions: 100,
        ..Config::default()
    });
    until("the first heartbeat", || {
        stage.written().len() == PARTITIONS as usize
    });
    assert_eq!(stage.post("/v1/reactions", array(50)).status, 202);
    assert_eq!(stage.post("/v1/reactions", array(30)).status, 202);
    let mut stream = stage.connect();
    // The body never comes: the answer does not wait for it.
    stream
        .write_all(b"POST /v1/reactions HTTP/1.1\r\nhost: h\r\ncontent-length: 500\r\n\r\n")
        .unwrap();
    let said = Answer::read(&mut stream);
    assert_eq!(said.status, 503);
    let seconds: u64 = said.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&seconds));
    assert_eq!(
        stage.post("/v1/reactions", array(5)).status,
        202,
        "what fits is taken"
    );
    assert_eq!(stage.metric("emostream_ingest_buffer_reactions"), 85.0);
    assert_eq!(
        stage.metric("emostream_ingest_buffer_capacity_reactions"),
        100.0
    );
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 85);
}

#[test]
fn what_the_log_has_not_acknowledged_fills_the_buffer() {
    let stage = Stage::start(Config {
        flush: Duration::from_millis(10),
        buffer_reactions: 100,
        ..Config::default()
    });
    stage.log.appends(Appends::Held);
    for count in [40, 30] {
        assert_eq!(stage.post("/v1/reactions", array(count)).status, 202);
    }
    assert_eq!(stage.post("/v1/reactions", array(40)).status, 503);
    until("not ready", || {
        let check = stage.readiness.check();
        check.is_err_and(|reason| reason.contains("acknowledged nothing for"))
    });
    stage.log.store();
    until("empty", || {
        stage.metric("emostream_ingest_buffer_reactions") == 0.0
    });
    assert_eq!(stage.post("/v1/reactions", array(40)).status, 202);
    until("ready", || stage.readiness.check().is_ok());
    until("stored", || stored(&stage) == 110.0);
    assert_eq!(stage.reactions().len(), 110);
}

/// Flushes what comes at once, and nothing else: no heartbeat tells of the log meanwhile.
fn at_once() -> Config {
    Config {
        flush: NEVER,
        flush_count: 1,
        ..Config::default()
    }
}

const REFUSALS: [(Appends, &str); 2] = [
    (Appends::TimeOut, "did not acknowledge in time: no broker"),
    (Appends::Full, "the log's queue is full"),
];

#[test]
fn what_the_log_refuses_is_503_to_those_who_wait_and_counted_for_the_others() {
    for (appends, reason) in REFUSALS {
        let stage = Stage::start(at_once());
        until("ready", || stage.readiness.check().is_ok());
        stage.log.appends(appends);
        assert_eq!(stage.post("/v1/reactions", array(2)).status, 202);
        until("counted", || lost(&stage) == 2.0);

        let stage = Stage::start(at_once());
        until("ready", || stage.readiness.check().is_ok());
        stage.log.appends(appends);
        let said = stage.post("/emoji?wait=stored", array(3));
        assert_eq!(said.status, 503);
        assert!(said.header("retry-after").is_some());
        assert!(
            said.body["error"].as_str().unwrap().contains(reason),
            "{said:?}"
        );
        assert_eq!(lost(&stage), 0.0, "its sender knows");
        let refused = r#"emostream_ingest_reactions_total{outcome="refused"}"#;
        assert_eq!(stage.metric(refused), 3.0);
        assert_eq!(stage.reactions().len(), 0);
    }
}

#[test]
fn nothing_is_accepted_while_the_log_refuses_all_and_again_when_it_does_not() {
    for (appends, reason) in REFUSALS {
        let stage = Stage::start(Config {
            flush: Duration::from_millis(10),
            ..Config::default()
        });
        until("ready", || stage.readiness.check().is_ok());
        stage.log.appends(appends);
        until("not ready", || stage.readiness.check().is_err());
        let not_ready = stage.readiness.check().unwrap_err();
        assert!(
            not_ready.starts_with("ingest: ") && not_ready.contains(reason),
            "{not_ready}"
        );
        for path in ["/v1/reactions", "/v1/reactions?wait=stored"] {
            let said = stage.post(path, array(2));
            assert_eq!(said.status, 503);
            assert!(said.header("retry-after").is_some());
            let detail = said.body["detail"].as_str().unwrap();
            assert!(detail.contains("does not answer"), "{detail}");
        }
        assert_eq!(
            stage.metric("emostream_ingest_partitions_away"),
            f64::from(PARTITIONS)
        );
        assert!(stage.metric(r#"emostream_ingest_flushes_total{outcome="failed"}"#) >= 1.0);
        stage.log.appends(Appends::Stored);
        until("ready", || stage.readiness.check().is_ok());
        assert_eq!(
            stage.post("/v1/reactions?wait=stored", array(4)).status,
            200
        );
        assert_eq!((stored(&stage), lost(&stage)), (4.0, 0.0));
        assert_eq!(stage.metric("emostream_ingest_partitions_away"), 0.0);
        assert_eq!(
            stage.reactions().len(),
            4,
            "nothing is stored after its sender was told no"
        );
    }
}

#[test]
fn a_partition_that_is_away_costs_nobody_a_reaction() {
    for appends in [Appends::TimeOut, Appends::Full, Appends::Held] {
        let mut stage = Stage::start(Config {
            flush: Duration::from_millis(10),
            ..Config::default()
        });
        until("ready", || stage.readiness.check().is_ok());
        stage.log.appends_to(1, appends);
        until("noticed", || {
            stage.metric("emostream_ingest_partitions_away") == 1.0
        });
        assert_eq!(stage.readiness.check(), Ok(()));
        for _ in 0..5 {
            assert_eq!(stage.post("/v1/reactions", array(9)).status, 202);
            let waited = stage.post("/v1/reactions?wait=stored", array(9));
            assert_eq!(waited.status, 200);
        }
        stage.log.store();
        until("back", || {
            stage.metric("emostream_ingest_partitions_away") == 0.0
        });
        stage.stop(Duration::from_secs(10)).unwrap();
        assert_eq!(stage.reactions().len(), 90);
        assert_eq!(lost(&stage), 0.0);
    }
}

#[test]
fn a_partition_that_cannot_be_written_to_yet_is_left_to_the_others() {
    // Its count is known before a producer knows it.
    let mut stage = Stage::start(at_once());
    until("ready", || stage.readiness.check().is_ok());
    stage.log.appends_to(2, Appends::Full);
    for _ in 0..6 {
        assert_eq!(stage.post("/v1/reactions", array(3)).status, 202);
        let waited = stage.post("/v1/reactions?wait=stored", array(3));
        assert_eq!(waited.status, 200);
    }
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 36);
}

#[test]
fn a_drain_says_what_it_could_not_store() {
    let mut silent = Stage::start(Config::default());
    until("ready", || silent.readiness.check().is_ok());
    silent.log.appends(Appends::Held);
    assert_eq!(silent.post("/v1/reactions", array(7)).status, 202);
    let said = silent.stop(Duration::from_millis(200));
    assert!(
        matches!(said, Err(DrainError::Unacknowledged { reactions: 7 })),
        "{said:?}"
    );
    let mut failing = Stage::start(Config {
        flush: NEVER,
        ..Config::default()
    });
    until("the first heartbeat", || {
        failing.written().len() == PARTITIONS as usize
    });
    assert_eq!(failing.post("/v1/reactions", array(7)).status, 202);
    failing.log.appends(Appends::TimeOut);
    let said = failing.stop(Duration::from_secs(10));
    assert!(
        matches!(said, Err(DrainError::Refused { reactions: 7 })),
        "{said:?}"
    );
    assert_eq!(lost(&failing), 7.0);
}
