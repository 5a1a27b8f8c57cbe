//! Tests of the invariants of [`emostream_log::Log`] for all implementations. Every test has its own log.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        mpsc::{channel, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use emostream_log::{
    Cleanup, Header, LogError, NewRecord, Timestamps, TopicDescription, TopicSpec,
};

use crate::fixture::{
    DEADLINE, TIMEOUT, TestLog, answer, append, keyed, next, now_ms, poll, queue, record, spec,
    texts, to_end, until_error, wait_until,
};

pub(crate) fn a_record_is_read_as_it_was_written(test: &TestLog) {
    let topic = test.topic("plain", 2);
    let time_ms = now_ms() - 12_345;
    let full = NewRecord {
        topic: topic.clone(),
        partition: Some(1),
        time_ms: Some(time_ms),
        key: Some(Bytes::from_static(&[0, 255, 7])),
        value: Bytes::from_static(&[0, 1, 2, 255]),
        headers: vec![
            Header {
                name: "reason".into(),
                value: Bytes::from_static(b"late"),
            },
            Header {
                name: "reason".into(),
                value: Bytes::from_static(&[0, 200]),
            },
            Header {
                name: "empty".into(),
                value: Bytes::new(),
            },
        ],
    };
    let bare = NewRecord {
        partition: Some(1),
        ..record(&topic, "")
    };
    let before = now_ms();
    assert_eq!(test.append(full.clone()).unwrap(), 0);
    assert_eq!(test.append(bare).unwrap(), 1);

    let (mut reader, signal) = test.reader(&topic);
    let read = next(reader.as_mut(), &signal, 1, 2);
    assert_eq!(
        (read[0].partition, read[0].offset, read[0].time_ms),
        (1, 0, time_ms)
    );
    assert_eq!(read[0].key.as_deref(), full.key.as_deref());
    assert_eq!(read[0].value, full.value);
    assert_eq!(read[0].headers, full.headers);
    assert_eq!(
        (
            read[1].key.clone(),
            read[1].value.len(),
            read[1].headers.len()
        ),
        (None, 0, 0)
    );
    assert!(
        (before..=now_ms()).contains(&read[1].time_ms),
        "no time means now"
    );
}

pub(crate) fn offsets_rise_and_the_stored_range_is_returned(test: &TestLog) {
    let topic = test.topic("offsets", 1);
    assert_eq!(test.log.offsets(&topic).unwrap()[0], 0..0);
    let appender = test.appender();
    for expected in 0..5 {
        assert_eq!(
            append(appender.as_ref(), record(&topic, "x")).unwrap(),
            expected
        );
    }
    assert_eq!(test.log.offsets(&topic).unwrap()[0], 0..5);
}

pub(crate) fn a_new_topic_has_offsets(test: &TestLog) {
    // The topic has so many partitions that the broker may not know yet that it leads all of them.
    let topic = test.topic("fresh", 24);
    assert_eq!(test.log.offsets(&topic).unwrap(), vec![0..0; 24]);
}

pub(crate) fn offsets_are_those_of_every_partition_in_order(test: &TestLog) {
    let partitions = 30;
    let topic = test.topic("in-order", partitions);
    let base = now_ms() - 60_000;
    let appender = test.appender();
    // Partition `n` has `n` records. The time of each record is one second after the time of the previous record.
    let records = (0..partitions).flat_map(|partition| (0..partition).map(move |n| (partition, n)));
    let queued: Vec<_> = records
        .map(|(partition, n)| {
            let record = NewRecord {
                partition: Some(partition),
                time_ms: Some(base + u64::from(n) * 1000),
                ..record(&topic, "x")
            };
            queue(appender.as_ref(), record)
        })
        .collect();
    for queued in queued {
        answer(&queued).unwrap();
    }
    let log = &test.log;
    let numbers = || (0..partitions).map(u64::from);
    let offsets: Vec<_> = numbers().map(|number| 0..number).collect();
    assert_eq!(log.offsets(&topic).unwrap(), offsets);
    let ends = log.high_watermarks(&topic, TIMEOUT).unwrap();
    let ends: Vec<u64> = ends.into_iter().map(Result::unwrap).collect();
    assert_eq!(ends, numbers().collect::<Vec<_>>());
    for (time_ms, offset) in [(0, 0), (base + 6_500, 7), (base + 60_000, 60)] {
        let found: Vec<u64> = numbers().map(|number| number.min(offset)).collect();
        assert_eq!(log.offsets_at(&topic, time_ms).unwrap(), found, "{time_ms}");
    }
}

