//! Tests with a full buffer, and with a log that refuses records or does not acknowledge them.

use std::{io::Write, time::Duration};

use emostream_ingest::{Config, DrainError};
use emostream_log::testing::{Appends, until};

use crate::fixture::{NEVER, PARTITIONS, Response, TestService, array};

fn stored(service: &TestService) -> f64 {
    service.metric(r#"emostream_ingest_reactions_total{outcome="stored"}"#)
}

fn lost(service: &TestService) -> f64 {
    service.metric(r#"emostream_ingest_reactions_total{outcome="lost"}"#)
}

#[test]
fn a_full_buffer_is_503_before_the_body_is_read() {
    let mut service = TestService::start(Config {
        flush: NEVER,
        buffer_reactions: 100,
        ..Config::default()
    });
    until("the first heartbeat", || {
        service.written().len() == PARTITIONS as usize
    });
    assert_eq!(service.post("/v1/reactions", array(50)).status, 202);
    assert_eq!(service.post("/v1/reactions", array(30)).status, 202);
    let mut stream = service.connect();
    // The body is never sent, so the test fails if the response waits for it.
    stream
        .write_all(b"POST /v1/reactions HTTP/1.1\r\nhost: h\r\ncontent-length: 500\r\n\r\n")
        .unwrap();
    let response = Response::read(&mut stream);
    assert_eq!(response.status, 503);
    let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&seconds));
    assert_eq!(
        service.post("/v1/reactions", array(5)).status,
        202,
        "reactions that fit are accepted"
    );
    assert_eq!(service.metric("emostream_ingest_buffer_reactions"), 85.0);
    assert_eq!(
        service.metric("emostream_ingest_buffer_capacity_reactions"),
        100.0
    );
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 85);
}

#[test]
fn unacknowledged_reactions_fill_the_buffer() {
    let service = TestService::start(Config {
        flush: Duration::from_millis(10),
        buffer_reactions: 100,
        ..Config::default()
    });
    service.log.appends(Appends::Held);
    for count in [40, 30] {
        assert_eq!(service.post("/v1/reactions", array(count)).status, 202);
    }
    assert_eq!(service.post("/v1/reactions", array(40)).status, 503);
    until("not ready", || {
        let check = service.readiness.check();
        check.is_err_and(|reason| reason.contains("acknowledged nothing for"))
    });
    service.log.store();
    until("empty", || {
        service.metric("emostream_ingest_buffer_reactions") == 0.0
    });
    assert_eq!(service.post("/v1/reactions", array(40)).status, 202);
    until("ready", || service.readiness.check().is_ok());
    until("stored", || stored(&service) == 110.0);
    assert_eq!(service.reactions().len(), 110);
}

/// Returns a configuration that flushes each request at once. No heartbeats are sent during a test, since they would
/// detect the outage before the request.
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
fn a_refusal_of_the_log_is_503_for_waiting_requests_and_counted_as_lost_otherwise() {
    for (appends, reason) in REFUSALS {
        let service = TestService::start(at_once());
        until("ready", || service.readiness.check().is_ok());
        service.log.appends(appends);
        assert_eq!(service.post("/v1/reactions", array(2)).status, 202);
        until("counted", || lost(&service) == 2.0);

        let service = TestService::start(at_once());
        until("ready", || service.readiness.check().is_ok());
        service.log.appends(appends);
        let response = service.post("/emoji?wait=stored", array(3));
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").is_some());
        assert!(
            response.body["error"].as_str().unwrap().contains(reason),
            "{response:?}"
        );
        assert_eq!(lost(&service), 0.0, "the client has received the error");
        let refused = r#"emostream_ingest_reactions_total{outcome="refused"}"#;
        assert_eq!(service.metric(refused), 3.0);
        assert_eq!(service.reactions().len(), 0);
    }
}

