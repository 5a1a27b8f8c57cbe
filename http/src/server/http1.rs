//! HTTP/1 on a connection: one request behind the other, until an answer keeps the socket.
//!
//! ```text
//!  ┌─▶ bytes come ──▶ hyper reads a request ──▶ handler ──▶ bytes, a stream ──▶ hyper writes it ─┐
//!  │                                               └──────▶ takeover ────────▶ hyper lets go     │
//!  └──────────────── rest: the socket alone ◀──────────────────────────────── nothing to read ───┘
//! ```
//!
//! hyper keeps 16 KiB of buffers a connection, and what it has for a request 3 more. Most connections wait for
//! a tap most of the time; so when there is nothing to read, hyper is let go, and made anew when bytes come.
//! An idle connection costs 4 KB instead of 20 by that (bench/README.md).
//!
//! Whoever keeps a socket writes the answer's head itself. So hyper never begins an answer that it cannot
//! finish: to it, the request is one that is still being worked on.

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io::{self, IoSlice, Write},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::SystemTime,
};

use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::{
    Request, StatusCode, Version,
    body::{Body as _, Incoming},
    header::EXPECT,
    rt::Timer,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::{
    Problem, Response, Taken,
    message::takeover::{self, OnTakeover},
    net::socket::Socket,
    server::connection::Serving,
    server::timer::ConnectionTimer,
};

/// An answer that keeps the socket: its head, and who takes over.
type Keeping = (Bytes, OnTakeover);

/// What hyper, which owns handler and socket meanwhile, lets its owner see.
#[derive(Default)]
struct Seam {
    keeping: Mutex<Option<Keeping>>,
    /// A handler is at work.
    working: AtomicBool,
    /// Something was written and has not gone out.
    unsent: AtomicBool,
    /// An answer has gone out.
    answered: AtomicBool,
    /// Since then there was nothing to read.
    resting: AtomicBool,
}

impl Seam {
    fn keeping(&self) -> MutexGuard<'_, Option<Keeping>> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) {
        self.unsent.store(true, Ordering::Relaxed);
        self.resting.store(false, Ordering::Relaxed);
    }

    /// Whether hyper holds nothing but, perhaps, the beginning of a head.
    ///
    /// It reads only what it needs next, a head or a body, and nobody needs a body whose handler has answered:
    /// hyper closes such a connection unless all of the body is there.
    fn rests(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
            && !self.working.load(Ordering::Relaxed)
            && !self.unsent.load(Ordering::Relaxed)
    }
}

/// How hyper came to the end of its part.
enum End {
    Ended(Result<(), hyper::Error>),
    Kept(Keeping),
    Rests,
}