pub(crate) fn an_existing_topic_is_not_changed(test: &TestLog) {
    let topic = test.topic("twice", 3);
    test.append(record(&topic, "kept")).unwrap();
    let other = TopicSpec {
        cleanup: Cleanup::Compact,
        ..spec(&topic, 7)
    };
    test.log.create_topic(&other).unwrap();
    assert_eq!(test.log.partitions(&topic).unwrap(), 3);
    assert_eq!(texts(&test.all(&topic)[&0]), ["kept"]);
}

pub(crate) fn a_topic_is_described_as_it_was_created(test: &TestLog) {
    let delete = |bytes| Cleanup::Delete {
        after: Duration::from_secs(86_400),
        bytes,
    };
    for (name, partitions, cleanup, max_ahead) in [
        ("plain", 3, delete(None), None),
        (
            "bounded",
            1,
            delete(Some(1 << 30)),
            Some(Duration::from_secs(5)),
        ),
        ("compact", 2, Cleanup::Compact, None),
    ] {
        let made = TopicSpec {
            cleanup,
            max_ahead,
            ..spec(&test.name(name), partitions)
        };
        test.log.create_topic(&made).unwrap();
        let described = test.log.describe(&made.name).unwrap();
        let expected = TopicDescription {
            // On Kafka, a topic without a limit of its own has the default limit, so the limit is not compared.
            timestamps: match max_ahead {
                Some(_) => Timestamps::Written { max_ahead },
                None => described.timestamps,
            },
            max_record_bytes: described.max_record_bytes,
            ..TopicDescription::of(&made)
        };
        assert_eq!(described, expected);
        test.log.answers(&made.name, TIMEOUT).unwrap();
    }
}

pub(crate) fn a_key_keeps_its_partition(test: &TestLog) {
    let topic = test.topic("keys", 4);
    let appender = test.appender();
    let answers: Vec<_> = (0..200)
        .map(|n| {
            queue(
                appender.as_ref(),
                keyed(&topic, &format!("key-{}", n % 50), "v"),
            )
        })
        .collect();
    for queued in answers {
        answer(&queued).unwrap();
    }
    let mut partition_of = HashMap::new();
    for (partition, records) in test.all(&topic) {
        for record in records {
            assert_eq!(
                *partition_of.entry(record.key).or_insert(partition),
                partition
            );
        }
    }
    assert_eq!(partition_of.len(), 50);
    let used: HashSet<u32> = partition_of.values().copied().collect();
    assert_eq!(used.len(), 4, "keys spread");
    // The partition is the same on every log, since each uses Kafka's murmur2.
    assert_eq!(partition_of[&Some(b"key-0".to_vec())], KEY_0_OF_4);
}

/// The partition that Kafka's Java client chooses for the key `key-0` in a topic with four partitions.
const KEY_0_OF_4: u32 = 1;

pub(crate) fn a_record_without_key_goes_to_the_first_partition(test: &TestLog) {
    let topic = test.topic("keyless", 3);
    for _ in 0..5 {
        test.append(NewRecord {
            partition: None,
            ..record(&topic, "x")
        })
        .unwrap();
    }
    assert_eq!(test.log.offsets(&topic).unwrap()[0], 0..5);
}