#[test]
fn reactions_are_refused_while_the_log_refuses_records_and_accepted_afterwards() {
    for (appends, reason) in REFUSALS {
        let service = TestService::start(Config {
            flush: Duration::from_millis(10),
            ..Config::default()
        });
        until("ready", || service.readiness.check().is_ok());
        service.log.appends(appends);
        until("not ready", || service.readiness.check().is_err());
        let not_ready = service.readiness.check().unwrap_err();
        assert!(
            not_ready.starts_with("ingest: ") && not_ready.contains(reason),
            "{not_ready}"
        );
        for path in ["/v1/reactions", "/v1/reactions?wait=stored"] {
            let response = service.post(path, array(2));
            assert_eq!(response.status, 503);
            assert!(response.header("retry-after").is_some());
            let detail = response.body["detail"].as_str().unwrap();
            assert!(detail.contains("does not respond"), "{detail}");
        }
        assert_eq!(
            service.metric("emostream_ingest_partitions_away"),
            f64::from(PARTITIONS)
        );
        assert!(service.metric(r#"emostream_ingest_flushes_total{outcome="failed"}"#) >= 1.0);
        service.log.appends(Appends::Stored);
        until("ready", || service.readiness.check().is_ok());
        assert_eq!(
            service.post("/v1/reactions?wait=stored", array(4)).status,
            200
        );
        assert_eq!((stored(&service), lost(&service)), (4.0, 0.0));
        assert_eq!(service.metric("emostream_ingest_partitions_away"), 0.0);
        assert_eq!(
            service.reactions().len(),
            4,
            "nothing is stored after a 503"
        );
    }
}

#[test]
fn no_reaction_is_lost_with_an_unavailable_partition() {
    for appends in [Appends::TimeOut, Appends::Full, Appends::Held] {
        let mut service = TestService::start(Config {
            flush: Duration::from_millis(10),
            ..Config::default()
        });
        until("ready", || service.readiness.check().is_ok());
        service.log.appends_to(1, appends);
        until("noticed", || {
            service.metric("emostream_ingest_partitions_away") == 1.0
        });
        assert_eq!(service.readiness.check(), Ok(()));
        for _ in 0..5 {
            assert_eq!(service.post("/v1/reactions", array(9)).status, 202);
            let waited = service.post("/v1/reactions?wait=stored", array(9));
            assert_eq!(waited.status, 200);
        }
        service.log.store();
        until("back", || {
            service.metric("emostream_ingest_partitions_away") == 0.0
        });
        service.stop(Duration::from_secs(10)).unwrap();
        assert_eq!(service.reactions().len(), 90);
        assert_eq!(lost(&service), 0.0);
    }
}

#[test]
fn the_other_partitions_get_the_records_of_one_that_is_not_writable_yet() {
    // When a partition is added, the ingest may know the new number of partitions before its producer knows the new
    // partition.
    let mut service = TestService::start(at_once());
    until("ready", || service.readiness.check().is_ok());
    service.log.appends_to(2, Appends::Full);
    for _ in 0..6 {
        assert_eq!(service.post("/v1/reactions", array(3)).status, 202);
        let waited = service.post("/v1/reactions?wait=stored", array(3));
        assert_eq!(waited.status, 200);
    }
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 36);
}

#[test]
fn a_drain_reports_the_reactions_that_it_could_not_store() {
    let mut silent = TestService::start(Config::default());
    until("ready", || silent.readiness.check().is_ok());
    silent.log.appends(Appends::Held);
    assert_eq!(silent.post("/v1/reactions", array(7)).status, 202);
    let response = silent.stop(Duration::from_millis(200));
    assert!(
        matches!(response, Err(DrainError::Unacknowledged { reactions: 7 })),
        "{response:?}"
    );
    let mut failing = TestService::start(Config {
        flush: NEVER,
        ..Config::default()
    });
    until("the first heartbeat", || {
        failing.written().len() == PARTITIONS as usize
    });
    assert_eq!(failing.post("/v1/reactions", array(7)).status, 202);
    failing.log.appends(Appends::TimeOut);
    let response = failing.stop(Duration::from_secs(10));
    assert!(
        matches!(response, Err(DrainError::Refused { reactions: 7 })),
        "{response:?}"
    );
    assert_eq!(lost(&failing), 7.0);
}
