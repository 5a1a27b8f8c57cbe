//! Tests that only the log on Kafka has to pass.

use std::{net::TcpListener, time::Duration};

use emostream_log::{
    Log, LogError,
    kafka::{KafkaLog, KafkaOptions},
};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    config::ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};

use crate::fixture::{
    DEADLINE, TIMEOUT, brokers, next, on_kafka, record, texts, to_end, until_error,
};

fn with(properties: &[(&str, &str)]) -> Result<KafkaLog, LogError> {
    let properties = properties
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    KafkaLog::connect(KafkaOptions {
        brokers: brokers(),
        properties,
        ..KafkaOptions::default()
    })
}

#[test]
fn an_unreachable_broker_is_reported_with_the_reason() {
    // The listener is dropped at once, so no process listens on this port.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let away = format!("127.0.0.1:{port}");
    let options = KafkaOptions {
        brokers: away.clone(),
        ..KafkaOptions::default()
    };
    let error = KafkaLog::connect(options).err().unwrap();
    let LogError::Unreachable { brokers, detail } = &error else {
        panic!("{error}")
    };
    assert_eq!(*brokers, away);
    assert!(detail.contains("refused"), "{detail}");
}

#[test]
fn a_listener_that_does_not_respond_is_unreachable() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = silent.local_addr().unwrap().to_string();
    let options = KafkaOptions {
        brokers,
        ..KafkaOptions::default()
    };
    let error = KafkaLog::connect(options).err().unwrap();
    assert!(matches!(error, LogError::Unreachable { .. }), "{error}");
}

#[test]
fn a_wrong_property_is_named() {
    for (key, value) in [
        ("no.such.property", "1"),
        ("linger.ms", "soon"),
        ("compression.codec", "maybe"),
        ("", "x"),
    ] {
        let error = with(&[("socket.timeout.ms", "5000"), (key, value)])
            .err()
            .unwrap();
        assert!(
            matches!(&error, LogError::Property { property, .. } if property == key),
            "{key}: {error}"
        );
    }
}

#[test]
fn properties_that_contradict_each_other_are_named() {
    let log = with(&[("socket.timeout.ms", "300000")]).unwrap();
    let error = log.transactor("together", TIMEOUT).err().unwrap();
    assert!(
        matches!(&error, LogError::Property { property, .. } if property == "socket.timeout.ms"),
        "{error}"
    );
}

#[test]
fn a_property_overrides_the_default() {
    let log = with(&[("linger.ms", "7"), ("client.id", "theirs")]).unwrap();
    assert!(matches!(
        log.partitions("no-such-topic"),
        Err(LogError::UnknownTopic { .. })
    ));
}

#[test]
fn a_deleted_offset_is_expired() {
    let test = on_kafka();
    let topic = test.topic("shortened", 1);
    for value in ["a", "b", "c", "d"] {
        test.append(record(&topic, value)).unwrap();
    }
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap();
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset(&topic, 0, Offset::Offset(2))
        .unwrap();
    wait_for(admin.delete_records(&before, &AdminOptions::new())).unwrap();

    assert_eq!(test.log.offsets(&topic).unwrap()[0], 2..4);
    let (mut reader, signal) = test.reader_from(&topic, &[(0, 1)]);
    let expired = until_error(reader.as_mut(), &signal, 0);
    assert!(
        matches!(
            expired,
            LogError::Expired {
                offset: 1,
                start: 2,
                ..
            }
        ),
        "{expired}"
    );
    let (mut reader, signal) = test.reader_from(&topic, &[(0, 2)]);
    assert_eq!(texts(&to_end(reader.as_mut(), &signal, 0)), ["c", "d"]);
}

/// Waits for a future of rdkafka's admin client without a runtime.
fn wait_for<F: std::future::Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let until = std::time::Instant::now() + DEADLINE;
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The open transaction belongs to another Kafka client, not to a [`Log`].
#[test]
fn an_open_or_aborted_transaction_is_not_read_and_position_passes_it() {
    let test = on_kafka();
    let topic = test.topic("aborted", 1);
    let id = test.name("foreign");
    let foreign: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .set("transactional.id", &id)
        .create()
        .unwrap();
    foreign.init_transactions(TIMEOUT).unwrap();
    foreign.begin_transaction().unwrap();
    foreign
        .send(
            BaseRecord::<(), str>::to(&topic)
                .payload("open")
                .partition(0),
        )
        .unwrap();
    foreign.flush(DEADLINE).unwrap();

    let (mut reader, signal) = test.reader(&topic);
    assert!(to_end(reader.as_mut(), &signal, 0).is_empty(), "it is open");
    assert_eq!(test.log.offsets(&topic).unwrap()[0], 0..0);
    let ends = test.log.end_offsets(&topic, 0, TIMEOUT).unwrap();
    assert_eq!((ends.stable, ends.end), (0, 1));
    let ends = test.log.high_watermarks(&topic, TIMEOUT).unwrap();
    assert_eq!(*ends[0].as_ref().unwrap(), 1);

    // Opening a transactor of the same id aborts the open transaction.
    let mut ours = test.log.transactor(&id, TIMEOUT).unwrap();
    ours.commit(vec![record(&topic, "ours")]).unwrap();
    assert_eq!(texts(&next(reader.as_mut(), &signal, 0, 1)), ["ours"]);
    to_end(reader.as_mut(), &signal, 0);
    assert_eq!(reader.position(0), test.log.offsets(&topic).unwrap()[0].end);
}

#[test]
fn a_partition_with_only_an_aborted_transaction_is_at_its_end() {
    let test = on_kafka();
    let topic = test.topic("only-aborted", 1);
    let mut transactor = test.log.transactor(&test.name("x"), TIMEOUT).unwrap();
    let missing = test.name("missing");
    transactor
        .commit(vec![record(&topic, "x"), record(&missing, "x")])
        .unwrap_err();
    let (mut reader, signal) = test.reader(&topic);
    assert!(to_end(reader.as_mut(), &signal, 0).is_empty());
    test.append(record(&topic, "after")).unwrap();
    let (mut resumed, signal) = test.reader_from(&topic, &[(0, reader.position(0))]);
    assert_eq!(texts(&next(resumed.as_mut(), &signal, 0, 1)), ["after"]);
}

#[test]
fn a_record_of_another_producer_without_value_is_read_as_empty() {
    let test = on_kafka();
    let topic = test.topic("null", 1);
    let foreign: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap();
    foreign
        .send(BaseRecord::<str, str>::to(&topic).key("k").partition(0))
        .unwrap();
    foreign.flush(DEADLINE).unwrap();
    let read = &test.all(&topic)[&0];
    assert_eq!(
        (read[0].key.as_deref(), read[0].value.len()),
        (Some(&b"k"[..]), 0)
    );
}
