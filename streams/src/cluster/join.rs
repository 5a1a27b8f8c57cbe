//! How a process connects to the others: it listens on its own address, and dials those with a smaller index.
//!
//! A client that connects has [`HELLO_PATIENCE`] for its handshake. At most [`STRANGERS`] handshakes are open at once;
//! for one more, the oldest is aborted. A failed handshake is logged and has no other effect.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, lookup_host},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{
    Cluster,
    hello::{self, Answer, HELLO_PATIENCE, Hello},
    wire::{Purpose, Word},
};
use crate::{Stop, StreamsError};

/// Maximum number of open handshakes. A cluster has some dozen processes with two connections each, so this limit
/// leaves space for connections of port scanners.
const STRANGERS: usize = 64;

/// Pause between two attempts to connect: short enough that a process that starts is connected without a visible delay.
const REDIAL: Duration = Duration::from_millis(200);

/// Pause after a failed accept, which mostly means that the process has too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Capacity of the queue of events. Senders wait when it is full.
pub const EVENTS: usize = 64;

/// An event of a connection of the cluster.
pub enum Event {
    /// A process that this one dialled has accepted the connection.
    Welcomed {
        process: usize,
        purpose: Purpose,
        stream: TcpStream,
    },
    /// Another process has connected and sent its hello.
    Knocks { hello: Hello, stream: TcpStream },
    /// A process that this one dials does not answer yet.
    Unreachable { process: usize, why: String },
    /// A process that this one dialled has rejected the connection, and a retry would not help.
    Refused(StreamsError),
    /// A message arrived on a control connection, or the connection ended. `since` is the number of the connection,
    /// which distinguishes it from earlier ones to the same process.
    Said {
        process: usize,
        since: u64,
        word: std::io::Result<Word>,
    },
}

/// Binds the address of this process. Returns `None` if a stop is requested before. The DNS name may become known only
/// after the machine has started, so the function retries the lookup until the join timeout.
pub async fn bind(cluster: &Cluster, stop: &Stop) -> Result<Option<TcpListener>, StreamsError> {
    let host = &cluster.hosts[cluster.index];
    let listen = |detail: String| StreamsError::Listen {
        host: host.clone(),
        detail,
    };
    let since = Instant::now();
    loop {
        let unknown = match timeout(HELLO_PATIENCE, lookup_host(host)).await {
            Ok(Ok(addresses)) => {
                let addresses: Vec<SocketAddr> = addresses.collect();
                let bound = TcpListener::bind(&addresses[..]).await;
                return bound.map(Some).map_err(|error| listen(error.to_string()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("its name has no answer within {HELLO_PATIENCE:?}"),
        };
        if stop.is_requested() {
            return Ok(None);
        }
        if since.elapsed() >= cluster.join_timeout {
            return Err(listen(unknown));
        }
        tracing::warn!("the address of {host}, which is this process, is not known yet: {unknown}");
        sleep(REDIAL).await;
    }
}

/// Accepts connections and reads their hellos, as long as the future is polled.
pub async fn listen(listener: TcpListener, events: mpsc::Sender<Event>) {
    let mut strangers: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(STRANGERS);
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection cannot be accepted: {error}");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        strangers.retain(|stranger| !stranger.is_finished());
        if strangers.len() >= STRANGERS
            && let Some(longest) = strangers.pop_front()
        {
            // A process of the cluster sends its hello at once. Clients that send nothing must not block it.
            longest.abort();
            tracing::warn!(
                "too many strangers at once; who has been silent longest is turned away"
            );
        }
        strangers.push_back(tokio::spawn(hear(stream, from, events.clone())));
    }
}

async fn hear(mut stream: TcpStream, from: SocketAddr, events: mpsc::Sender<Event>) {
    match timeout(HELLO_PATIENCE, hello::hear(&mut stream)).await {
        Ok(Ok(hello)) => {
            // Fails once the group is complete, when no task receives events any more.
            let _ = events.send(Event::Knocks { hello, stream }).await;
        }
        Ok(Err(error)) => {
            tracing::warn!("{from} connected and is no process of this cluster: {error}");
        }
        Err(_) => tracing::warn!("{from} connected and said no hello within {HELLO_PATIENCE:?}"),
    }
}

/// Dials a process until it accepts the connection, or rejects it for a reason that a retry does not change.
pub async fn dial(cluster: Arc<Cluster>, hello: Hello, events: mpsc::Sender<Event>) {
    let (process, purpose) = (hello.to, hello.purpose);
    loop {
        let event = match timeout(HELLO_PATIENCE, attempt(&cluster, &hello)).await {
            Ok(Ok((stream, Answer::Welcome))) => Event::Welcomed {
                process,
                purpose,
                stream,
            },
            Ok(Ok((_, answer))) => refusal(&cluster, &hello, answer),
            Ok(Err(error)) => Event::Unreachable {
                process,
                why: error.to_string(),
            },
            Err(_) => Event::Unreachable {
                process,
                why: format!("no answer within {HELLO_PATIENCE:?}"),
            },
        };
        let again = matches!(event, Event::Unreachable { .. });
        if events.send(event).await.is_err() || !again {
            return;
        }
        sleep(REDIAL).await;
    }
}

async fn attempt(cluster: &Cluster, hello: &Hello) -> std::io::Result<(TcpStream, Answer)> {
    let mut stream = TcpStream::connect(&cluster.hosts[hello.to]).await?;
    stream.set_nodelay(true)?;
    let answer = hello::say(&mut stream, hello).await?;
    Ok((stream, answer))
}

fn refusal(cluster: &Cluster, hello: &Hello, answer: Answer) -> Event {
    let process = hello.to;
    let peer = cluster.name(process);
    match answer {
        Answer::Taken | Answer::Welcome => Event::Unreachable {
            process,
            why: format!("it has a process {} already", hello.process),
        },
        Answer::WrongToken => Event::Refused(StreamsError::WrongToken { peer }),
        Answer::NotMe(index) => Event::Refused(StreamsError::Disagreement {
            difference: format!(
                "{peer} says that it is process {index}: the lists of hosts differ"
            ),
        }),
        Answer::Differs(theirs) => {
            let difference = hello.agreement.difference(&theirs, &peer);
            Event::Refused(StreamsError::Disagreement {
                difference: difference.unwrap_or_else(|| format!("{peer} counts otherwise")),
            })
        }
    }
}