pub(crate) fn a_waiting_reader_is_woken_by_an_append(test: &TestLog) {
    let topic = test.topic("wake", 1);
    let (mut reader, signal) = test.reader(&topic);
    assert!(to_end(reader.as_mut(), &signal, 0).is_empty());
    let (asleep, told) = sync_channel(0);
    thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            asleep.send(()).unwrap();
            // Each wait lasts until the deadline unless the reader is woken.
            let began = std::time::Instant::now();
            let mut read = Vec::new();
            while read.is_empty() && began.elapsed() < DEADLINE {
                signal.wait(DEADLINE);
                read = poll(reader.as_mut(), 0, 10).unwrap();
            }
            read
        });
        told.recv().unwrap();
        test.append(record(&topic, "news")).unwrap();
        assert_eq!(texts(&sleeper.join().unwrap()), ["news"]);
    });
}

pub(crate) fn records_that_a_poll_leaves_unread_are_followed_by_a_wake_up(test: &TestLog) {
    let topic = test.topic("left", 1);
    // `reader` is not polled until the record is stored, so its queue has the end of the partition, followed by the
    // record.
    let (mut reader, signal) = test.reader(&topic);
    let (mut other, others_bell) = test.reader(&topic);
    assert!(to_end(other.as_mut(), &others_bell, 0).is_empty());
    test.append(record(&topic, "news")).unwrap();
    assert_eq!(texts(&next(other.as_mut(), &others_bell, 0, 1)), ["news"]);
    let began = std::time::Instant::now();
    let mut read = Vec::new();
    while read.is_empty() && began.elapsed() < DEADLINE {
        signal.wait(DEADLINE);
        read = poll(reader.as_mut(), 0, 10).unwrap();
    }
    assert!(began.elapsed() < DEADLINE, "nothing rang");
    assert_eq!(texts(&read), ["news"]);
}

pub(crate) fn a_reader_knows_when_it_is_at_the_end(test: &TestLog) {
    let topic = test.topic("end", 2);
    for value in ["a", "b", "c"] {
        test.append(record(&topic, value)).unwrap();
    }
    let (mut reader, signal) = test.reader(&topic);
    assert!(!reader.at_end(0), "nothing was polled yet");
    assert_eq!(next(reader.as_mut(), &signal, 0, 2).len(), 2);
    assert!(!reader.at_end(0));
    assert_eq!(texts(&to_end(reader.as_mut(), &signal, 0)), ["c"]);
    assert!(reader.at_end(0));
    assert!(
        to_end(reader.as_mut(), &signal, 1).is_empty(),
        "an empty partition is at its end"
    );
    test.append(record(&topic, "d")).unwrap();
    assert_eq!(texts(&next(reader.as_mut(), &signal, 0, 1)), ["d"]);
    to_end(reader.as_mut(), &signal, 0);
    assert_eq!(reader.position(0), 4);
}

pub(crate) fn a_reader_resumes_from_its_position(test: &TestLog) {
    let topic = test.topic("resume", 1);
    let mut transactor = test.log.transactor(&test.name("resume"), TIMEOUT).unwrap();
    for n in 0..6 {
        transactor
            .commit(vec![record(&topic, n.to_string())])
            .unwrap();
    }
    test.settle("resume");
    let (mut reader, signal) = test.reader(&topic);
    let mut read = next(reader.as_mut(), &signal, 0, 3);
    let (mut resumed, signal) = test.reader_from(&topic, &[(0, reader.position(0))]);
    read.extend(to_end(resumed.as_mut(), &signal, 0));
    assert_eq!(texts(&read), ["0", "1", "2", "3", "4", "5"]);
    // At the end of a partition, the position is also after the marker of the last transaction.
    assert_eq!(
        resumed.position(0),
        test.log.offsets(&topic).unwrap()[0].end
    );
}

