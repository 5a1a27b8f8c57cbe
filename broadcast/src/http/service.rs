//! Answers requests: pages, JSON, and the streams of subscribers.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the time at which a token is verified"
)]

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    routing::{MethodRouter, any},
};
use emostream_http::{Principal, Problem, Request, Response, compress_json, takeover};
use emostream_model::{ResultId, Room};
use hyper::{HeaderMap, Method, StatusCode, Uri};
use tokio_util::sync::CancellationToken;

use crate::config::SubscriberConfig;
use crate::fanout::new_connection::{NewConnection, Transport};
use crate::fanout::{deliveries::Deliveries, goaway, inbound::Inbound, shard_pool::ShardPool};
use crate::frame::{encoded::EncodedFrame, heartbeat::Heartbeat, sse::Framing};
use crate::http::{
    assets::Page, parameters, room_api, sse, subscription::Subscription, token, websocket,
};
use crate::hub::{entry::Attendance, rooms::Hub, subscriber::Subscriber};
use crate::metrics::{Metrics, SSE, WEBSOCKET};

/// The methods of every route.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// A resource of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    /// The current state of the room.
    State,
    /// The finals in the ring.
    History,
    /// The messages of the room, as Server-Sent Events.
    Events,
    /// The messages of the room, over a WebSocket.
    WebSocket,
}

/// Answers every request of a publisher or a relay.
pub(crate) struct Service {
    config: SubscriberConfig,
    hub: Arc<Hub>,
    shards: Arc<ShardPool>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

/// Returns the time at which the token expires. `None`: it does not expire, or only at a time that the clock cannot
/// represent.
fn expires_at(principal: &Principal) -> Option<Instant> {
    Instant::now().checked_add(principal.expires_in(SystemTime::now())?)
}

impl Service {
    pub(crate) fn new(
        config: SubscriberConfig,
        hub: Arc<Hub>,
        shards: Arc<ShardPool>,
        metrics: Metrics,
    ) -> Self {
        Self {
            config,
            hub,
            shards,
            metrics,
            shutdown: CancellationToken::new(),
        }
    }

    /// Sends `bye` to every subscriber, and accepts no new subscribers.
    pub(crate) fn bye(&self) {
        self.shutdown.cancel();
        let audience = self.metrics.audience();
        let window = goaway::reconnect_window(audience, self.config.drain);
        self.shards.bye(window);
    }

    /// Returns the routes of the service.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let page = Page::new(self.config.ingest_url.as_ref(), self.config.demo_crowd).router();
        let allow = self.config.allow_origin.clone();
        let rooms = Router::new()
            .route("/v1/rooms", any(Self::rooms))
            // The response to an empty room name is 400, as to other invalid names.
            .route("/v1/rooms/", any(Self::unnamed_room))
            .route("/v1/rooms/{room}", Self::route(Resource::State))
            .route("/v1/rooms/{room}/history", Self::route(Resource::History))
            .route("/v1/rooms/{room}/events", Self::route(Resource::Events))
            .route("/v1/rooms/{room}/ws", Self::route(Resource::WebSocket))
            .with_state(self);
        allow.around(METHODS, compress_json(rooms).merge(page))
    }

    fn route(resource: Resource) -> MethodRouter<Arc<Self>> {
        any(
            async move |State(service): State<Arc<Self>>,
                        name: Result<Path<String>, PathRejection>,
                        request: Request| {
                // A name that is not UTF-8 is replaced by an invalid name, so that the request is refused like others
                // with an invalid name.
                let name = name.map_or("\u{fffd}".to_owned(), |Path(name)| name);
                service.room(&name, resource, request).await
            },
        )
    }

    async fn rooms(
        State(service): State<Arc<Self>>,
        request: Request,
    ) -> Result<Response, Problem> {
        let (uri, headers) = (request.uri(), request.headers());
        let principal = service.authenticate(uri, headers).await?;
        Ok(room_api::rooms(&service.hub, &principal))
    }

    async fn unnamed_room(
        State(service): State<Arc<Self>>,
        request: Request,
    ) -> Result<Response, Problem> {
        service.room("", Resource::State, request).await
    }

    async fn authenticate(&self, uri: &Uri, headers: &HeaderMap) -> Result<Principal, Problem> {
        let authenticator = &self.config.authenticator;
        let token = token::find(uri, headers);
        authenticator.authenticate(token, SystemTime::now()).await
    }

    async fn room(
        &self,
        name: &str,
        resource: Resource,
        request: Request,
    ) -> Result<Response, Problem> {
        let principal = &self.authenticate(request.uri(), request.headers()).await?;
        let room = &parameters::room(name)?;
        if !principal.can_access_room(room.as_str()) {
            let detail = format!("the token does not give access to room \"{room}\"");
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        match resource {
            Resource::State => Ok(room_api::room(&self.hub, room)),
            Resource::History => {
                let from_ms = parameters::moment(request.uri(), "from")?.unwrap_or(0);
                let to_ms = parameters::moment(request.uri(), "to")?.unwrap_or(u64::MAX);
                Ok(room_api::history(&self.hub, room, from_ms, to_ms))
            }
            Resource::Events if *request.method() == Method::HEAD => {
                Err(Problem::method_not_allowed("GET, OPTIONS"))
            }
            Resource::Events => {
                let joining = parameters::joining(request.uri(), request.headers())?;
                let (subscriber, hello) = self.subscribe(room, joining, SSE).await?;
                let expires_at = expires_at(principal);
                Ok(match Framing::of(request.version()) {
                    Some(framing) => {
                        let transport = Transport::Sse(framing);
                        let response = self.hand_over(subscriber, hello, transport, expires_at);
                        sse::with_head(response, Some(framing))
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
            Resource::WebSocket => {
                let with_head = websocket::handshake(&request)?;
                let joining = parameters::joining(request.uri(), request.headers())?;
                let (subscriber, hello) = self.subscribe(room, joining, WEBSOCKET).await?;
                let transport = Transport::WebSocket(Inbound::default());
                let response = self.hand_over(subscriber, hello, transport, expires_at(principal));
                Ok(with_head(response))
            }
        }
    }

    /// Returns a response that hands the socket over to a shard, which writes the body.
    fn hand_over(
        &self,
        subscriber: Subscriber,
        hello: EncodedFrame,
        transport: Transport,
        expires_at: Option<Instant>,
    ) -> Response {
        let shards = self.shards.clone();
        takeover(move |detached| {
            shards.assign(NewConnection {
                detached,
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
        (attendance, since): (Attendance, Option<ResultId>),
        transport: &str,
    ) -> Result<(Subscriber, EncodedFrame), Problem> {
        if let Some(id) = since
            && !self.hub.catch_up(id).await
        {
            return Err(Problem::unavailable(
                "this relay has no connection to its upstream and has not received that id yet; retry later, or connect to another relay",
            ));
        }
        if self.shutdown.is_cancelled() {
            return Err(Problem::unavailable(
                "this server is shutting down; reconnect",
            ));
        }
        let heartbeat = &Heartbeat::new(&self.config);
        let (hub, metrics) = (&self.hub, &self.metrics);
        let joined = Subscriber::join(hub, room, attendance, since, heartbeat, metrics, transport);
        joined.ok_or_else(|| {
            Problem::unavailable("too many rooms without results have subscribers; retry later")
        })
    }
}
