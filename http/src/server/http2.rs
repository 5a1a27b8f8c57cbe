//! HTTP/2 on a connection: the limits of requests, bytes and times, and the end of the connection.
//!
//! An HTTP/1 connection has only one request at a time. An HTTP/2 client can send many requests at once and cancel them
//! at no cost. So the number of requests, resets and buffered bytes of each HTTP/2 connection is limited here.

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
    server::streams::{Stream, StreamTimeouts, Streams, StreamsState, TrackedBody},
};

/// Maximum concurrent requests of a connection; RFC 9113 (6.5.2) recommends at least 100.
const MAX_CONCURRENT_STREAMS: u32 = 100;

/// Maximum number of requests of a connection that the client has reset before hyper has accepted them. A client that
/// resets more requests floods the server ("rapid reset", CVE-2023-44487), so its connection is closed. A browser
/// resets only a few requests, when its user leaves a page.
const MAX_PENDING_RESETS: usize = 20;

/// Maximum number of streams that the server resets because of a client's errors. A client with more errors counts as
/// an attacker, so its connection is closed.
const MAX_LOCAL_RESETS: usize = 100;

/// Flow-control windows: bytes that a client may send before the server has read them, per request and per connection.
/// Small windows are enough, since a reaction has about a hundred bytes, and a large body only needs some more round
/// trips.
const STREAM_WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// Maximum bytes of each response that hyper buffers.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Interval of pings, and timeout of the pong. WebSockets use the same values.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PONG_TIMEOUT: Duration = Duration::from_secs(15);

/// Maximum time from the GOAWAY until the client has to close a connection without requests.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);

impl Serving {
    /// Serves a connection until it ends.
    pub(crate) async fn http2(
        self: &Arc<Self>,
        socket: Socket,
        peer: SocketAddr,
    ) -> Result<(), hyper::Error> {
        let streams = Streams::new(self.extra_streams.clone());
        let service = service_fn(|request: Request<Incoming>| {
            let (serving, stream) = (self.clone(), streams.open());
            async move { Ok::<_, Infallible>(serving.exchange(request, peer, stream).await) }
        });
        let mut served = pin!(
            self.settings()
                .serve_connection(TokioIo::new(socket), service)
        );
        let mut graceful = pin!(self.shutdown.graceful.cancelled());
        let mut forced = pin!(self.shutdown.forced.cancelled());
        let mut shutting_down = false;
        let mut timeouts = StreamTimeouts {
            from: Instant::now(),
            idle: self.limits.head,
            write_timeout: self.limits.write_timeout,
        };
        loop {
            let recheck_at = match streams.state(timeouts) {
                StreamsState::Active(at) => at,
                StreamsState::Idle if !shutting_down => {
                    shutting_down = true;
                    served.as_mut().graceful_shutdown();
                    (timeouts.from, timeouts.idle) = (Instant::now(), GOAWAY_TIMEOUT);
                    continue;
                }
                StreamsState::Idle => return Ok(()),
                StreamsState::WriteTimeout => {
                    tracing::debug!(%peer, "a connection is closed: the client does not read a response");
                    return Ok(());
                }
            };
            tokio::select! {
                ended = &mut served => return ended,
                () = &mut graceful, if !shutting_down => {
                    shutting_down = true;
                    served.as_mut().graceful_shutdown();
                    (timeouts.from, timeouts.idle) = (Instant::now(), GOAWAY_TIMEOUT);
                }
                () = &mut forced => return Ok(()),
                () = sleep_until(recheck_at) => {}
            }
        }
    }

    fn settings(&self) -> http2::Builder<TokioExecutor> {
        let head_bytes = u32::try_from(self.limits.head_bytes).unwrap_or(u32::MAX);
        let mut http = http2::Builder::new(TokioExecutor::new());
        // The limit of the head's size also limits the number of CONTINUATION frames: hyper accepts no more of them
        // than a head of this size needs.
        http.max_header_list_size(head_bytes)
            .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PONG_TIMEOUT);
        http
    }

    /// Returns the response to a request, as HTTP/1 would send it. Without a `stream`, the request is refused with 503.
    async fn exchange(
        &self,
        mut request: Request<Incoming>,
        peer: SocketAddr,
        stream: Option<Stream>,
    ) -> hyper::Response<TrackedBody> {
        if stream.is_none() {
            let problem = Problem::unavailable("too many requests at once; retry later");
            let response = self.responder.refuse(&request, problem);
            return response.map(|body| TrackedBody::new(body, None));
        }
        set_host(&mut request);
        let head = *request.method() == Method::HEAD;
        let mut response = self.responder.respond(request, peer).await;
        if head {
            // A response to HEAD has no body. The router removes it too, but not every response comes from the router.
            *response.body_mut() = Body::empty();
        }
        response.map(|body| TrackedBody::new(body, stream))
    }
}

/// Adds the Host header that the request would have in HTTP/1. If the request already has a different Host header, it
/// has two Host headers after this call, so it is refused later.
fn set_host(request: &mut Request<Incoming>) {
    let Some(authority) = request.uri().authority() else {
        return;
    };
    if let Ok(host) = HeaderValue::from_str(authority.as_str())
        && request.headers().get(HOST) != Some(&host)
    {
        request.headers_mut().append(HOST, host);
    }
}