pub(crate) fn a_record_that_is_not_consumed_is_first_in_the_next_poll(test: &TestLog) {
    let topic = test.topic("refused", 1);
    for n in 0..5 {
        test.append(record(&topic, n.to_string())).unwrap();
    }
    let (mut reader, signal) = test.reader(&topic);
    let mut read = Vec::new();
    // The record at offset 2 is left unconsumed in the first two rounds. In the third round, all records are consumed.
    for refused in [2, 2, 5] {
        let until = Instant::now() + DEADLINE;
        let mut seen = None;
        while seen != Some(refused) && read.len() < 5 {
            reader
                .poll_while(0, 1000, &mut |record| {
                    seen = Some(record.offset);
                    let consumed = record.offset != refused;
                    if consumed {
                        read.push(record.offset);
                    }
                    consumed
                })
                .unwrap();
            assert_eq!(reader.position(0), read.len() as u64);
            assert!(Instant::now() < until);
            signal.wait(Duration::from_millis(10));
        }
    }
    assert_eq!(read, [0, 1, 2, 3, 4]);
}

pub(crate) fn partitions_are_read_independently(test: &TestLog) {
    let topic = test.topic("parts", 3);
    for partition in 0..3 {
        for n in 0..4 {
            let value = format!("{partition}/{n}");
            test.append(NewRecord {
                partition: Some(partition),
                ..record(&topic, value)
            })
            .unwrap();
        }
    }
    let (mut reader, signal) = test.reader_from(&topic, &[(2, 1), (0, 0)]);
    assert_eq!(texts(&next(reader.as_mut(), &signal, 2, 2)), ["2/1", "2/2"]);
    assert_eq!((reader.position(0), reader.position(2)), (0, 3));
    assert_eq!(
        texts(&to_end(reader.as_mut(), &signal, 0)),
        ["0/0", "0/1", "0/2", "0/3"]
    );
    assert_eq!(texts(&to_end(reader.as_mut(), &signal, 2)), ["2/3"]);
    let foreign = poll(reader.as_mut(), 1, 1).unwrap_err();
    assert!(
        matches!(foreign, LogError::UnknownPartition { partition: 1, .. }),
        "{foreign}"
    );
}

pub(crate) fn a_transaction_over_three_topics_is_atomic(test: &TestLog) {
    const ROUNDS: usize = 10;
    const EACH: usize = 20;
    let topics = ["one", "two", "three"].map(|name| test.topic(name, 1));
    let mut transactor = test.log.transactor(&test.name("three"), TIMEOUT).unwrap();
    thread::scope(|scope| {
        for topic in &topics {
            // Reads continuously. Whenever the reader is at the end, it must have read whole transactions only.
            scope.spawn(move || {
                let (mut reader, signal) = test.reader(topic);
                let mut seen = 0;
                wait_until(&signal, || {
                    let read = poll(reader.as_mut(), 0, 7).unwrap().len();
                    seen += read;
                    assert!(
                        !reader.at_end(0) || seen % EACH == 0,
                        "a part of a transaction: {seen}"
                    );
                    if read > 0 {
                        signal.notify();
                    }
                    seen == ROUNDS * EACH
                });
            });
        }
        for round in 0..ROUNDS {
            let value = round.to_string();
            let records = topics.iter().flat_map(|topic| {
                let value = &value;
                (0..EACH).map(move |n| keyed(topic, &n.to_string(), value.clone()))
            });
            transactor.commit(records.collect()).unwrap();
        }
    });
}

pub(crate) fn no_record_of_a_refused_transaction_is_read(test: &TestLog) {
    let topic = test.topic("trace", 1);
    let missing = test.name("missing");
    let mut transactor = test.log.transactor(&test.name("trace"), TIMEOUT).unwrap();
    transactor.commit(vec![record(&topic, "before")]).unwrap();
    let refused = transactor
        .commit(vec![record(&topic, "lost"), record(&missing, "lost")])
        .unwrap_err();
    assert!(
        matches!(refused, LogError::UnknownTopic { .. }),
        "{refused}"
    );
    drop(transactor);
    let mut transactor = test.log.transactor(&test.name("trace"), TIMEOUT).unwrap();
    transactor.commit(vec![record(&topic, "after")]).unwrap();
    test.settle("trace");
    assert_eq!(texts(&test.all(&topic)[&0]), ["before", "after"]);
}

