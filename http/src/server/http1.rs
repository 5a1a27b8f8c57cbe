//! HTTP/1 on a connection: hyper serves the connection until a response takes the socket over.
//!
//! ```text
//!  ┌─▶ hyper reads a request ──▶ handler ──▶ bytes, a stream ──▶ hyper writes the response ─┐
//!  │                                └──────▶ takeover ─────────▶ hyper is dropped           │
//!  └────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A service that takes a socket over writes the head of its response itself. For hyper, the handler of that request
//! never returns, so hyper never begins a response that it cannot finish. hyper's upgrades cannot be used: they happen
//! only after a 101, but a shard also takes sockets over for Server-Sent Events, whose status is 200. hyper-util's
//! `auto` and `graceful` cannot be used either: they wait for a client's first bytes without a timeout, and do not
//! return the socket.

#![allow(
    clippy::disallowed_methods,
    reason = "sets the Date header of responses"
)]

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io::{self, Write},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use hyper::{
    Request, StatusCode, Version,
    body::{Body as _, Incoming},
    header::EXPECT,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use crate::{
    DetachedConnection, Problem, Response,
    message::takeover::{self, OnTakeover},
    net::socket::{Socket, detach},
    server::{connection::Serving, streams::TrackedBody},
};

/// Maximum time that a drain waits for the rest of an incomplete request head, if it is the first one of its
/// connection. The rest may be in transit. Without this timeout, hyper would wait for
/// [`Limits::head`](crate::Limits::head). All other connections close without this wait: those on which the client has
/// sent nothing, and those that have had a complete request.
const FIRST_HEAD_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// The head of a response that takes the socket over, and the callback that receives the socket.
type PendingTakeover = (Bytes, OnTakeover);

/// State that the handler and the socket, both owned by hyper, share with the connection's task.
#[derive(Default)]
struct ConnectionState {
    /// Whether hyper has read the head of a request.
    has_request: AtomicBool,
    takeover: Mutex<Option<PendingTakeover>>,
    /// Whether some written bytes are not flushed yet.
    unsent: AtomicBool,
}

impl ConnectionState {
    fn takeover(&self) -> MutexGuard<'_, Option<PendingTakeover>> {
        self.takeover.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the takeover once all earlier responses are sent. If it was returned earlier, a response that hyper
    /// still buffers would be lost.
    fn poll_takeover(&self) -> Poll<PendingTakeover> {
        let sent = !self.unsent.load(Ordering::Relaxed);
        match self.takeover().take_if(|_| sent) {
            Some(takeover) => Poll::Ready(takeover),
            None => Poll::Pending,
        }
    }
}

/// The reason why hyper stops serving a connection.
enum End {
    Closed(Result<(), hyper::Error>),
    Takeover(PendingTakeover),
}

impl Serving {
    /// Serves a connection until it ends or is taken over.
    pub(crate) async fn http1(&self, socket: Socket, peer: SocketAddr) -> Result<(), hyper::Error> {
        let state: Arc<ConnectionState> = Arc::default();
        let shared = &*state;
        let service = service_fn(move |mut request| {
            shared.has_request.store(true, Ordering::Relaxed);
            let refusal = poll_body(&mut request);
            let response = self.respond(request, refusal, peer, shared);
            // hyper never shrinks the write buffer of a connection. `TrackedBody` splits a response of megabytes into
            // chunks, so that this buffer does not grow beyond twice `max_buf_size`.
            async { Ok::<_, Infallible>(response.await.map(|body| TrackedBody::new(body, None))) }
        });
        let io = TokioIo::new(TrackedIo {
            socket,
            state: state.clone(),
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            // With `half_close`, a client that has closed its sending side still gets its response. Without it, hyper
            // also reads from the socket while a handler runs, to detect the end of the connection. For this read,
            // hyper allocates another 8 KiB if the request's body uses the read buffer.
            .half_close(true)
            // Most responses are short, so copying them into one buffer costs less than a vectored write.
            .writev(false)
            .max_buf_size(self.limits.head_bytes);
        let mut served = http.serve_connection(io, service);
        let mut graceful = pin!(self.shutdown.graceful.cancelled());
        let mut shutting_down = false;
        let mut head_until = None;
        let end = loop {
            let end = poll_fn(|cx| match Pin::new(&mut served).poll(cx) {
                Poll::Ready(closed) => Poll::Ready(End::Closed(closed)),
                Poll::Pending => state.poll_takeover().map(End::Takeover),
            });
            tokio::select! {
                biased;
                end = end => break end,
                () = &mut graceful, if !shutting_down => {
                    shutting_down = true;
                    Pin::new(&mut served).graceful_shutdown();
                    head_until = Some(Instant::now() + FIRST_HEAD_DRAIN_TIMEOUT);
                }
                () = sleep_until(head_until.unwrap_or_else(Instant::now)), if head_until.is_some() => {
                    head_until = None;
                    if !state.has_request.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                }
                () = self.shutdown.forced.cancelled(), if shutting_down => return Ok(()),
            }
        };
        let (head, takeover) = match end {
            End::Closed(closed) => return closed,
            End::Takeover(takeover) => takeover,
        };
        let parts = served.into_parts();
        match detach(parts.io.into_inner().socket, &parts.read_buf) {
            Ok((stream, read_ahead)) => takeover(DetachedConnection {
                stream,
                head,
                read_ahead,
            }),
            Err(error) => tracing::debug!(%peer, %error, "a connection ended unexpectedly"),
        }
        Ok(())
    }

    /// Returns the response to a request. If the socket is taken over, the function never returns, so that hyper writes
    /// nothing.
    async fn respond(
        &self,
        request: Request<Incoming>,
        refusal: Option<Problem>,
        peer: SocketAddr,
        state: &ConnectionState,
    ) -> Response {
        if let Some(problem) = refusal {
            return self.responder.refuse(&request, problem);
        }
        let version = request.version();
        let mut response = self.responder.respond(request, peer).await;
        if let Some(takeover) = takeover::of(&mut response) {
            *state.takeover() = Some((head(version, &response), takeover));
            return pending().await;
        }
        response
    }
}

/// Polls the body once before the handler does. The bytes of the body that arrived with the head are then available
/// when the handler polls for the first time, so the handler does not set a timer for the body. Otherwise each POST
/// would set and remove a timer (bench/README.md). If the client waits for a 100 (RFC 9110, 10.1.1), the body is not
/// polled.
///
/// Returns the problem to respond with, if there is one.
fn poll_body(request: &mut Request<Incoming>) -> Option<Problem> {
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return None;
    }
    let mut cx = Context::from_waker(Waker::noop());
    match Pin::new(request.body_mut()).poll_frame(&mut cx) {
        Poll::Pending => None,
        // hyper returns no data at the first poll. If hyper did, the handler would miss that data, so the request is
        // refused.
        Poll::Ready(_) => {
            let detail = "the body arrived before it was requested; no reaction was accepted";
            Some(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
        }
    }
}

/// A socket that records whether hyper still buffers a part of a response. hyper flushes the socket after it has
/// written the whole response.
struct TrackedIo {
    socket: Socket,
    state: Arc<ConnectionState>,
}

impl AsyncRead for TrackedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TrackedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.state.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.state.unsent.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// Encodes the head of a response.
fn head(version: Version, response: &Response) -> Bytes {
    let mut head = Vec::with_capacity(256);
    let version = match version {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let date = httpdate::fmt_http_date(SystemTime::now());
    // A write to a Vec never fails, so the results are ignored.
    let _ = write!(head, "{version} {}\r\ndate: {date}\r\n", response.status());
    for (name, value) in response.headers() {
        let _ = write!(head, "{name}: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}
