//! The frames between a log's holder and those who read along: bincode behind a 32-bit length.

use std::{
    io::{self, ErrorKind, Read, Write},
    ops::Range,
    time::Duration,
};

use bincode::{Decode, Encode};

use crate::{Deletion, LogError, Timestamps, TopicDescription, embedded::tables::millis};

/// The longest question: a topic's name and some numbers.
pub(super) const QUESTION_BYTES: usize = 4 * 1024;
/// The longest answer: [`PAGE_BYTES`] and one record more, with room for lengths.
pub(super) const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Once an answer holds that many bytes of records, it is sent.
pub(super) const PAGE_BYTES: usize = 1024 * 1024;
/// The most records of an answer.
pub(super) const PAGE_RECORDS: u32 = 10_000;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Question {
    Partitions {
        topic: String,
    },
    Offsets {
        topic: String,
    },
    OffsetsAt {
        topic: String,
        time_ms: u64,
    },
    Read {
        topic: String,
        partition: u32,
        from: u64,
        limit: u32,
    },
    Describe {
        topic: String,
    },
}

/// What the holder answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Answer {
    Partitions(u32),
    Offsets(Vec<Range<u64>>),
    OffsetsAt(Vec<u64>),
    Records {
        records: Vec<WireRecord>,
        next: u64,
        at_end: bool,
    },
    UnknownTopic,
    UnknownPartition,
    Expired {
        start: u64,
    },
    Failed(String),
    Description(WireDescription),
}

/// A topic's description on its way; what every embedded topic has alike is left out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct WireDescription {
    pub(super) partitions: u32,
    pub(super) compacted: bool,
    /// After how many milliseconds, and beyond how many bytes.
    pub(super) deleted: Option<(Option<u64>, Option<u64>)>,
    pub(super) max_ahead_ms: Option<u64>,
}

/// A record on its way.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct WireRecord {
    pub(super) offset: u64,
    pub(super) time_ms: u64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Vec<u8>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
}

impl WireRecord {
    /// What it counts towards [`PAGE_BYTES`].
    pub(super) fn bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.len() + headers
    }
}

impl From<TopicDescription> for WireDescription {
    fn from(topic: TopicDescription) -> Self {
        let deleted = |deletion: Deletion| (deletion.after.map(millis), deletion.bytes);
        Self {
            partitions: topic.partitions,
            compacted: topic.compacted,
            deleted: topic.deleted.map(deleted),
            max_ahead_ms: match topic.timestamps {
                Timestamps::Written { max_ahead } => max_ahead.map(millis),
                // The embedded log dates no record that has a time.
                Timestamps::Appended | Timestamps::WrittenWithoutLimit => None,
            },
        }
    }
}

impl From<WireDescription> for TopicDescription {
    fn from(topic: WireDescription) -> Self {
        let deletion = |(after_ms, bytes): (Option<u64>, _)| Deletion {
            after: after_ms.map(Duration::from_millis),
            bytes,
        };
        Self {
            partitions: topic.partitions,
            replication: 1,
            brokers: 1,
            compacted: topic.compacted,
            deleted: topic.deleted.map(deletion),
            timestamps: Timestamps::Written {
                max_ahead: topic.max_ahead_ms.map(Duration::from_millis),
            },
            max_record_bytes: None,
            min_in_sync: 1,
            unclean_election: false,
        }
    }
}

impl Answer {
    /// What the holder says instead of a result.
    pub(super) fn failure(error: LogError) -> Self {
        match error {
            LogError::UnknownTopic { .. } => Self::UnknownTopic,
            LogError::UnknownPartition { .. } => Self::UnknownPartition,
            LogError::Expired { start, .. } => Self::Expired { start },
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Sends one frame.
pub(super) fn send(stream: &mut impl Write, message: impl Encode) -> io::Result<()> {
    // One buffer for length and body, hence one system call.
    let mut frame = vec![0; 4];
    bincode::encode_into_std_write(message, &mut frame, bincode::config::standard())
        .map_err(io::Error::other)?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&frame)
}

/// Receives one frame of at most `LIMIT` bytes; a longer one is refused before it is read.
pub(super) fn receive<Message: Decode<()>, const LIMIT: usize>(
    stream: &mut impl Read,
) -> io::Result<Message> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LIMIT {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("a frame of {length} bytes"),
        ));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (message, read) = bincode::decode_from_slice(&body, config)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?;
    if read != length {
        return Err(io::Error::new(
            ErrorKind::InvalidData,
            "a frame with bytes left over",
        ));
    }
    Ok(message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test that cannot go on has failed
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_question_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = receive::<Question, QUESTION_BYTES>(&mut bytes.as_slice());
            let _ = receive::<Answer, ANSWER_BYTES>(&mut bytes.as_slice());
        }

        #[test]
        fn any_body_of_the_right_length_is_a_message_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let mut frame = (body.len() as u32).to_le_bytes().to_vec();
            frame.extend(body);
            let _ = receive::<Question, QUESTION_BYTES>(&mut frame.as_slice());
            let _ = receive::<Answer, ANSWER_BYTES>(&mut frame.as_slice());
        }

        #[test]
        fn a_question_arrives_as_it_was_sent(topic in ".{0,40}", partition: u32, from: u64, limit: u32) {
            let question = Question::Read { topic, partition, from, limit };
            let mut frame = Vec::new();
            send(&mut frame, &question).unwrap();
            prop_assert_eq!(receive::<Question, QUESTION_BYTES>(&mut frame.as_slice()).unwrap(), question);
        }
    }

    #[test]
    fn an_announced_giant_is_refused_before_it_is_read() {
        let frame = u32::MAX.to_le_bytes();
        let refused = receive::<Question, QUESTION_BYTES>(&mut frame.as_slice()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
    }
}