pub(crate) fn written_records_are_read_after_the_next_commit(test: &TestLog) {
    let topic = test.topic("pieces", 1);
    let mut transactor = test.log.transactor(&test.name("pieces"), TIMEOUT).unwrap();
    for pieces in [["a", "b", "c"], ["d", "e", "f"]] {
        for piece in pieces {
            transactor.write(vec![record(&topic, piece)]).unwrap();
            let read = test.all(&topic);
            assert!(!texts(&read[&0]).contains(&piece), "{piece}");
        }
        transactor.commit(Vec::new()).unwrap();
    }
    test.settle("pieces");
    assert_eq!(texts(&test.all(&topic)[&0]), ["a", "b", "c", "d", "e", "f"]);
}

pub(crate) fn written_records_of_a_dropped_transactor_are_never_read(test: &TestLog) {
    let topic = test.topic("dropped", 1);
    let mut transactor = test.log.transactor(&test.name("dropped"), TIMEOUT).unwrap();
    transactor.commit(vec![record(&topic, "before")]).unwrap();
    transactor.write(vec![record(&topic, "never")]).unwrap();
    drop(transactor);
    // This transactor has another id, so that opening it does not abort the open transaction of the first one.
    let mut other = test.log.transactor(&test.name("other"), TIMEOUT).unwrap();
    other.commit(vec![record(&topic, "after")]).unwrap();
    test.settle("other");
    assert_eq!(texts(&test.all(&topic)[&0]), ["before", "after"]);
}

pub(crate) fn an_older_transactor_is_fenced(test: &TestLog) {
    let topic = test.topic("fence", 1);
    let id = test.name("fence");
    let mut older = test.log.transactor(&id, TIMEOUT).unwrap();
    older.commit(vec![record(&topic, "older")]).unwrap();
    let mut newer = test.log.transactor(&id, TIMEOUT).unwrap();
    let fenced = older
        .commit(vec![record(&topic, "never"), record(&topic, "never")])
        .unwrap_err();
    assert!(
        matches!(&fenced, LogError::Fenced { id: told } if *told == id),
        "{fenced}"
    );
    newer.commit(vec![record(&topic, "newer")]).unwrap();
    test.settle("fence");
    assert_eq!(texts(&test.all(&topic)[&0]), ["older", "newer"]);
}

pub(crate) fn a_failed_transactor_refuses_further_commits(test: &TestLog) {
    let topic = test.topic("useless", 1);
    let mut transactor = test.log.transactor(&test.name("useless"), TIMEOUT).unwrap();
    transactor
        .commit(vec![record(test.name("missing"), "x")])
        .unwrap_err();
    let later = transactor.commit(vec![record(&topic, "x")]).unwrap_err();
    assert!(matches!(later, LogError::Aborted { .. }), "{later}");
    assert!(test.all(&topic)[&0].is_empty());
}

pub(crate) fn two_transactors_of_different_ids_do_not_fence_each_other(test: &TestLog) {
    let topic = test.topic("apart", 1);
    let mut left = test.log.transactor(&test.name("left"), TIMEOUT).unwrap();
    let mut right = test.log.transactor(&test.name("right"), TIMEOUT).unwrap();
    for _ in 0..3 {
        left.commit(vec![record(&topic, "l")]).unwrap();
        right.commit(vec![record(&topic, "r")]).unwrap();
    }
    test.settle("left");
    test.settle("right");
    assert_eq!(texts(&test.all(&topic)[&0]), ["l", "r", "l", "r", "l", "r"]);
}

pub(crate) fn an_offset_outside_the_log_is_expired(test: &TestLog) {
    let topic = test.topic("outside", 1);
    test.append(record(&topic, "x")).unwrap();
    let (mut reader, signal) = test.reader_from(&topic, &[(0, 1_000)]);
    let expired = until_error(reader.as_mut(), &signal, 0);
    assert!(
        matches!(
            &expired,
            LogError::Expired {
                offset: 1_000,
                start: 0,
                partition: 0,
                ..
            }
        ),
        "{expired}"
    );
}

