//! The Kafka that everybody meets in: topics, filling them, reading what came out.

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

use crate::Outcome;

pub(crate) const PARTITIONS: u32 = 4;

const PATIENCE: Duration = Duration::from_secs(30);

/// A bench's topics, and clients to reach them.
pub(crate) struct Cluster {
    brokers: String,
    admin: AdminClient<DefaultClientContext>,
    runtime: Runtime,
}

impl Cluster {
    pub(crate) fn connect(brokers: &str) -> Outcome<Cluster> {
        Ok(Cluster {
            brokers: brokers.to_owned(),
            admin: config(brokers).create()?,
            runtime: runtime::Builder::new_current_thread().build()?,
        })
    }

    /// The admin client answers by futures; nothing else here does.
    fn wait<F: Future>(&self, answer: F) -> F::Output {
        self.runtime.block_on(answer)
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Makes a topic anew: without what an earlier round left in it. Nothing in it expires.
    pub(crate) fn renew(&self, topic: &str, partitions: u32) -> Outcome<()> {
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for outcome in self.wait(self.admin.delete_topics(&[topic], &options))? {
            match outcome {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
                Err((topic, error)) => return Err(format!("{topic}: {error}").into()),
            }
        }
        // The controller answers before the brokers know.
        self.wait_until(topic, None)?;
        let new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            // A dataflow does not start on a topic that accepts timestamps further ahead.
            .set("message.timestamp.after.max.ms", "5000")
            .set("compression.type", "producer");
        for outcome in self.wait(self.admin.create_topics([&new], &options))? {
            outcome.map_err(|(topic, error)| format!("{topic}: {error}"))?;
        }
        self.wait_until(topic, Some(partitions))
    }

    /// Waits until the topic has so many partitions with a leader, or is gone.
    fn wait_until(&self, topic: &str, partitions: Option<u32>) -> Outcome<()> {
        let until = Instant::now() + PATIENCE;
        while self.partitions(topic)? != partitions {
            if Instant::now() >= until {
                return Err(format!("{topic} does not come to {partitions:?} partitions").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// How many partitions of the topic have a leader, if there is such a topic.
    fn partitions(&self, topic: &str) -> Outcome<Option<u32>> {
        let metadata = self.admin.inner().fetch_metadata(Some(topic), PATIENCE)?;
        let mut found = metadata.topics().iter();
        let found = found.find(|found| found.name() == topic && found.error().is_none());
        Ok(found.map(|found| {
            let led = found.partitions().iter().filter(|it| it.error().is_none());
            led.count() as u32
        }))
    }

    /// Makes what the dataflow writes anew, so that it starts from the beginning.
    pub(crate) fn renew_results(&self, prefix: &str) -> Outcome<()> {
        for name in ["windows", "totals", "trending", "live", "rejected"] {
            self.renew(&format!("{prefix}.{name}"), PARTITIONS)?;
        }
        self.renew(&format!("{prefix}.progress"), 1)
    }

    pub(crate) fn filler(&self, linger_ms: u64) -> Outcome<Filler> {
        let mut config = config(&self.brokers);
        config
            .set("compression.codec", "lz4")
            .set("linger.ms", linger_ms.to_string())
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .set("enable.idempotence", "true");
        Ok(Filler {
            producer: config.create()?,
        })
    }

    /// Reads `topic` read_committed from its beginning, or from its end.
    pub(crate) fn finals(&self, topic: &str, from: Offset) -> Outcome<Finals> {
        read_results(&self.brokers, &[topic.to_owned()], from)
    }
}

/// Reads results as anybody would: librdkafka's own settings, but for committed records alone.
pub(crate) fn read_results(brokers: &str, topics: &[String], from: Offset) -> Outcome<Finals> {
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
    Ok(Finals { consumer })
}

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("enable.metrics.push", "false");
    config
}

/// Writes reactions.
pub(crate) struct Filler {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Filler {
    pub(crate) fn write(
        &self,
        topic: &str,
        partition: u32,
        at_ms: u64,
        value: &[u8],
    ) -> Outcome<()> {
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

    /// Waits until everything is in the log.
    pub(crate) fn finish(self) -> Outcome<()> {
        Ok(self.producer.flush(PATIENCE * 4)?)
    }
}

/// Reads results as anybody would.
pub(crate) struct Finals {
    consumer: BaseConsumer,
}

impl Finals {
    /// Hands over the next record, if one comes in time: its key and its value.
    pub(crate) fn next(&self, wait: Duration, each: impl FnOnce(&[u8], &[u8])) -> Outcome<bool> {
        match self.consumer.poll(wait) {
            None => Ok(false),
            // librdkafka connects again by itself.
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
