//! Tests of the records that flushes write.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use emostream_ingest::Config;
use emostream_log::{Header, testing::until};
use emostream_model::INSTANCE_HEADER;

use crate::fixture::{NEVER, PARTITIONS, Response, TestService, array};

#[test]
fn every_partition_gets_a_record_each_flush_a_heartbeat_without_reactions() {
    let mut service = TestService::start(Config {
        flush: Duration::from_millis(10),
        ..Config::default()
    });
    until("five flushes", || {
        service.written().len() >= 5 * PARTITIONS as usize
    });
    assert_eq!(service.readiness.check(), Ok(()));
    service.stop(Duration::from_secs(10)).unwrap();
    // The drain does not wait for the last heartbeats, so this test waits for them.
    until("partitions advance together", || {
        let mut times: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for record in service.written() {
            assert!(record.reactions.is_empty());
            assert_eq!(record.base_ms, record.time_ms, "a heartbeat's base is now");
            times
                .entry(record.partition)
                .or_default()
                .push(record.time_ms);
        }
        assert_eq!(times.len(), PARTITIONS as usize);
        assert!(times.values().all(|times| times.is_sorted()));
        let first = &times[&0];
        times.values().all(|times| times == first)
    });
}

#[test]
fn every_record_names_the_process_that_wrote_it() {
    let written = || {
        let service = TestService::start(Config {
            flush: Duration::from_millis(10),
            ..Config::default()
        });
        service.post("/v1/reactions?wait=stored", array(5));
        let headers = service.written().into_iter().map(|record| record.headers);
        headers.collect::<Vec<_>>()
    };
    let (first, second) = (written(), written());
    for records in [&first, &second] {
        let [instance] = &records[0][..] else {
            panic!("{:?}", records[0]);
        };
        assert_eq!(instance.name, INSTANCE_HEADER);
        assert!(records.iter().all(|headers| *headers == records[0]));
    }
    // Only the host names in the ids are compared. The other digits are random, so they may be equal.
    let host = |records: &[Vec<Header>]| {
        let id = String::from_utf8(records[0][0].value.to_vec()).unwrap();
        id.rsplit_once('-').unwrap().0.to_owned()
    };
    assert_eq!(host(&first), host(&second));
}

#[test]
fn reactions_are_split_evenly_with_times_between_base_and_flush() {
    let mut service = TestService::start(Config {
        flush: NEVER,
        ..Config::default()
    });
    until("the first heartbeat", || {
        service.written().len() == PARTITIONS as usize
    });
    for _ in 0..4 {
        assert_eq!(service.post("/v1/reactions", array(250)).status, 202);
    }
    service.stop(Duration::from_secs(10)).unwrap();
    let written = service.written();
    let full: Vec<_> = written
        .iter()
        .filter(|record| !record.reactions.is_empty())
        .collect();
    let mut shares: Vec<usize> = full.iter().map(|record| record.reactions.len()).collect();
    shares.sort_unstable();
    assert_eq!(shares, [333, 333, 334]);
    for record in full {
        for reaction in &record.reactions {
            assert!((record.base_ms..=record.time_ms).contains(&reaction.at_ms));
        }
    }
}

#[test]
fn the_first_request_after_a_quiet_interval_is_one_record_at_once() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let mut service = TestService::start(Config {
        flush: INTERVAL,
        ..Config::default()
    });
    // The requests come between the ends of two intervals.
    sleep(INTERVAL * 5 / 4);
    for count in [1, 2, 3] {
        assert_eq!(service.post("/v1/reactions", array(count)).status, 202);
    }
    service.stop(Duration::from_secs(10)).unwrap();
    // The records of one flush have the same time.
    let flushes = || {
        let mut flushes: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for record in service.written() {
            let sizes = flushes.entry(record.time_ms).or_default();
            sizes.push(record.reactions.len());
        }
        flushes.into_values().collect::<Vec<_>>()
    };
    // The drain does not wait for the last heartbeats, so this test waits for them.
    until("one flush is not to all partitions", || {
        let flushes = flushes();
        let partial = |sizes: &&Vec<usize>| sizes.len() < PARTITIONS as usize;
        let partial: Vec<_> = flushes.iter().filter(partial).collect();
        partial == [&[1]]
    });
    assert_eq!(service.reactions().len(), 6);
}

#[test]
fn enough_reactions_are_flushed_before_the_interval_ends() {
    let service = TestService::start(Config {
        flush: NEVER,
        flush_count: 10,
        ..Config::default()
    });
    until("the first heartbeat", || {
        service.written().len() == PARTITIONS as usize
    });
    service.post("/v1/reactions", array(9));
    assert_eq!(service.reactions().len(), 0);
    service.post("/v1/reactions", array(1));
    until("flushed", || service.reactions().len() == 10);
}

#[test]
fn reactions_with_a_stored_response_are_in_the_log() {
    let service = TestService::start(Config {
        flush: Duration::from_millis(20),
        ..Config::default()
    });
    for count in 1..=20 {
        assert_eq!(
            service.post("/v1/reactions?wait=stored", array(1)).status,
            200
        );
        assert_eq!(service.reactions().len(), count);
    }
}

#[test]
fn a_drain_stores_all_accepted_reactions_and_then_refuses_new_ones() {
    let mut service = TestService::start(Config {
        flush: NEVER,
        ..Config::default()
    });
    for _ in 0..20 {
        assert_eq!(service.post("/v1/reactions", array(100)).status, 202);
    }
    service.drain(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 2000);
    assert_eq!(service.post("/v1/reactions", array(1)).status, 503);
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(service.reactions().len(), 2000);
}

#[test]
fn reactions_that_wait_to_be_stored_are_stored_while_the_service_stops() {
    let mut service = TestService::start(Config {
        flush: Duration::from_millis(300),
        ..Config::default()
    });
    let mut waiting = service.begin("POST /v1/reactions?wait=stored", &[], array(3));
    until("in the buffer", || {
        service.metric("emostream_ingest_buffer_reactions") == 3.0
            || service.metric(r#"emostream_ingest_reactions_total{outcome="stored"}"#) == 3.0
    });
    service.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(Response::read(&mut waiting).status, 200);
    assert_eq!(service.reactions().len(), 3);
}
