//! What flushes write.

use std::{collections::BTreeMap, time::Duration};

use emostream_ingest::Config;
use emostream_log::{Header, testing::until};
use emostream_model::INSTANCE_HEADER;

use crate::stage::{Answer, NEVER, PARTITIONS, Stage, array};

#[test]
fn every_partition_gets_a_record_each_flush_a_heartbeat_where_there_is_nothing() {
    let mut stage = Stage::start(Config {
        flush: Duration::from_millis(10),
        ..Config::default()
    });
    until("five flushes", || {
        stage.written().len() >= 5 * PARTITIONS as usize
    });
    assert_eq!(stage.readiness.check(), Ok(()));
    stage.stop(Duration::from_secs(10)).unwrap();
    // Nobody waits for the last heartbeats.
    until("partitions advance together", || {
        let mut times: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for record in stage.written() {
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
        let stage = Stage::start(Config {
            flush: Duration::from_millis(10),
            ..Config::default()
        });
        stage.post("/v1/reactions?wait=stored", array(5));
        let headers = stage.written().into_iter().map(|record| record.headers);
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
    // Two processes on one host have different ids, but for one case in 65,536.
    let host = |records: &[Vec<Header>]| {
        let id = String::from_utf8(records[0][0].value.to_vec()).unwrap();
        id.rsplit_once('-').unwrap().0.to_owned()
    };
    assert_eq!(host(&first), host(&second));
}

#[test]
fn reactions_are_dealt_evenly_with_their_times_between_base_and_flush() {
    let mut stage = Stage::start(Config {
        flush: NEVER,
        ..Config::default()
    });
    until("the first heartbeat", || {
        stage.written().len() == PARTITIONS as usize
    });
    for _ in 0..4 {
        assert_eq!(stage.post("/v1/reactions", array(250)).status, 202);
    }
    stage.stop(Duration::from_secs(10)).unwrap();
    let written = stage.written();
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
fn enough_reactions_are_flushed_before_the_time() {
    let stage = Stage::start(Config {
        flush: NEVER,
        flush_count: 10,
        ..Config::default()
    });
    until("the first heartbeat", || {
        stage.written().len() == PARTITIONS as usize
    });
    stage.post("/v1/reactions", array(9));
    assert_eq!(stage.reactions().len(), 0);
    stage.post("/v1/reactions", array(1));
    until("flushed", || stage.reactions().len() == 10);
}

#[test]
fn what_is_answered_as_stored_is_in_the_log() {
    let stage = Stage::start(Config {
        flush: Duration::from_millis(20),
        ..Config::default()
    });
    for count in 1..=20 {
        assert_eq!(
            stage.post("/v1/reactions?wait=stored", array(1)).status,
            200
        );
        assert_eq!(stage.reactions().len(), count);
    }
}

#[test]
fn a_drain_stores_everything_accepted_and_then_nothing_is_taken() {
    let mut stage = Stage::start(Config {
        flush: NEVER,
        ..Config::default()
    });
    for _ in 0..20 {
        assert_eq!(stage.post("/v1/reactions", array(100)).status, 202);
    }
    stage.drain(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 2000);
    assert_eq!(stage.post("/v1/reactions", array(1)).status, 503);
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(stage.reactions().len(), 2000);
}

#[test]
fn what_waits_to_be_stored_while_the_service_stops_is_stored() {
    let mut stage = Stage::start(Config {
        flush: Duration::from_millis(300),
        ..Config::default()
    });
    let mut waiting = stage.begin("POST /v1/reactions?wait=stored", &[], array(3));
    until("in the buffer", || {
        stage.metric("emostream_ingest_buffer_reactions") == 3.0
            || stage.metric(r#"emostream_ingest_reactions_total{outcome="stored"}"#) == 3.0
    });
    stage.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(Answer::read(&mut waiting).status, 200);
    assert_eq!(stage.reactions().len(), 3);
}
