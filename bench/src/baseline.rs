//! The baseline of `drain`, named *floor* in its table. It reads and counts reactions, but it writes no results, has no
//! watermarks, and cannot recover.
//!
//! The baseline has one consumer with the settings of the dataflow's consumer, a JSON parser that borrows strings from
//! the record, and fast hash maps. Its CPU time is therefore a lower bound for every dataflow that uses the same Kafka
//! client.

use std::{
    io::{Read, stdin},
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use emostream_model::{EmojiNames, Payload};
use foldhash::{HashMap, HashMapExt};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};
use serde::Deserialize;

use crate::{Result, cluster::PARTITIONS, crowd::window_of};

#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    reader: Reader,
}

/// The way in which each record is processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reader {
    /// The record is dropped without being parsed.
    Nothing,
    /// The record is parsed by serde_json and counted.
    SerdeJson,
    /// The record is parsed by sonic-rs and counted.
    SonicRs,
    /// The record is decoded as a batch and counted.
    Batch,
}

impl Reader {
    /// Returns the name of the reader, as the value of a flag.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |it| it.get_name().to_owned())
    }
}

#[derive(Deserialize)]
struct Plain<'a> {
    #[serde(borrow)]
    room: &'a str,
    #[serde(borrow)]
    emoji_type: &'a str,
}

#[derive(Default)]
struct Counts {
    rooms: HashMap<String, u32>,
    emojis: HashMap<String, u32>,
    counts: HashMap<(u64, u32, u32), u64>,
}

impl Counts {
    fn add(&mut self, at_ms: u64, room: &str, emoji: &str) {
        let key = (
            window_of(at_ms),
            number(&mut self.rooms, room),
            number(&mut self.emojis, emoji),
        );
        *self.counts.entry(key).or_default() += 1;
    }
}

fn number(known: &mut HashMap<String, u32>, name: &str) -> u32 {
    if let Some(number) = known.get(name) {
        return *number;
    }
    let number = known.len() as u32;
    known.insert(name.to_owned(), number);
    number
}

/// Reads the topic to its end, prints the number of counted reactions, and waits until the parent process has measured
/// this process.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let consumer = consumer(flags)?;
    let mut counts = Counts {
        counts: HashMap::new(),
        ..Counts::default()
    };
    let mut dropped = 0;
    let emojis = EmojiNames::default();
    let mut open = PARTITIONS;
    let begun = Instant::now();
    while open > 0 {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(message)) => {
                let value = message.payload().unwrap_or_default();
                let at_ms = message.timestamp().to_millis().unwrap_or_default() as u64;
                match flags.reader {
                    Reader::Nothing => dropped += 1,
                    Reader::SerdeJson => {
                        let plain: Plain<'_> = serde_json::from_slice(value)?;
                        counts.add(at_ms, plain.room, plain.emoji_type);
                    }
                    Reader::SonicRs => {
                        let plain: Plain<'_> = sonic_rs::from_slice(value)?;
                        counts.add(at_ms, plain.room, plain.emoji_type);
                    }
                    Reader::Batch => count_batch(value, &emojis, &mut counts)?,
                }
            }
        }
    }
    let counted: u64 = counts.counts.values().sum();
    eprintln!(
        "baseline {:?}: {} in {:?}",
        flags.reader,
        counted + dropped,
        begun.elapsed()
    );
    println!("counted {}", counted + dropped);
    // The parent process closes standard input after it has read the CPU time and memory of this process from /proc.
    stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn count_batch(value: &[u8], emojis: &EmojiNames, counts: &mut Counts) -> Result<()> {
    // The closing reactions are plain JSON and not batches, so they are skipped.
    let Payload::Batch(batch) = Payload::decode(value, emojis)? else {
        return Ok(());
    };
    for (room, emoji, at_ms) in batch.entries() {
        counts.add(at_ms, batch.rooms()[room], batch.emoji_texts()[emoji]);
    }
    Ok(())
}

/// Returns a consumer with the settings of the dataflow's consumer (`log/src/kafka/config.rs`).
fn consumer(flags: &Flags) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &flags.kafka)
        .set("group.id", "floor")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("queued.min.messages", "100000")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.min.bytes", "65536")
        .set("fetch.wait.max.ms", "15")
        .set("enable.metrics.push", "false")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(&flags.topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}
