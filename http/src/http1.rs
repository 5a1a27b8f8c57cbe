//! HTTP/1 on a connection: one request behind the other, until an answer keeps the socket.
//!
//! ```text
//!  request ──▶ handler ──▶ bytes, a stream ──▶ hyper writes it ──▶ next request
//!                    └───▶ Body::takeover ───▶ hyper lets go ────▶ Taken: socket, head, what was read ahead
//! ```
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

use bytes::Bytes;
use hyper::{
    StatusCode, Version, body::Body as _, header::EXPECT, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    Handler, Problem, Request, Response, Taken,
    body::Takeover,
    connection::{Serving, answer},
    socket::Socket,
    timer::ConnectionTimer,
};

/// An answer that keeps the socket: its head, and who takes over.
type Keeping = (Bytes, Takeover);

/// What hyper, which owns handler and socket meanwhile, lets its owner see.
#[derive(Default)]
struct Seam {
    keeping: Mutex<Option<Keeping>>,
    /// Something was written and has not gone out.
    unsent: AtomicBool,
}

impl Seam {
    fn keeping(&self) -> MutexGuard<'_, Option<Keeping>> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How hyper came to the end of a connection.
enum End {
    Ended(Result<(), hyper::Error>),
    Kept(Keeping),
}

impl<H: Handler> Serving<H> {
    /// Serves a connection to its end, or until it is taken over.
    pub(crate) async fn http1(&self, socket: Socket, peer: SocketAddr) -> Result<(), hyper::Error> {
        let seam: Arc<Seam> = Arc::default();
        let service = service_fn(|mut request: Request| {
            let asked = ask_for_body(&mut request);
            let (handler, seam) = (self.handler.clone(), seam.clone());
            async move {
                if let Err(problem) = asked {
                    return Ok::<_, Infallible>(problem.into());
                }
                let version = request.version();
                let mut response = answer(&*handler, request, peer).await;
                let Some(takeover) = response.body_mut().take_over() else {
                    return Ok(response);
                };
                let head = head(version, &response);
                *seam.keeping() = Some((head, takeover));
                pending().await
            }
        });
        let mut http = http1::Builder::new();
        http.timer(ConnectionTimer::default())
            .header_read_timeout(self.limits.head)
            // Who says that it sends no more still reads its answer. Nor does hyper then look for the end
            // while a request is worked on, for which it takes another 8 KiB from a body that is in use.
            .half_close(true)
            // Answers are short: one copy of their bytes costs less than the kernel's vectors do.
            .writev(false)
            .max_buf_size(self.limits.head_bytes);
        let watched = Watched {
            socket,
            seam: seam.clone(),
        };
        let mut served = http.serve_connection(TokioIo::new(watched), service);
        let mut soon = pin!(self.stop.soon.requested());
        let mut leaving = false;
        let (head, takeover) = loop {
            let end = poll_fn(|cx| {
                if let Poll::Ready(ended) = Pin::new(&mut served).poll(cx) {
                    return Poll::Ready(End::Ended(ended));
                }
                // The answer to the request before may still be on its way; hyper goes on with it.
                let sent = !seam.unsent.load(Ordering::Relaxed);
                match seam.keeping().take_if(|_| sent) {
                    Some(kept) => Poll::Ready(End::Kept(kept)),
                    None => Poll::Pending,
                }
            });
            tokio::select! {
                biased;
                end = end => match end {
                    End::Ended(ended) => return ended,
                    End::Kept(kept) => break kept,
                },
                () = &mut soon, if !leaving => {
                    leaving = true;
                    Pin::new(&mut served).graceful_shutdown();
                }
                () = self.stop.now.requested(), if leaving => return Ok(()),
            }
        };
        let parts = served.into_parts();
        match parts.io.into_inner().socket.into_line(&parts.read_buf) {
            Ok((line, ahead)) => takeover(Taken { line, head, ahead }),
            Err(error) => tracing::debug!(%peer, %error, "a connection broke off"),
        }
        Ok(())
    }
}

/// Asks for the body before its handler does, unless the client waits to be asked (RFC 9110, 10.1.1). What
/// came with the head is then there when the handler first looks, and no timer need watch for it: without
/// this each POST set a timer and took it back (bench/README.md).
fn ask_for_body(request: &mut Request) -> Result<(), Problem> {
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
    seam: Arc<Seam>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.seam.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.seam.unsent.store(true, Ordering::Relaxed);
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.seam.unsent.store(false, Ordering::Relaxed);
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
