//! A reader on Kafka: one consumer with a queue per partition.
//!
//! ```text
//! consumer ──┬─ queue of partition 0 ──▶ poll(0)
//!            ├─ queue of partition 3 ──▶ poll(3)
//!            └─ its own queue: errors, log lines; polled in every poll
//! ```
//!
//! librdkafka fills each queue only up to a limit, so a partition that is not polled uses no more memory than that.
//! Every queue calls `wake` when it receives a message.

#![allow(
    clippy::disallowed_methods,
    reason = "this module waits for librdkafka"
)]

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{Headers as _, OwnedMessage},
};

use super::{
    config::{Config, REPLACE_INTERVAL, signed, unsigned},
    context::Events,
    failure::Operation,
};
use crate::{Header, Headers, LogError, Reader, Record, Wake};

/// Minimum age of a consumer whose fetches are denied before it is replaced. librdkafka reports a denial only once, so
/// a new consumer is needed to find out whether the brokers still deny the fetches.
const DENIED_REPLACE_INTERVAL: Duration = Duration::from_secs(10);

/// Timeout of the request for the first offset of a partition when the reader's offset has expired. It is short: the
/// offset is only for the error message, since the reader cannot continue in any case.
const START_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct KafkaReader {
    topic: String,
    config: Config,
    wake: Wake,
    opened: Instant,
    /// Whether the brokers deny this reader's fetches.
    denied: bool,
    // The queues are declared before the consumer, so that they are dropped first: a queue removes its callback when it
    // is dropped, and the removal needs the consumer.
    partitions: Vec<Partition>,
    consumer: Arc<BaseConsumer<Events>>,
}

/// A partition: its queue, and the position of the reader in it.
struct Partition {
    number: u32,
    queue: PartitionQueue<Events>,
    /// Messages to read before those in the queue: messages that arrived before the partition had its own queue, and a
    /// record that was not consumed.
    early: VecDeque<Early>,
    next: u64,
    at_end: bool,
    failed: Option<LogError>,
}

enum Early {
    Message(OwnedMessage),
    End,
}

impl KafkaReader {
    pub(super) fn open(
        config: &Config,
        topic: &str,
        from: &[(u32, u64)],
        wake: Wake,
    ) -> Result<Self, LogError> {
        let (consumer, partitions) = consume(config, topic, from, &wake)?;
        Ok(Self {
            topic: topic.to_owned(),
            config: config.clone(),
            wake,
            opened: Instant::now(),
            denied: false,
            partitions,
            consumer,
        })
    }

    /// Replaces the consumer if it has no broker, or if its fetches are denied, and if it is old enough. It would not
    /// recover by itself.
    fn replace_if_stuck(&mut self) -> Result<(), LogError> {
        let age = self.opened.elapsed();
        if self.consumer.context().has_no_broker() && age > REPLACE_INTERVAL {
            tracing::warn!(topic = %self.topic, "a reader has no connection to a broker; it reconnects");
            self.replace_consumer()
        } else if self.denied && age > DENIED_REPLACE_INTERVAL {
            self.replace_consumer()
        } else {
            Ok(())
        }
    }

    /// Replaces the consumer with a new one at the same positions.
    fn replace_consumer(&mut self) -> Result<(), LogError> {
        let from: Vec<(u32, u64)> = self
            .partitions
            .iter()
            .map(|it| (it.number, it.next))
            .collect();
        let (consumer, partitions) = consume(&self.config, &self.topic, &from, &self.wake)?;
        self.opened = Instant::now();
        let former = (
            std::mem::replace(&mut self.partitions, partitions),
            std::mem::replace(&mut self.consumer, consumer),
        );
        // The old consumer is closed on another thread, since closing it may block on brokers.
        std::thread::spawn(move || drop(former));
        Ok(())
    }

    /// Polls the consumer's own queue. This queue may have records that arrived between the assignment and the split of
    /// the queues. They are stored in `early`, since they precede all records in the queue of their partition.
    fn serve_consumer(&mut self) {
        while let Some(event) = self.consumer.poll(Duration::ZERO) {
            let (number, early) = match event {
                Ok(message) => (message.partition(), Early::Message(message.detach())),
                Err(KafkaError::PartitionEOF(number)) => (number, Early::End),
                // The context has logged this error. An error of a partition arrives through the queue of that
                // partition.
                Err(_) => continue,
            };
            if let Some(partition) = self
                .partitions
                .iter_mut()
                .find(|it| signed(it.number) == number)
            {
                partition.early.push_back(early);
            }
        }
    }