pub(crate) fn an_unknown_topic_is_an_error_of_every_method(test: &TestLog) {
    let missing = test.name("missing");
    let errors = [
        test.log.partitions(&missing).unwrap_err(),
        test.log.describe(&missing).unwrap_err(),
        test.log.answers(&missing, TIMEOUT).unwrap_err(),
        test.log.offsets(&missing).unwrap_err(),
        test.log.offsets_at(&missing, 0).unwrap_err(),
        test.log.high_watermarks(&missing, TIMEOUT).unwrap_err(),
        test.log
            .reader(&missing, &[(0, 0)], Arc::new(|| {}))
            .err()
            .unwrap(),
        test.append(record(&missing, "x")).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(&error, LogError::UnknownTopic { topic } if *topic == missing),
            "{error}"
        );
    }
}

pub(crate) fn an_unknown_partition_is_an_error(test: &TestLog) {
    let topic = test.topic("two", 2);
    let errors = [
        test.log.end_offsets(&topic, 2, TIMEOUT).unwrap_err(),
        test.log
            .reader(&topic, &[(2, 0)], Arc::new(|| {}))
            .err()
            .unwrap(),
        test.append(NewRecord {
            partition: Some(2),
            ..record(&topic, "x")
        })
        .unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error, LogError::UnknownPartition { partition: 2, .. }),
            "{error}"
        );
    }
}

pub(crate) fn offsets_at_are_the_first_of_that_time_or_later(test: &TestLog) {
    let topic = test.topic("times", 1);
    let base = now_ms() - 60_000;
    assert_eq!(
        test.log.offsets_at(&topic, base).unwrap(),
        [0],
        "an empty partition ends at 0"
    );
    // The times of records need not rise.
    let times = [10, 20, 15, 40, 40, 30, 50];
    for time in times {
        test.append(NewRecord {
            time_ms: Some(base + time),
            ..record(&topic, "x")
        })
        .unwrap();
    }
    for wanted in 0..=60 {
        let expected = times
            .iter()
            .position(|time| *time >= wanted)
            .unwrap_or(times.len()) as u64;
        let found = test.log.offsets_at(&topic, base + wanted).unwrap();
        assert_eq!(found, [expected], "time {wanted}");
    }
}

pub(crate) fn a_record_too_far_ahead_is_refused(test: &TestLog) {
    let topic = test.name("ahead");
    let most = Duration::from_secs(5);
    test.log
        .create_topic(&TopicSpec {
            max_ahead: Some(most),
            ..spec(&topic, 1)
        })
        .unwrap();
    let ahead = |ms: u64| NewRecord {
        time_ms: Some(now_ms() + ms),
        ..record(&topic, "x")
    };
    test.append(ahead(2_000)).unwrap();
    let refused = test.append(ahead(60_000)).unwrap_err();
    assert!(
        matches!(&refused, LogError::Ahead { topic: told, ahead_ms: 50_000..=61_000 } if *told == topic),
        "{refused}"
    );
    let commit = || {
        let transactor = test.log.transactor(&test.name("ahead"), TIMEOUT);
        let records = vec![ahead(0), ahead(60_000)];
        transactor.unwrap().commit(records).unwrap_err()
    };
    // On Kafka the first commit may be aborted, since Kafka refuses a batch as a whole. After that each record is sent
    // alone, so that the error is about one record.
    let refused = match commit() {
        LogError::Aborted { .. } => commit(),
        refused => refused,
    };
    assert!(matches!(refused, LogError::Ahead { .. }), "{refused}");
    assert_eq!(test.all(&topic)[&0].len(), 1);
}