impl Serving {
    /// Serves a connection to its end, or until it is taken over.
    pub(crate) async fn http1(
        &self,
        mut socket: Socket,
        peer: SocketAddr,
    ) -> Result<(), hyper::Error> {
        let timer = ConnectionTimer::default();
        let mut http = http1::Builder::new();
        http.timer(timer.clone())
            .header_read_timeout(self.limits.head)
            // Who says that it sends no more still reads its answer. Nor does hyper then look for the end
            // while a request is worked on, for which it takes another 8 KiB from a body that is in use.
            .half_close(true)
            // Answers are short: one copy of their bytes costs less than the kernel's vectors do.
            .writev(false)
            .max_buf_size(self.limits.head_bytes);
        let mut ahead = Bytes::new();
        let mut soon = pin!(self.shutdown.graceful.cancelled());
        loop {
            let seam: Arc<Seam> = Arc::default();
            let watched = Watched {
                socket,
                ahead,
                seam: seam.clone(),
            };
            let shared = &*seam;
            let service = service_fn(move |mut request| {
                shared.working.store(true, Ordering::Relaxed);
                let asked = ask_for_body(&mut request);
                self.answer(asked.map(|()| request), peer, shared)
            });
            let mut served = http.serve_connection(TokioIo::new(watched), service);
            let mut leaving = false;
            let end = loop {
                let end = poll_fn(|cx| {
                    if let Poll::Ready(ended) = Pin::new(&mut served).poll(cx) {
                        return Poll::Ready(End::Ended(ended));
                    }
                    // The answer to the request before may still be on its way; hyper goes on with it.
                    let sent = !seam.unsent.load(Ordering::Relaxed);
                    match seam.keeping().take_if(|_| sent) {
                        Some(kept) => Poll::Ready(End::Kept(kept)),
                        None if seam.rests() && !leaving => Poll::Ready(End::Rests),
                        None => Poll::Pending,
                    }
                });
                tokio::select! {
                    biased;
                    end = end => break end,
                    () = &mut soon, if !leaving => {
                        leaving = true;
                        Pin::new(&mut served).graceful_shutdown();
                    }
                    () = self.shutdown.forced.cancelled(), if leaving => return Ok(()),
                }
            };
            if let End::Ended(ended) = end {
                return ended;
            }
            let parts = served.into_parts();
            let watched = parts.io.into_inner();
            (socket, ahead) = (watched.socket, parts.read_buf);
            if let End::Kept((head, takeover)) = end {
                match socket.into_line(&ahead) {
                    Ok((line, ahead)) => takeover(Taken { line, head, ahead }),
                    Err(error) => tracing::debug!(%peer, %error, "a connection broke off"),
                }
                return Ok(());
            }
            if !ahead.is_empty() {
                continue;
            }
            // Nothing, but of hyper's buffer: it would keep it.
            ahead = Bytes::new();
            tokio::select! {
                biased;
                () = socket.readable() => {}
                () = timer.sleep(self.limits.head) => return Ok(()),
                () = &mut soon => {
                    tokio::select! {
                        // Whether the client hears it or not, nothing is owed to it.
                        _ = socket.shutdown() => {}
                        () = self.shutdown.forced.cancelled() => {}
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The answer to a request; never, if the socket is to be kept.
    async fn answer(
        &self,
        request: Result<Request<Incoming>, Problem>,
        peer: SocketAddr,
        seam: &Seam,
    ) -> Result<Response, Infallible> {
        let response = match request {
            Ok(request) => {
                let version = request.version();
                let mut response = self.responder.respond(request, peer).await;
                if let Some(takeover) = takeover::of(&mut response) {
                    *seam.keeping() = Some((head(version, &response), takeover));
                    return pending().await;
                }
                response
            }
            Err(problem) => problem.into_response(),
        };
        seam.working.store(false, Ordering::Relaxed);
        Ok(response)
    }
}

/// Asks for the body before its handler does, unless the client waits to be asked (RFC 9110, 10.1.1). What
/// came with the head is then there when the handler first looks, and no timer need watch for it: without
/// this each POST set a timer and took it back (bench/README.md).
fn ask_for_body(request: &mut Request<Incoming>) -> Result<(), Problem> {
    if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return Ok(());
    }
    let mut nobody = Context::from_waker(Waker::noop());
    match Pin::new(request.body_mut()).poll_frame(&mut nobody) {
        Poll::Pending => Ok(()),
        // hyper passes nothing on before it is asked; if it did, a piece would be missing now.
        Poll::Ready(_) => {
            let detail = "the body came before it was asked for; nothing was kept";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail))
        }
    }
}

/// A socket that tells whether hyper still holds some of an answer: it flushes when it has written all.
struct Watched {
    socket: Socket,
    /// What was read from it before, to be read again.
    ahead: Bytes,
    seam: Arc<Seam>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let bytes = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(bytes));
            if self.ahead.is_empty() {
                self.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let nothing = read.is_pending() && self.seam.answered.load(Ordering::Relaxed);
        self.seam.resting.store(nothing, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.seam.written();
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.seam.written();
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        if self.seam.unsent.swap(false, Ordering::Relaxed) {
            self.seam.answered.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// An answer's head as it goes over the wire.
fn head(version: Version, response: &Response) -> Bytes {
    let mut head = Vec::with_capacity(256);
    let version = match version {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    };
    let date = httpdate::fmt_http_date(SystemTime::now());
    // A Vec takes every write.
    let _ = write!(head, "{version} {}\r\ndate: {date}\r\n", response.status());
    for (name, value) in response.headers() {
        let _ = write!(head, "{name}: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}