    /// Returns the position at the end of the partition, which is after the transaction markers there.
    fn position_at_end(&self, number: u32) -> Option<u64> {
        let positions = self.consumer.position().ok()?;
        match positions
            .find_partition(&self.topic, signed(number))?
            .offset()
        {
            Offset::Offset(offset) => Some(unsigned(offset)),
            _ => None,
        }
    }

    /// Converts an error event; `None` if the reader can continue, because librdkafka recovers by itself or a denial is
    /// not final yet.
    fn failure(&mut self, error: &KafkaError, number: u32, offset: u64) -> Option<LogError> {
        let topic = self.topic.clone();
        Some(match error.rdkafka_error_code()? {
            Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset => {
                let watermarks =
                    self.consumer
                        .fetch_watermarks(&topic, signed(number), START_TIMEOUT);
                let start = watermarks.map_or(0, |(start, _)| unsigned(start));
                LogError::Expired {
                    topic,
                    partition: number,
                    offset,
                    start,
                }
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition => LogError::UnknownTopic { topic },
            Code::UnknownPartition => LogError::UnknownPartition {
                topic,
                partition: number,
            },
            Code::TopicAuthorizationFailed => {
                self.denied = true;
                let denials = self.config.denials();
                let denied = denials.note(
                    Operation::Read.denied(format!("topic {topic}")),
                    Instant::now(),
                );
                return denials.is_final(&denied).then_some(denied);
            }
            Code::Fatal | Code::BadMessage | Code::BadCompression => {
                LogError::Refused(format!("{topic}/{number} at {offset}: {error}"))
            }
            _ => return None,
        })
    }
}

impl Drop for KafkaReader {
    /// Closes the consumer on another thread. librdkafka needs some time for that, or waits for brokers, and several
    /// readers are opened and closed one after the other at start-up.
    fn drop(&mut self) {
        let partitions = std::mem::take(&mut self.partitions);
        let consumer = self.consumer.clone();
        let close = move || {
            drop(partitions);
            // Waits until the reader has dropped its reference: the thread that drops the last reference closes the
            // consumer.
            while Arc::strong_count(&consumer) > 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // If no thread can start, the closure is dropped here, and the consumer is closed on the current thread.
        let _ = std::thread::Builder::new()
            .name("kafka-close".to_owned())
            .spawn(close);
    }
}

/// Creates a consumer of the partitions and offsets in `from`, with a queue for each partition.
fn consume(
    config: &Config,
    topic: &str,
    from: &[(u32, u64)],
    wake: &Wake,
) -> Result<(Arc<BaseConsumer<Events>>, Vec<Partition>), LogError> {
    let refused = |error: KafkaError| LogError::Refused(error.to_string());
    let mut consumer: BaseConsumer<Events> = config.create(&config.consumer(), config.events())?;
    let on_event = wake.clone();
    consumer.set_nonempty_callback(move || on_event());
    let consumer = Arc::new(consumer);
    let mut assignment = TopicPartitionList::with_capacity(from.len());
    for (partition, offset) in from {
        let offset = Offset::Offset(i64::try_from(*offset).unwrap_or(i64::MAX));
        assignment
            .add_partition_offset(topic, signed(*partition), offset)
            .map_err(refused)?;
    }
    consumer.assign(&assignment).map_err(refused)?;
    // The queues are split after the assignment, since an assignment would connect them to the consumer's queue again.
    let mut partitions = Vec::with_capacity(from.len());
    for (number, next) in from {
        let mut queue = consumer
            .split_partition_queue(topic, signed(*number))
            .ok_or_else(|| LogError::UnknownPartition {
                topic: topic.to_owned(),
                partition: *number,
            })?;
        let on_record = wake.clone();
        queue.set_nonempty_callback(move || on_record());
        partitions.push(Partition {
            number: *number,
            queue,
            early: VecDeque::new(),
            next: *next,
            at_end: false,
            failed: None,
        });
    }
    // Messages that arrived before a callback was registered did not call it, so `wake` is called once here.
    wake();
    Ok((consumer, partitions))
}

impl Reader for KafkaReader {
    fn poll_while(
        &mut self,
        partition: u32,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<usize, LogError> {
        self.serve_consumer();
        self.replace_if_stuck()?;
        let Some(which) = self.partitions.iter().position(|it| it.number == partition) else {
            return Err(LogError::UnknownPartition {
                topic: self.topic.clone(),
                partition,
            });
        };
        let mut count = 0;
        // The loop continues after an event that is not a record: messages that remain in the queue cause no further
        // wake-up.
        while count < limit {
            let (handed_out, event) = self.partitions[which].deliver(limit - count, each)?;
            count += handed_out;
            if handed_out > 0 || matches!(event, Some(KafkaError::PartitionEOF(_))) {
                self.denied = false;
                // The denial is removed even if this reader was not denied: it may replace a reader that was.
                let denials = self.config.denials();
                denials.allow("Read", format_args!("topic {}", self.topic));
            }
            match event {
                Some(KafkaError::PartitionEOF(_)) => {
                    let position = self.position_at_end(partition);
                    let state = &mut self.partitions[which];
                    state.next = position.map_or(state.next, |position| position.max(state.next));
                }
                Some(error) => {
                    let failure = self.failure(&error, partition, self.partitions[which].next);
                    self.partitions[which].failed.clone_from(&failure);
                    match failure {
                        // The records before the error were consumed, so their number is returned. The next poll
                        // returns the error.
                        Some(_) if count > 0 => break,
                        Some(failure) => return Err(failure),
                        None => {}
                    }
                }
                None => break,
            }
        }
        Ok(count)
    }

    fn position(&self, partition: u32) -> u64 {
        self.partitions
            .iter()
            .find(|it| it.number == partition)
            .map_or(0, |it| it.next)
    }

    fn at_end(&self, partition: u32) -> bool {
        self.partitions
            .iter()
            .any(|it| it.number == partition && it.at_end)
    }
}

impl Partition {
    /// Passes records to `each`. Ends at `limit`, at an empty queue, at a record that is not consumed, and at an event
    /// that is not a record. Returns the number of consumed records, and that event.
    fn deliver(
        &mut self,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<(usize, Option<KafkaError>), LogError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut count = 0;
        while count < limit {
            let event: Option<KafkaResult<bool>> = match self.early.pop_front() {
                Some(Early::Message(message)) => {
                    let offset = message.offset();
                    let consumed = pass(self.number, &message, each);
                    self.advance(offset, consumed.then_some(()).ok_or(message));
                    Some(Ok(consumed))
                }
                Some(Early::End) => Some(Err(KafkaError::PartitionEOF(signed(self.number)))),
                None => self.poll_queue(each),
            };
            match event {
                Some(Ok(true)) => count += 1,
                Some(Ok(false)) => break,
                Some(Err(error)) => {
                    self.at_end = matches!(error, KafkaError::PartitionEOF(_));
                    return Ok((count, Some(error)));
                }
                None => break,
            }
        }
        Ok((count, None))
    }

