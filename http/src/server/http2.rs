//! HTTP/2 on a connection: its limits, and its end.
//!
//! A client may ask for much at once here, and take it back for nothing, so every number is bounded. What
//! bounds HTTP/1 by its nature (one request at a time, which ends before the next) is bounded by count and
//! time here.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{
    Method, Request,
    body::Incoming,
    header::{HOST, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, sleep_until};

use crate::{
    Body, Problem,
    net::socket::Socket,
    server::connection::Serving,
    server::streams::{Answered, Look, Patience, Stream, Streams},
};

/// The most requests of a connection at once; RFC 9113 (6.5.2) asks for no fewer.
const STREAMS: u32 = 100;

/// The most requests taken back before we have looked at them. Beyond it the client floods us ("rapid
/// reset", CVE-2023-44487) and its connection ends; a browser that leaves a page takes back a handful.
const RESETS: usize = 20;

/// The most streams that we end for a client's mistakes. Beyond it the mistakes are the purpose.
const MISTAKES: usize = 100;

/// What a client may send ahead of our reading, for each request and for all of a connection. A reaction has
/// a hundred bytes, and a body is read as it comes: a large one needs some more round trips at worst.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// The most of each answer that waits in HTTP/2's buffers.
const SEND_BYTES: usize = 64 << 10;

/// How often a client is asked whether it lives, and how long it may take to say so: as over a WebSocket.
const PING_EVERY: Duration = Duration::from_secs(15);
const PONG_WITHIN: Duration = Duration::from_secs(15);

/// How long a client that was told to go may take to do so once it has no request left.
const GOODBYE: Duration = Duration::from_secs(1);

impl Serving {
    /// Serves a connection to its end.
    pub(crate) async fn http2(
        self: &Arc<Self>,
        socket: Socket,
        peer: SocketAddr,
    ) -> Result<(), hyper::Error> {
        let streams = Streams::new(self.beside.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let (serving, stream) = (self.clone(), streams.open());
            async move { Ok::<_, Infallible>(serving.exchange(request, peer, stream).await) }
        });
        let mut served = pin!(
            self.settings()
                .serve_connection(TokioIo::new(socket), service)
        );
        let mut soon = pin!(self.shutdown.graceful.cancelled());
        let mut now = pin!(self.shutdown.forced.cancelled());
        let mut leaving = false;
        let mut patience = Patience {
            from: Instant::now(),
            idle: self.limits.head,
            unread: self.limits.unread,
        };
        loop {
            let again = match streams.look(patience) {
                Look::Again(at) => at,
                Look::Idle if !leaving => {
                    leaving = true;
                    served.as_mut().graceful_shutdown();
                    (patience.from, patience.idle) = (Instant::now(), GOODBYE);
                    continue;
                }
                Look::Idle => return Ok(()),
                Look::Unread => {
                    tracing::debug!(%peer, "a connection is ended: an answer is left standing");
                    return Ok(());
                }
            };
            tokio::select! {
                ended = &mut served => return ended,
                () = &mut soon, if !leaving => {
                    leaving = true;
                    served.as_mut().graceful_shutdown();
                    (patience.from, patience.idle) = (Instant::now(), GOODBYE);
                }
                () = &mut now => return Ok(()),
                () = sleep_until(again) => {}
            }
        }
    }

    fn settings(&self) -> http2::Builder<TokioExecutor> {
        let head_bytes = u32::try_from(self.limits.head_bytes).unwrap_or(u32::MAX);
        let mut http = http2::Builder::new(TokioExecutor::new());
        // Many pieces make one head, and no more of them are taken than a head of this size needs.
        http.max_header_list_size(head_bytes)
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(MISTAKES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BYTES)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN);
        http
    }

    /// One request and its answer, as HTTP/1 would have them.
    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        stream: Option<Stream>,
    ) -> hyper::Response<Answered> {
        if stream.is_none() {
            let crowded = Problem::unavailable("too many requests at once; come back later");
            let response = self.responder.refuse(&request, crowded);
            return response.map(|body| Answered::new(body, None));
        }
        name_host(&mut request);
        let head = *request.method() == Method::HEAD;
        let mut response = self.responder.respond(request, peer).await;
        if head {
            // The router does this too, but not every response comes from the router.
            *response.body_mut() = Body::empty();
        }
        response.map(|body| Answered::new(body, stream))
    }
}

/// Gives a request the Host header that it would have in HTTP/1. Where it has another one already, there are
/// two then, which is refused.
fn name_host(request: &mut Request<Incoming>) {
    let Some(authority) = request.uri().authority() else {
        return;
    };
    if let Ok(host) = HeaderValue::from_str(authority.as_str())
        && request.headers().get(HOST) != Some(&host)
    {
        request.headers_mut().append(HOST, host);
    }
}
