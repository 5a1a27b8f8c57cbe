//! Finding the others: listening at one's own address, dialling those with a smaller index.
//!
//! Whoever connects gets [`HELLO_PATIENCE`] to say who it is; at most [`STRANGERS`] may be about it at
//! once: one more, and who has been silent longest goes. What is wrong with a stranger is logged, and is the stranger's affair.

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

/// A cluster has some dozen processes with two connections each; a scanner may have the rest.
const STRANGERS: usize = 64;

/// Between two attempts: a process that comes up is joined at once, for people's senses.
const REDIAL: Duration = Duration::from_millis(200);

/// After a failed accept, mostly for want of file handles.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What may wait for the conversation; senders wait when it is full.
pub const EVENTS: usize = 64;

/// What happens around a process of a cluster.
pub enum Event {
    /// A process that we dialled welcomes us.
    Welcomed {
        process: usize,
        purpose: Purpose,
        stream: TcpStream,
    },
    /// Somebody has dialled us and says who it is.
    Knocks { hello: Hello, stream: TcpStream },
    /// A process that we dial is not there yet.
    Unreachable { process: usize, why: String },
    /// We do not belong there, and trying again would not help.
    Refused(StreamsError),
    /// A control connection brought a word, or ended. `since` tells it from its predecessors.
    Said {
        process: usize,
        since: u64,
        word: std::io::Result<Word>,
    },
}

/// Binds the process' own address; `None` if it is asked to stop before. A name may become known only
/// while its machine starts: it is waited for like another process.
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

/// Hears who connects, as long as it is polled.
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
            // A process of ours says hello at once; who is silent must not keep it out.
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
            // Nobody hears it once the group is complete.
            let _ = events.send(Event::Knocks { hello, stream }).await;
        }
        Ok(Err(error)) => {
            tracing::warn!("{from} connected and is no process of this cluster: {error}");
        }
        Err(_) => tracing::warn!("{from} connected and said no hello within {HELLO_PATIENCE:?}"),
    }
}

/// Dials a process until it welcomes us, or refuses us for good.
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
