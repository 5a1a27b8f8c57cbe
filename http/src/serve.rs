//! The accept loop, and one connection.

use std::{convert::Infallible, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Version,
    header::{CONNECTION, HOST, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{Handler, Limits, Problem, Request, Shutdown, Socket, problem::jittered_retry};

/// How long accepting pauses after an error. The usual one is a lack of file descriptors, which only
/// time mends; trying on at once would burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How many refused clients are told so at once. Beyond it they are closed without a word, so that a
/// flood of connections costs nothing.
const REFUSALS: usize = 64;

/// How long a refused client may take to read it.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had not ended at the deadline, upgraded ones included.
    pub left: usize,
}

/// Serves `listener` until `shutdown`; then accepts no more, lets requests in flight finish within
/// [`Limits::drain`], and returns.
///
/// Answers that never end and upgraded sockets are their handler's to end when `shutdown` is requested;
/// the drain waits for them too.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    limits: Limits,
    shutdown: Shutdown,
) -> Drained {
    let stop = Stop {
        soon: shutdown.clone(),
        now: Shutdown::new(),
    };
    let mut requested = pin!(shutdown.requested());
    let places = Arc::new(Semaphore::new(limits.connections as usize));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            () = &mut requested => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "no connection is accepted until this ends");
                }
                pause_after(&error).await;
                continue;
            }
        };
        failing = false;
        if let Ok(place) = places.clone().try_acquire_owned() {
            // A socket that is already broken shows itself at its first read.
            let _ = stream.set_nodelay(true);
            let socket = Socket::new(stream, place, limits.unread);
            let (handler, limits, stop) = (handler.clone(), limits.clone(), stop.clone());
            tokio::spawn(connection(socket, peer, handler, limits, stop));
        } else if let Ok(place) = refusals.clone().try_acquire_owned() {
            let socket = Socket::new(stream, place, REFUSAL_TIME);
            tokio::spawn(refuse(socket));
        }
    }
    drop(listener);
    let drained = drained(&places, limits.connections, limits.drain).await;
    stop.now.trigger();
    drained
}

/// A connection that was reset before it was accepted is no reason to wait for the next one.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    let harmless = [
        ConnectionAborted,
        ConnectionRefused,
        ConnectionReset,
        Interrupted,
    ];
    if !harmless.contains(&error.kind()) {
        sleep(ACCEPT_PAUSE).await;
    }
}

async fn drained(places: &Semaphore, all: u32, within: Duration) -> Drained {
    // Every place is free again when every connection has ended.
    let ended = timeout(within, places.acquire_many(all)).await.is_ok();
    let left = if ended {
        0
    } else {
        all as usize - places.available_permits()
    };
    Drained { left }
}

/// When a connection ends for the server's sake.
#[derive(Clone)]
struct Stop {
    /// After the request in flight.
    soon: Shutdown,
    /// At once: the drain's time is over.
    now: Shutdown,
}

async fn connection<H: Handler>(
    socket: Socket,
    peer: SocketAddr,
    handler: Arc<H>,
    limits: Limits,
    stop: Stop,
) {
    let service = service_fn(|request: Request| {
        let handler = handler.clone();
        async move {
            Ok::<_, Infallible>(match misdirected(&request) {
                Some(problem) => problem.into(),
                None if handler.knows(request.uri().path()) => handler.handle(request, peer).await,
                None => Problem::unknown_path().into(),
            })
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes);
    let served = http
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => Some(ended),
        () = stop.soon.requested() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served => Some(ended),
                () = stop.now.requested() => None,
            }
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%peer, %error, "a connection broke off");
    }
}

/// What RFC 9112 (3.2) has a server refuse: a proxy before it might have read another host.
fn misdirected(request: &Request) -> Option<Problem> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let wrong = hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11;
    wrong.then(|| {
        Problem::bad_request("a request names its host once: one Host header")
            .header(CONNECTION, HeaderValue::from_static("close"))
    })
}

/// Tells a client that there is no place for it.
async fn refuse(mut socket: Socket) -> io::Result<()> {
    let problem = Problem::unavailable("too many connections; come back later").text();
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {}\r\nconnection: close\r\n\
         content-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{problem}",
        jittered_retry().as_secs(),
        problem.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await
}