pub(crate) fn a_record_too_large_is_refused(test: &TestLog) {
    let topic = test.topic("large", 1);
    let appender = test.appender();
    let (told, answered) = channel();
    let giant = record(&topic, vec![7; 3 * 1024 * 1024]);
    let queued = appender.append(giant, Box::new(move |result| drop(told.send(result))));
    let refused = queued
        .and_then(|()| answer(&answered).map(|_| ()))
        .unwrap_err();
    assert!(
        matches!(&refused, LogError::NotAccepted { topic: told, .. } if *told == topic),
        "{refused}"
    );
    // The appender can still be used, for example for a record of half a mebibyte.
    append(appender.as_ref(), record(&topic, vec![7; 512 * 1024])).unwrap();
    assert_eq!(test.all(&topic)[&0][0].value, vec![7; 512 * 1024]);
}

pub(crate) fn a_full_queue_is_an_error_and_recovers(test: &TestLog) {
    let topic = test.topic("full", 1);
    let appender = test.appender();
    // While `done` blocks, the thread that drains the log's queue is blocked, too, so the queue fills.
    let (release, released) = channel::<()>();
    let (blocked, is_blocked) = channel();
    let gate = move |_| {
        blocked.send(()).unwrap();
        let _ = released.recv_timeout(DEADLINE);
    };
    appender
        .append(record(&topic, "gate"), Box::new(gate))
        .unwrap();
    is_blocked.recv_timeout(DEADLINE).unwrap();
    let (told, answers) = channel();
    let mut queued = 0;
    let full = loop {
        let told = told.clone();
        match appender.append(
            record(&topic, "x"),
            Box::new(move |result| told.send(result).unwrap()),
        ) {
            Ok(()) => queued += 1,
            Err(error) => break error,
        }
        assert!(queued < 10_000_000, "the queue has no bound");
    };
    assert!(matches!(full, LogError::Full), "{full}");
    release.send(()).unwrap();
    for _ in 0..queued {
        answers
            .recv_timeout(DEADLINE)
            .expect("an append was never answered")
            .unwrap();
    }
    append(appender.as_ref(), record(&topic, "again")).unwrap();
    let kept = &test.log.offsets(&topic).unwrap()[0];
    assert_eq!(kept.end, queued + 2, "what was refused is not in the log");
}

pub(crate) fn appends_of_many_threads_are_stored_once_each(test: &TestLog) {
    const THREADS: usize = 4;
    const EACH: usize = 500;
    let topic = test.topic("many", 3);
    let appender = test.appender();
    let acknowledged = Mutex::new(HashMap::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (appender, topic, acknowledged) = (appender.as_ref(), &topic, &acknowledged);
            scope.spawn(move || {
                let sent: Vec<_> = (0..EACH)
                    .map(|n| {
                        let value = format!("{thread}-{n}");
                        let partition = Some((n % 3) as u32);
                        let new = NewRecord {
                            partition,
                            ..record(topic, value.clone())
                        };
                        (value, partition, queue(appender, new))
                    })
                    .collect();
                for (value, partition, queued) in sent {
                    let place = (partition.unwrap(), answer(&queued).unwrap());
                    acknowledged.lock().unwrap().insert(value, place);
                }
            });
        }
    });
    let mut read = HashMap::new();
    for (partition, records) in test.all(&topic) {
        assert!(
            records
                .windows(2)
                .all(|pair| pair[0].offset < pair[1].offset)
        );
        for record in records {
            let twice = read.insert(record.text().to_owned(), (partition, record.offset));
            assert_eq!(twice, None, "{} is there twice", record.text());
        }
    }
    assert_eq!(read, acknowledged.into_inner().unwrap());
    assert_eq!(read.len(), THREADS * EACH);
}

pub(crate) fn a_dropped_appender_still_calls_done(test: &TestLog) {
    let topic = test.topic("dropped", 1);
    let appender = test.appender();
    let answers: Vec<_> = (0..100)
        .map(|n| queue(appender.as_ref(), record(&topic, n.to_string())))
        .collect();
    drop(appender);
    for queued in &answers {
        answer(queued).unwrap();
    }
    assert_eq!(test.all(&topic)[&0].len(), 100);
}
