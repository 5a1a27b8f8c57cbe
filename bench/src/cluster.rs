//! A Kafka cluster: creates topics, writes records and reads results.

use std::time::{Duration, Instant};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use tokio::runtime::{self, Runtime};

use crate::Result;

pub(crate) const PARTITIONS: u32 = 4;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A Kafka cluster, with an admin client that is connected to it.
pub(crate) struct Cluster {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
    runtime: Runtime,
}

impl Cluster {
    pub(crate) fn connect(brokers: &str) -> Result<Cluster> {
        Ok(Cluster {
            brokers: brokers.to_owned(),
            admin: config(brokers).create()?,
            runtime: runtime::Builder::new_current_thread().build()?,
        })
    }

    /// Blocks until a future of the admin client completes, since all other code here is synchronous.
    fn wait<F: Future>(&self, answer: F) -> F::Output {
        self.runtime.block_on(answer)
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Deletes a topic and creates it again, so that it has no records of an earlier round. Its retention is unlimited.
    pub(crate) fn recreate(&self, topic: &str, partitions: u32) -> Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        for outcome in self.wait(self.admin.delete_topics(&[topic], &options))? {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, error)) => return Err(format!("{topic}: {error}").into()),
            }
        }
        // The controller responds before all brokers have deleted the topic, so we wait until the metadata does not
        // contain it.
        self.wait_until(topic, None)?;
        let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            // A dataflow refuses to start if the topic accepts timestamps that are further ahead of the broker's clock
            // than this.
            .set("message.timestamp.after.max.ms", "5000")
            .set("compression.type", "producer");
        for outcome in self.wait(self.admin.create_topics([&new], &options))? {
            outcome.map_err(|(topic, error)| format!("{topic}: {error}"))?;
        }
        self.wait_until(topic, Some(partitions))
    }

    /// Waits until `partitions` partitions of the topic have a leader. If `partitions` is `None`, waits until the topic
    /// is deleted.
    fn wait_until(&self, topic: &str, partitions: Option<u32>) -> Result<()> {
        let until = Instant::now() + TIMEOUT;
        while self.partitions(topic)? != partitions {
            if Instant::now() >= until {
                return Err(format!("{topic} does not come to {partitions:?} partitions").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns the number of partitions of the topic that have a leader, or `None` if the topic does not exist.
    fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        let metadata = self.admin.inner().fetch_metadata(Some(topic), TIMEOUT)?;
        let mut found = metadata.topics().iter();
        let found = found.find(|found| found.name() == topic && found.error().is_none());
        Ok(found.map(|found| {
            let led = found.partitions().iter().filter(|it| it.error().is_none());
            led.count() as u32
        }))
    }

    /// Deletes the topics that the dataflow writes and creates them again, so that the dataflow starts from the
    /// beginning.
    pub(crate) fn recreate_results(&self, prefix: &str) -> Result<()> {
        for name in ["windows", "totals", "trending", "live", "rejected"] {
            self.recreate(&format!("{prefix}.{name}"), PARTITIONS)?;
        }
        self.recreate(&format!("{prefix}.progress"), 1)
    }

    pub(crate) fn writer(&self, linger_ms: u64) -> Result<RecordWriter> {
        let mut config = config(&self.brokers);
        config
            .set("compression.codec", "lz4")
            .set("linger.ms", linger_ms.to_string())
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .set("enable.idempotence", "true");
        Ok(RecordWriter {
            producer: config.create()?,
        })
    }

    /// Returns a reader of the committed records of `topic`, from its beginning or its end.
    pub(crate) fn reader(&self, topic: &str, from: Offset) -> Result<ResultReader> {
        read_results(&self.brokers, &[topic.to_owned()], from)
    }
}

/// Returns a reader of committed records with the default settings of librdkafka.
pub(crate) fn read_results(brokers: &str, topics: &[String], from: Offset) -> Result<ResultReader> {
    let mut config = config(brokers);
    config
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "500")
        .set("fetch.error.backoff.ms", "20");
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(topic, partition as i32, from)?;
        }
    }
    consumer.assign(&assignment)?;
    Ok(ResultReader { consumer })
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("enable.metrics.push", "false");
    config
}

/// A producer that writes records.
pub(crate) struct RecordWriter {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl RecordWriter {
    pub(crate) fn write(
        &self,
        topic: &str,
        partition: u32,
        at_ms: u64,
        value: &[u8],
    ) -> Result<()> {
        let mut record = BaseRecord::<(), [u8]>::to(topic)
            .partition(partition as i32)
            .timestamp(at_ms as i64)
            .payload(value);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits until all records are acknowledged.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.producer.flush(TIMEOUT * 4)?)
    }
}

/// A consumer of committed records.
pub(crate) struct ResultReader {
    consumer: BaseConsumer,
}

impl ResultReader {
    /// Calls `each` with the key and the value of the next record. Returns whether a record arrived within `wait`.
    pub(crate) fn next(&self, wait: Duration, each: impl FnOnce(&[u8], &[u8])) -> Result<bool> {
        match self.consumer.poll(wait) {
            None => Ok(false),
            // librdkafka reconnects by itself, so these errors only mean that no record arrived.
            Some(Err(KafkaError::MessageConsumption(
                RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
            ))) => Ok(false),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(message)) => {
                each(
                    message.key().unwrap_or_default(),
                    message.payload().unwrap_or_default(),
                );
                Ok(true)
            }
        }
    }
}
