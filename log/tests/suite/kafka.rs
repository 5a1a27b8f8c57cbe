//! What only the log on Kafka has to promise.

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

use crate::stage::{
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
fn a_broker_that_is_away_is_unreachable_and_says_why() {
    // Bound and dropped: nobody listens there.
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
fn a_listener_that_says_nothing_is_unreachable() {
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
fn properties_that_do_not_go_together_are_named() {
    let log = with(&[("socket.timeout.ms", "300000")]).unwrap();
    let error = log.transactor("together", TIMEOUT).err().unwrap();
    assert!(
        matches!(&error, LogError::Property { property, .. } if property == "socket.timeout.ms"),
        "{error}"
    );
}

#[test]
fn a_property_overrides_ours() {
    let log = with(&[("linger.ms", "7"), ("client.id", "theirs")]).unwrap();
    assert!(matches!(
        log.partitions("no-such-topic"),
        Err(LogError::UnknownTopic { .. })
    ));
}

#[test]
fn a_deleted_beginning_is_expired() {
    let stage = on_kafka();
    let topic = stage.topic("shortened", 1);
    for value in ["a", "b", "c", "d"] {
        stage.append(record(&topic, value)).unwrap();
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

    assert_eq!(stage.log.offsets(&topic).unwrap()[0], 2..4);
    let (mut reader, bell) = stage.reader_from(&topic, &[(0, 1)]);
    let expired = until_error(reader.as_mut(), &bell, 0);
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
    let (mut reader, bell) = stage.reader_from(&topic, &[(0, 2)]);
    assert_eq!(texts(&to_end(reader.as_mut(), &bell, 0)), ["c", "d"]);
}

/// A future of rdkafka's admin client, on no runtime.
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

/// A transaction that nobody ends, written by a client that is not ours.
#[test]
fn an_open_or_aborted_transaction_is_not_read_and_position_passes_it() {
    let stage = on_kafka();
    let topic = stage.topic("aborted", 1);
    let id = stage.name("foreign");
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

    let (mut reader, bell) = stage.reader(&topic);
    assert!(to_end(reader.as_mut(), &bell, 0).is_empty(), "it is open");
    assert_eq!(stage.log.offsets(&topic).unwrap()[0], 0..0);
    let ends = stage.log.end_offsets(&topic, 0, TIMEOUT).unwrap();
    assert_eq!((ends.stable, ends.end), (0, 1));
    let ends = stage.log.high_watermarks(&topic, TIMEOUT).unwrap();
    assert_eq!(*ends[0].as_ref().unwrap(), 1);

    // A transactor of the same id aborts it, before it is open itself.
    let mut ours = stage.log.transactor(&id, TIMEOUT).unwrap();
    ours.commit(vec![record(&topic, "ours")]).unwrap();
    assert_eq!(texts(&next(reader.as_mut(), &bell, 0, 1)), ["ours"]);
    to_end(reader.as_mut(), &bell, 0);
    assert_eq!(
        reader.position(0),
        stage.log.offsets(&topic).unwrap()[0].end
    );
}

#[test]
fn a_partition_of_nothing_but_an_aborted_transaction_is_at_its_end() {
    let stage = on_kafka();
    let topic = stage.topic("only-aborted", 1);
    let mut transactor = stage.log.transactor(&stage.name("x"), TIMEOUT).unwrap();
    let missing = stage.name("missing");
    transactor
        .commit(vec![record(&topic, "x"), record(&missing, "x")])
        .unwrap_err();
    let (mut reader, bell) = stage.reader(&topic);
    assert!(to_end(reader.as_mut(), &bell, 0).is_empty());
    stage.append(record(&topic, "after")).unwrap();
    let (mut resumed, bell) = stage.reader_from(&topic, &[(0, reader.position(0))]);
    assert_eq!(texts(&next(resumed.as_mut(), &bell, 0, 1)), ["after"]);
}

#[test]
fn a_record_of_another_producer_without_value_is_read_as_empty() {
    let stage = on_kafka();
    let topic = stage.topic("null", 1);
    let foreign: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers())
        .create()
        .unwrap();
    foreign
        .send(BaseRecord::<str, str>::to(&topic).key("k").partition(0))
        .unwrap();
    foreign.flush(DEADLINE).unwrap();
    let read = &stage.all(&topic)[&0];
    assert_eq!(
        (read[0].key.as_deref(), read[0].value.len()),
        (Some(&b"k"[..]), 0)
    );
}
