//! The holder's side of the socket.

use std::{
    collections::HashMap,
    fs::{self, Permissions},
    io::{self, ErrorKind},
    net::Shutdown,
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    SOCKET,
    protocol::{
        Answer, PAGE_BYTES, PAGE_RECORDS, QUESTION_BYTES, Question, WireRecord, receive, send,
    },
};
use crate::{LogError, Record, embedded::source::Source};

/// The most clients at a time; people look with a few. One more is hung up on at once.
const CLIENTS: usize = 16;
/// How long a client may be silent, or not take its answer. A following one asks far more often.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a failed accept (say, no file descriptors left) it is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// Serves readers of other processes until it is dropped.
pub(in crate::embedded) struct Server {
    office: Arc<Office>,
    listening: Option<JoinHandle<()>>,
    socket: PathBuf,
}

/// What the listening thread and the clients' threads share.
struct Office {
    source: Arc<dyn Source>,
    closed: AtomicBool,
    clients: Mutex<HashMap<u64, Visit>>,
}

/// A client's stream, to hang up on it, and the thread that serves it.
struct Visit {
    stream: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    /// Serves on the socket in `dir`. The log works without it too, so that a file system that knows no
    /// sockets only costs `inspect`: the warning says so.
    pub(in crate::embedded) fn start(dir: &Path, source: Arc<dyn Source>) -> Option<Self> {
        match Self::try_start(dir.join(SOCKET), source) {
            Ok(server) => Some(server),
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "no socket in the data directory: `inspect --data` has to wait until this process ends");
                None
            }
        }
    }

    fn try_start(socket: PathBuf, source: Arc<dyn Source>) -> io::Result<Self> {
        // One left behind by a killed process: nobody else holds the directory.
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o600))?;
        let office = Arc::new(Office {
            source,
            closed: AtomicBool::new(false),
            clients: Mutex::default(),
        });
        let listening = thread::Builder::new()
            .name("log-socket".to_owned())
            .spawn({
                let office = office.clone();
                move || office.listen(&listener)
            })?;
        Ok(Self {
            office,
            listening: Some(listening),
            socket,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.office.closed.store(true, Ordering::Release);
        // Wakes the listening thread, which then finds that it is closed.
        let woken = UnixStream::connect(&self.socket).is_ok();
        if let Some(listening) = self.listening.take().filter(|_| woken) {
            let _ = listening.join();
        }
        let clients = std::mem::take(&mut *self.office.clients());
        for visit in clients.into_values() {
            let _ = visit.stream.shutdown(Shutdown::Both);
            let _ = visit.thread.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

impl Office {
    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Visit>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: Arc<Self>, listener: &UnixListener) {
        for number in 0.. {
            let accepted = listener.accept();
            if self.closed.load(Ordering::Acquire) {
                return;
            }
            let welcomed = accepted.and_then(|(stream, _)| self.clone().welcome(number, stream));
            if let Err(error) = welcomed {
                tracing::debug!(%error, "a reader of the data directory was not served");
                thread::sleep(ACCEPT_AGAIN);
            }
        }
    }

    fn welcome(self: Arc<Self>, number: u64, stream: UnixStream) -> io::Result<()> {
        self.clients()
            .retain(|_, visit| !visit.thread.is_finished());
        if self.clients().len() >= CLIENTS {
            return Ok(());
        }
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let to_hang_up = stream.try_clone()?;
        let office = self.clone();
        let thread = thread::Builder::new()
            .name("log-client".to_owned())
            .spawn(move || {
                if let Err(error) = office.serve(&stream) {
                    tracing::debug!(%error, "a reader of the data directory was hung up on");
                }
                // The registered clone keeps the connection open otherwise.
                let _ = stream.shutdown(Shutdown::Both);
            })?;
        self.clients().insert(
            number,
            Visit {
                stream: to_hang_up,
                thread,
            },
        );
        Ok(())
    }

    fn serve(&self, mut stream: &UnixStream) -> io::Result<()> {
        loop {
            let question = match receive::<Question, QUESTION_BYTES>(&mut stream) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            let answer = answer(self.source.as_ref(), question).unwrap_or_else(Answer::failure);
            send(&mut stream, answer)?;
        }
    }
}

fn answer(source: &dyn Source, question: Question) -> Result<Answer, LogError> {
    Ok(match question {
        Question::Partitions { topic } => Answer::Partitions(source.partitions(&topic)?),
        Question::Describe { topic } => Answer::Description(source.describe(&topic)?.into()),
        Question::Offsets { topic } => Answer::Offsets(source.offsets(&topic)?),
        Question::OffsetsAt { topic, time_ms } => {
            Answer::OffsetsAt(source.offsets_at(&topic, time_ms)?)
        }
        Question::Read {
            topic,
            partition,
            from,
            limit,
        } => read(source, &topic, partition, from, limit.min(PAGE_RECORDS))?,
    })
}

/// Records from `from` on: one at a time, so that large ones end the page before they fill the memory.
fn read(
    source: &dyn Source,
    topic: &str,
    partition: u32,
    from: u64,
    limit: u32,
) -> Result<Answer, LogError> {
    const STEP: usize = 64;
    let (mut records, mut bytes) = (Vec::new(), 0);
    let mut at = from;
    loop {
        let want = STEP.min(limit as usize - records.len());
        let mut keep = |record: Record<'_>| {
            let fits = bytes < PAGE_BYTES;
            if fits {
                let record = wire(record);
                bytes += record.bytes();
                records.push(record);
            }
            fits
        };
        let page = source.read(topic, partition, at, want, &mut keep)?;
        at = page.next;
        if bytes >= PAGE_BYTES || page.count < want || records.len() >= limit as usize {
            return Ok(Answer::Records {
                records,
                next: at,
                at_end: page.at_end,
            });
        }
    }
}

fn wire(record: Record<'_>) -> WireRecord {
    let headers = record.headers.read().into_iter();
    let headers = headers.map(|header| (header.name, header.value.to_vec()));
    WireRecord {
        offset: record.offset,
        time_ms: record.time_ms,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.to_vec(),
        headers: headers.collect(),
    }
}
