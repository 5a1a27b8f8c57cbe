//! Tests with a faulty log, which injects failures at the worst moment.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
    mpsc::channel,
};

use emostream_dataflow::{Activity, Ready};
use emostream_log::{LogError, NewRecord};
use emostream_model::Batch;

use crate::{DEADLINE, Fixture, T0, all_final_ms, check, closing, events, rng};

fn aborted() -> LogError {
    let detail = "by the test".to_owned();
    LogError::Aborted { detail }
}

fn not_accepted(record: &NewRecord) -> LogError {
    LogError::NotAccepted {
        topic: record.topic.clone(),
        bytes: record.value.len(),
        reason: "by the test".to_owned(),
    }
}

#[test]
fn events_that_an_older_run_commits_until_it_is_fenced_are_not_counted_again() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(3), 20_000);
    let (before, after) = records.split_at(records.len() / 2);
    fixture.append(before.to_vec());
    let mut after = after.to_vec();
    after.extend(closing(&fixture, 20_000));
    let older = fixture.clone();
    let newer = fixture.faulty(|log| {
        log.before_transactor(move |_| {
            let enough = || older.final_until_ms() > 0;
            older.run_until(older.config(1), enough);
            older.append(after.clone());
        })
    });
    newer.run_until(newer.config(1), || {
        fixture.final_until_ms() >= all_final_ms(20_000)
    });
    check(&fixture, &oracle);
}

#[test]
fn the_lag_of_all_partitions_is_one_request() {
    let fixture = Fixture::new(4);
    let requests = Arc::new(AtomicUsize::new(0));
    let (measuring, measures) = channel();
    let (continue_measuring, may_continue) = channel::<()>();
    let may_continue = Mutex::new(may_continue);
    let (count, topic) = (requests.clone(), fixture.topics.reactions());
    let slow = fixture.faulty(|log| {
        log.before_offsets(move |of| {
            // The first request is made at the start, when the run requests the offsets from which it must read. The
            // second request measures the lag.
            if of == topic && count.fetch_add(1, Ordering::SeqCst) >= 1 {
                measuring.send(()).unwrap();
                let _ = may_continue.lock().unwrap().recv();
            }
        })
    });
    let registry = prometheus::Registry::new();
    let (stop, running) = slow.launch(slow.config(1), registry.clone(), Arc::new(|_| {}));
    measures.recv_timeout(DEADLINE).unwrap();
    // The stop is requested before the log answers, so that no second measurement follows.
    stop.request();
    drop(continue_measuring);
    running.join().unwrap().unwrap();
    assert_eq!(requests.load(Ordering::SeqCst), 2);
    let families = registry.gather();
    let name = "emostream_dataflow_lag_records";
    let lags = families.iter().find(|family| family.name() == name);
    assert_eq!(lags.unwrap().get_metric().len(), 4);
}

#[test]
fn a_commit_that_failed_is_repeated_and_one_whose_answer_was_lost_is_not_made_twice() {
    let fixture = Fixture::new(2);
    let (records, oracle) = events(&fixture, &mut rng(5), 20_000);
    fixture.append(records);
    fixture.append(closing(&fixture, 20_000));
    let attempts = AtomicUsize::new(0);
    let failing = fixture.faulty(|log| {
        log.on_commit(
            move |transactor, records| match attempts.fetch_add(1, Ordering::SeqCst) {
                0 | 1 | 4 => Err(aborted()),
                2 | 5 => transactor.commit(records).and(Err(aborted())),
                _ => transactor.commit(records),
            },
        )
    });
    failing.run_until(failing.config(2), || {
        fixture.final_until_ms() >= all_final_ms(20_000)
    });
    check(&fixture, &oracle);
}

#[test]
fn a_run_whose_commit_failed_does_not_fence_the_run_that_replaced_it() {
    let fixture = Fixture::new(1);
    let (records, oracle) = events(&fixture, &mut rng(6), 20_000);
    fixture.append(records);
    fixture.append(closing(&fixture, 20_000));
    let (other, fences) = (fixture.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = fences.clone();
    let replaced = fixture.faulty(|log| {
        let log = log.before_transactor(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        // Another run fences this run during its commit. The log does not report the fence but another error, as after
        // a network partition.
        log.on_commit(move |_, _| {
            other.run_until(other.config(1), || other.final_until_ms() > 0);
            Err(aborted())
        })
    });
    let (report, reports) = channel();
    let ready: Ready = Arc::new(move |state| drop(report.send(state)));
    let config = replaced.config(1);
    let (stop, running) = replaced.launch(config, prometheus::Registry::new(), ready);
    let standby = |state: &Result<Activity, String>| matches!(state, Ok(Activity::Standby(_)));
    while !standby(&reports.recv_timeout(DEADLINE).unwrap()) {}
    assert_eq!(fences.load(Ordering::SeqCst), 1, "only its own start");
    stop.request();
    running.join().unwrap().unwrap();
    fixture.run_until(fixture.config(1), || {
        fixture.final_until_ms() >= all_final_ms(20_000)
    });
    check(&fixture, &oracle);
}

#[test]
fn a_rejected_record_that_its_topic_does_not_accept_is_written_as_its_headers_alone() {
    let fixture = Fixture::new(1);
    let heartbeat = |at_ms| fixture.reaction_record(0, at_ms, Batch::heartbeat(at_ms));
    let junk = |bytes| fixture.reaction_record(0, T0 + 10, vec![b'x'; bytes]);
    fixture.append(vec![
        heartbeat(T0),
        junk(100),
        junk(5),
        heartbeat(T0 + 10_000),
    ]);
    let rejected = fixture.topics.rejected();
    let refusing = fixture.faulty(|log| {
        log.on_commit(move |transactor, records| {
            let too_large = records
                .iter()
                .find(|it| it.topic == rejected && it.value.len() > 50);
            match too_large {
                Some(record) => Err(not_accepted(record)),
                None => transactor.commit(records),
            }
        })
    });
    refusing.run_until(refusing.config(1), || fixture.rejected().len() == 2);
    let reasons = fixture.rejected();
    let malformed = "malformed".to_owned();
    assert_eq!(reasons, [(0, 1, malformed.clone()), (0, 2, malformed)]);
    let values = fixture.values(&fixture.topics.rejected());
    assert_eq!(values, [vec![], b"xxxxx".to_vec()]);
}

#[test]
fn a_final_that_its_topic_never_accepts_ends_the_run_with_78_and_names_the_topic() {
    let fixture = Fixture::new(1);
    let (records, _) = events(&fixture, &mut rng(7), 5_000);
    fixture.append(records);
    fixture.append(closing(&fixture, 5_000));
    let windows = fixture.topics.windows();
    let refusing = fixture.faulty(|log| {
        log.on_commit(move |transactor, records| {
            match records.iter().find(|it| it.topic == windows) {
                Some(record) => Err(not_accepted(record)),
                None => transactor.commit(records),
            }
        })
    });
    let (_, running) = refusing.start(refusing.config(1));
    let error = running.join().unwrap().unwrap_err();
    assert_eq!(error.exit_code(), 78, "{error}");
    assert!(
        error.to_string().contains(&fixture.topics.windows()),
        "{error}"
    );
    assert_eq!(fixture.final_until_ms(), 0);
}
