//! Answers requests: pages, JSON, and the streams of subscribers.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use emostream_http::{AllowOrigin, Body, Handler, Principal, Problem, Request, Response};
use emostream_model::{ResultId, Room};
use hyper::{HeaderMap, Method, StatusCode, Uri, header::ORIGIN};
use tokio_util::sync::CancellationToken;

use crate::config::SubscriberConfig;
use crate::fanout::new_connection::{NewConnection, Transport};
use crate::fanout::{deliveries::Deliveries, goaway, inbound::Inbound, shard_pool::ShardPool};
use crate::frame::{encoded::EncodedFrame, heartbeat::Heartbeat, sse::Framing};
use crate::http::routes::{self, Route, What};
use crate::http::{assets::Page, room_api, sse, subscription::Subscription, token, websocket};
use crate::hub::{rooms::Hub, subscriber::Subscriber};
use crate::metrics::{Metrics, SSE, WEBSOCKET};

/// The methods of every route.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Answers every request of a publisher or a relay.
pub(crate) struct Service {
    page: Page,
    config: SubscriberConfig,
    hub: Arc<Hub>,
    shards: Arc<ShardPool>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

/// When the token expires; `None` also for a time that the clock cannot represent.
fn expires_at(principal: &Principal) -> Option<Instant> {
    Instant::now().checked_add(principal.expires_in(SystemTime::now())?)
}

impl Handler for Service {
    fn knows(&self, path: &str) -> bool {
        Route::of(path).is_some()
    }

    async fn handle(&self, request: Request, _peer: SocketAddr) -> Response {
        let allow = &self.config.allow_origin;
        if *request.method() == Method::OPTIONS {
            return allow.preflight(request.headers(), METHODS);
        }
        let origin = request.headers().get(ORIGIN).cloned();
        let mut response = self
            .answer(request)
            .await
            .unwrap_or_else(Problem::into_response);
        allow.apply(origin.as_ref(), response.headers_mut());
        response
    }
}

impl Service {
    pub(crate) fn new(
        config: SubscriberConfig,
        hub: Arc<Hub>,
        shards: Arc<ShardPool>,
        metrics: Metrics,
    ) -> Self {
        Self {
            page: Page::new(config.ingest_url.as_ref()),
            config,
            hub,
            shards,
            metrics,
            shutdown: CancellationToken::new(),
        }
    }

    /// Sends `bye` to every subscriber, and accepts no more.
    pub(crate) fn bye(&self) {
        self.shutdown.cancel();
        let audience = self.metrics.audience();
        let window = goaway::reconnect_window(audience, self.config.drain);
        self.shards.bye(window);
    }

    async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let path = request.uri().path();
        let route = Route::of(path).ok_or_else(Problem::unknown_path)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed(METHODS));
        }
        if !self.config.allow_origin.permits(request.headers()) {
            return Err(AllowOrigin::refusal());
        }
        match route {
            Route::Page => Ok(self.page.answer(path, request.headers())),
            Route::Rooms => {
                let principal = self.authenticate(request.uri(), request.headers()).await?;
                Ok(room_api::rooms(&self.hub, &principal))
            }
            Route::Room(name, what) => {
                let principal = self.authenticate(request.uri(), request.headers()).await?;
                self.room(&routes::room(&name)?, what, &principal, request)
                    .await
            }
        }
    }

    async fn authenticate(&self, uri: &Uri, headers: &HeaderMap) -> Result<Principal, Problem> {
        let authenticator = &self.config.authenticator;
        let token = token::find(uri, headers);
        authenticator.authenticate(token, SystemTime::now()).await
    }

    async fn room(
        &self,
        room: &Room,
        what: What,
        principal: &Principal,
        request: Request,
    ) -> Result<Response, Problem> {
        if !principal.can_access_room(room.as_str()) {
            let detail = format!("the token does not open room \"{room}\"");
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        match what {
            What::State => Ok(room_api::room(&self.hub, room)),
            What::History => {
                let from_ms = routes::moment(request.uri(), "from")?.unwrap_or(0);
                let to_ms = routes::moment(request.uri(), "to")?.unwrap_or(u64::MAX);
                Ok(room_api::history(&self.hub, room, from_ms, to_ms))
            }
            What::Events if *request.method() == Method::HEAD => {
                Err(Problem::method_not_allowed("GET, OPTIONS"))
            }
            What::Events => {
                let since = routes::since(request.uri(), request.headers())?;
                let (subscriber, hello) = self.subscribe(room, since, SSE).await?;
                let expires_at = expires_at(principal);
                Ok(match Framing::of(request.version()) {
                    Some(framing) => {
                        let transport = Transport::Sse(framing);
                        let body = self.hand_over(subscriber, hello, transport, expires_at);
                        sse::response(body, Some(framing))
                    }
                    None => {
                        let clock = self.config.clock.clone();
                        let deliveries = Deliveries::new(&self.metrics, clock);
                        let subscription = Subscription::new(subscriber, hello, deliveries);
                        let (metrics, drain) = (self.metrics.clone(), self.config.drain);
                        let window = move || goaway::reconnect_window(metrics.audience(), drain);
                        let (heartbeat, shutdown) =
                            (Heartbeat::new(&self.config), self.shutdown.clone());
                        sse::stream(subscription, heartbeat, shutdown, expires_at, window)
                    }
                })
            }
            What::WebSocket => {
                let answer = websocket::handshake(&request)?;
                let since = routes::since(request.uri(), request.headers())?;
                let (subscriber, hello) = self.subscribe(room, since, WEBSOCKET).await?;
                let transport = Transport::WebSocket(Inbound::default());
                let body = self.hand_over(subscriber, hello, transport, expires_at(principal));
                Ok(answer(body))
            }
        }
    }

    /// A body that a shard writes: it gets the socket.
    fn hand_over(
        &self,
        subscriber: Subscriber,
        hello: EncodedFrame,
        transport: Transport,
        expires_at: Option<Instant>,
    ) -> Body {
        let shards = self.shards.clone();
        Body::takeover(move |taken| {
            shards.assign(NewConnection {
                taken,
                transport,
                subscriber,
                hello,
                expires_at,
            });
        })
    }

    async fn subscribe(
        &self,
        room: &Room,
        since: Option<ResultId>,
        transport: &str,
    ) -> Result<(Subscriber, EncodedFrame), Problem> {
        if let Some(id) = since
            && !self.hub.catch_up(id).await
        {
            return Err(Problem::unavailable(
                "this relay has lost its upstream, and does not know that id yet; come back, or try another",
            ));
        }
        if self.shutdown.is_cancelled() {
            return Err(Problem::unavailable(
                "this server is about to end; connect again",
            ));
        }
        let heartbeat = self.config.heartbeat;
        let joined = Subscriber::join(&self.hub, room, since, heartbeat, &self.metrics, transport);
        joined.ok_or_else(|| Problem::unavailable("too many rooms without a result are held open"))
    }
}
