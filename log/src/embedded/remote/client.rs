//! The reading process's side of the socket.

use std::{
    io,
    ops::Range,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    SOCKET,
    protocol::{ANSWER_BYTES, Answer, PAGE_RECORDS, Question, WireRecord, receive, send},
};
use crate::{
    Header, LogError, Record, TopicDescription,
    embedded::source::{Page, Source},
};

/// How long the holder may take to answer before it counts as away.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the process that holds a directory. The connection is made anew whenever it broke.
pub(in crate::embedded) struct Client {
    dir: PathBuf,
    connection: Mutex<Option<UnixStream>>,
}

/// Whether somebody offers a socket in `dir`, or left one behind.
pub(in crate::embedded) fn socket_exists(dir: &Path) -> bool {
    dir.join(SOCKET).exists()
}

impl Client {
    pub(in crate::embedded) fn connect(dir: &Path) -> Result<Self, LogError> {
        let stream = open(dir).map_err(|error| away(dir, &error))?;
        Ok(Self {
            dir: dir.into(),
            connection: Mutex::new(Some(stream)),
        })
    }

    fn ask(&self, question: &Question) -> Result<Answer, LogError> {
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let asked = exchange(&self.dir, &mut connection, question);
        if asked.is_err() {
            *connection = None;
        }
        asked.map_err(|error| away(&self.dir, &error))
    }

    /// Whether the holder can be reached; asks nothing of it.
    pub(in crate::embedded) fn connected(&self) -> bool {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn unexpected(&self, answer: Answer, topic: &str, partition: u32, offset: u64) -> LogError {
        let topic = topic.to_owned();
        match answer {
            Answer::UnknownTopic => LogError::UnknownTopic { topic },
            Answer::UnknownPartition => LogError::UnknownPartition { topic, partition },
            Answer::Expired { start } => LogError::Expired {
                topic,
                partition,
                offset,
                start,
            },
            Answer::Failed(why) => LogError::Refused(why),
            _ => LogError::Refused(format!(
                "the emostream that holds {} is of another version",
                self.dir.display()
            )),
        }
    }
}

fn open(dir: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(dir.join(SOCKET))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn exchange(
    dir: &Path,
    connection: &mut Option<UnixStream>,
    question: &Question,
) -> io::Result<Answer> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(open(dir)?),
    };
    send(stream, question)?;
    receive::<Answer, ANSWER_BYTES>(stream)
}

fn away(dir: &Path, error: &io::Error) -> LogError {
    let detail = format!("the emostream that holds it does not answer: {error}");
    LogError::Disk {
        dir: dir.into(),
        detail,
    }
}

impl Source for Client {
    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        match self.ask(&Question::Partitions {
            topic: topic.to_owned(),
        })? {
            Answer::Partitions(partitions) => Ok(partitions),
            other => Err(self.unexpected(other, topic, 0, 0)),
        }
    }

    fn describe(&self, topic: &str) -> Result<TopicDescription, LogError> {
        match self.ask(&Question::Describe {
            topic: topic.to_owned(),
        })? {
            Answer::Description(description) => Ok(description.into()),
            other => Err(self.unexpected(other, topic, 0, 0)),
        }
    }

    fn offsets(&self, topic: &str) -> Result<Vec<Range<u64>>, LogError> {
        match self.ask(&Question::Offsets {
            topic: topic.to_owned(),
        })? {
            Answer::Offsets(offsets) => Ok(offsets),
            other => Err(self.unexpected(other, topic, 0, 0)),
        }
    }

    fn offsets_at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, LogError> {
        match self.ask(&Question::OffsetsAt {
            topic: topic.to_owned(),
            time_ms,
        })? {
            Answer::OffsetsAt(offsets) => Ok(offsets),
            other => Err(self.unexpected(other, topic, 0, 0)),
        }
    }

    fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        limit: usize,
        each: &mut dyn FnMut(Record<'_>) -> bool,
    ) -> Result<Page, LogError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).min(PAGE_RECORDS);
        let asked = self.ask(&Question::Read {
            topic: topic.to_owned(),
            partition,
            from,
            limit,
        });
        let answer = match asked {
            // Like a broker that is away: the reader goes on when the holder is back.
            Err(_) if !self.connected() => {
                return Ok(Page {
                    count: 0,
                    next: from,
                    at_end: false,
                });
            }
            other => other?,
        };
        let Answer::Records {
            records,
            next,
            at_end,
        } = answer
        else {
            return Err(self.unexpected(answer, topic, partition, from));
        };
        let mut count = 0;
        for record in records {
            let offset = record.offset;
            if !hand_out(partition, record, each) {
                return Ok(Page {
                    count,
                    next: offset,
                    at_end: false,
                });
            }
            count += 1;
        }
        Ok(Page {
            count,
            next,
            at_end,
        })
    }
}

fn hand_out(partition: u32, record: WireRecord, each: &mut dyn FnMut(Record<'_>) -> bool) -> bool {
    let named = record.headers.into_iter();
    let headers: Vec<Header> = named
        .map(|(name, value)| Header {
            name,
            value: value.into(),
        })
        .collect();
    each(Record {
        partition,
        offset: record.offset,
        time_ms: record.time_ms,
        key: record.key.as_deref(),
        value: &record.value,
        headers: &headers,
    })
}