    /// Polls the queue once. Returns whether the record was consumed; `None` if the queue was empty.
    fn poll_queue(
        &mut self,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Option<KafkaResult<bool>> {
        let message = match self.queue.poll(Duration::ZERO)? {
            Ok(message) => message,
            Err(error) => return Some(Err(error)),
        };
        let offset = message.offset();
        let consumed = pass(self.number, &message, each);
        // The message borrows from the queue. It is copied only if it was not consumed, since it is stored then.
        let unconsumed = consumed.then_some(()).ok_or_else(|| message.detach());
        self.advance(offset, unconsumed);
        Some(Ok(consumed))
    }

    /// Moves the position past a consumed record, or stores a record that was not consumed for the next poll.
    fn advance(&mut self, offset: i64, unconsumed: Result<(), OwnedMessage>) {
        self.at_end = false;
        match unconsumed {
            Ok(()) => self.next = unsigned(offset) + 1,
            Err(message) => self.early.push_front(Early::Message(message)),
        }
    }
}

/// Passes a message to `each` without a copy. Returns whether it was consumed.
fn pass(partition: u32, message: &impl Message, each: &mut dyn FnMut(Record<'_>) -> bool) -> bool {
    each(Record {
        partition,
        offset: unsigned(message.offset()),
        time_ms: message.timestamp().to_millis().map_or(0, unsigned),
        key: message.key(),
        value: message.payload().unwrap_or_default(),
        headers: &HeadersOf(message),
    })
}

struct HeadersOf<'a, M>(&'a M);

impl<M: Message> Headers for HeadersOf<'_, M> {
    fn read(&self) -> Vec<Header> {
        let named = self
            .0
            .headers()
            .into_iter()
            .flat_map(|headers| headers.iter());
        let header = |header: rdkafka::message::Header<'_, &[u8]>| Header {
            name: header.key.to_owned(),
            value: bytes::Bytes::copy_from_slice(header.value.unwrap_or_default()),
        };
        named.map(header).collect()
    }
}
