//! The running publisher or relay: requests in, answers and streams out, and the farewell at its end.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::{Instant, SystemTime},
};

use emostream_http::{
    AllowOrigin, Body, Handler, Pass, Problem, Readiness, Request, Response, Shutdown,
};
use emostream_log::Log;
use emostream_model::{ResultId, Room};
use hyper::{Method, StatusCode, header::ORIGIN};
use prometheus::Registry;

use crate::{
    config::{Config, Reception},
    error::BroadcastError,
    fanout::{
        deliveries::Deliveries,
        goaway,
        inbound::Inbound,
        new_connection::{Arrival, Speech},
        shard_pool::Shards,
    },
    frame::{encoded::Encoded, heartbeat::Heartbeat, sse::Framing},
    http::{
        assets::Page,
        room_api,
        routes::{self, Route, What},
        sse,
        stay::Stay,
        subscription::Subscription,
        token, websocket,
    },
    hub::{rooms::Hub, subscriber::Subscriber, updates::Feed, window_settings::Shape},
    metrics::{Metrics, SSE, WEBSOCKET},
    relay::{
        client::{Follower, Upstreams},
        node::Node,
        server::{self, RelayPort},
    },
    source::tailer::Tail,
};

/// The methods of everything here.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// A running publisher, or a relay. Dropped, it takes in no more results.
pub struct Publisher {
    service: Arc<Service>,
    node: Arc<Node>,
    farewell: Shutdown,
    _source: NewsSource,
}

/// Where results come from, as long as it is held.
enum NewsSource {
    Log { _tail: Tail },
    Upstream { _follower: Follower },
}

impl Publisher {
    /// Rebuilds what is kept from the log, then serves and reads on.
    ///
    /// Waits for the log, some seconds at most: not to be called from an async task. The handler is to
    /// be served in a tokio runtime.
    pub fn start(
        config: Config,
        log: Arc<dyn Log>,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, BroadcastError> {
        let metrics = Metrics::register(registry)?;
        let component = readiness.component("publisher");
        component.not_ready("reading what was counted");
        let shape = Shape {
            window_ms: config.window_ms,
            swarm_size: config.swarm_size,
            live_ms: config.live_ms,
        };
        let (feed, shards) = fan_out(shape, metrics, &config.reception)?;
        let tail = Tail::start(&config, log, feed.clone(), component)?;
        let node = Arc::new(Node::new(feed));
        Ok(Self::new(
            config.reception,
            node,
            shards,
            NewsSource::Log { _tail: tail },
        ))
    }

    /// Finds an upstream, takes in all that it has, then serves and follows it, or another one once it is
    /// lost: a relay.
    pub async fn relay(
        upstreams: Upstreams,
        reception: Reception,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Result<Self, BroadcastError> {
        let metrics = Metrics::register(registry)?;
        let component = readiness.component("relay");
        // Until an upstream tells.
        let shape = Shape {
            window_ms: 0,
            swarm_size: 0,
            live_ms: 0,
        };
        let (feed, shards) = fan_out(shape, metrics, &reception)?;
        let node = Arc::new(Node::new(feed));
        let follower = Follower::start(upstreams, &node, component).await?;
        Ok(Self::new(
            reception,
            node,
            shards,
            NewsSource::Upstream {
                _follower: follower,
            },
        ))
    }

    fn new(reception: Reception, node: Arc<Node>, shards: Arc<Shards>, source: NewsSource) -> Self {
        let farewell = Shutdown::new();
        let service = Service {
            page: Page::new(reception.ingest_url.as_ref()),
            reception,
            hub: node.feed.hub.clone(),
            shards,
            metrics: node.feed.metrics.clone(),
            farewell: farewell.clone(),
        };
        Self {
            service: Arc::new(service),
            node,
            farewell,
            _source: source,
        }
    }

    /// Feeds the relays that connect to `port`, until `shutdown`.
    pub fn serve_relays(
        &self,
        port: RelayPort,
        shutdown: Shutdown,
    ) -> impl Future<Output = ()> + use<> {
        server::serve(self.node.clone(), port, shutdown)
    }

    /// Waits until it cannot go on, and tells why: starting again mends it.
    pub fn fails(&self) -> impl Future<Output = BroadcastError> + use<> {
        let feed = self.node.feed.clone();
        async move { BroadcastError::OtherLog(feed.failed().await.to_string()) }
    }

    /// What answers its requests.
    pub fn handler(&self) -> Arc<impl Handler + use<>> {
        self.service.clone()
    }

    /// Says goodbye to every subscriber: each is told when to come back, and its stream ends. The
    /// listener's drain waits for them.
    pub fn bye(&self) {
        self.farewell.trigger();
        let Service {
            shards,
            metrics,
            reception,
            ..
        } = &*self.service;
        shards.bye(goaway::spread(metrics.audience(), reception.drain));
    }
}

/// The way of news into the rooms, and the threads that write to subscribers.
fn fan_out(
    shape: Shape,
    metrics: Metrics,
    reception: &Reception,
) -> Result<(Arc<Feed>, Arc<Shards>), BroadcastError> {
    let shards = reception.shards;
    let shards = shards.map_or_else(thread::available_parallelism, Ok);
    let shards = shards.unwrap_or(NonZeroUsize::MIN);
    let shards = Shards::start(shards, &heartbeat(reception), &metrics);
    let shards = Arc::new(shards.map_err(BroadcastError::Thread)?);
    let hub = Arc::new(Hub::new(shape, shards.listeners()));
    let feed = Arc::new(Feed::new(
        hub,
        metrics,
        reception.ring,
        reception.clock.clone(),
    ));
    Ok((feed, shards))
}

fn heartbeat(reception: &Reception) -> Heartbeat {
    Heartbeat {
        every: reception.heartbeat,
        clock: reception.clock.clone(),
    }
}

struct Service {
    page: Page,
    reception: Reception,
    hub: Arc<Hub>,
    shards: Arc<Shards>,
    metrics: Metrics,
    farewell: Shutdown,
}

/// When the token expires; what is beyond the clock is for ever, too.
fn until(pass: &Pass) -> Option<Instant> {
    Instant::now().checked_add(pass.left(SystemTime::now())?)
}

impl Handler for Service {
    fn knows(&self, path: &str) -> bool {
        Route::of(path).is_some()
    }

    async fn handle(&self, request: Request, _peer: SocketAddr) -> Response {
        let allow = &self.reception.allow_origin;
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
    async fn answer(&self, request: Request) -> Result<Response, Problem> {
        let path = request.uri().path();
        let route = Route::of(path).ok_or_else(Problem::unknown_path)?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed(METHODS));
        }
        if !self.reception.allow_origin.permits(request.headers()) {
            return Err(AllowOrigin::refusal());
        }
        match route {
            Route::Page => Ok(self.page.answer(path, request.headers())),
            Route::Rooms => Ok(room_api::rooms(&self.hub, &self.admit(&request)?)),
            Route::Room(name, what) => {
                let pass = self.admit(&request)?;
                self.room(&routes::room(&name)?, what, &pass, request).await
            }
        }
    }

    fn admit(&self, request: &Request) -> Result<Pass, Problem> {
        let token = token::find(request.uri(), request.headers());
        self.reception.gate.admit(token, SystemTime::now())
    }

    async fn room(
        &self,
        room: &Room,
        what: What,
        pass: &Pass,
        request: Request,
    ) -> Result<Response, Problem> {
        if !pass.opens(room.as_str()) {
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
                let until = until(pass);
                Ok(match Framing::of(request.version()) {
                    Some(framing) => {
                        let speech = Speech::Events(framing);
                        let body = self.hand_over(subscriber, hello, speech, until);
                        sse::response(body, Some(framing))
                    }
                    None => {
                        let clock = self.reception.clock.clone();
                        let deliveries = Deliveries::new(&self.metrics, clock);
                        let subscription = Subscription::new(subscriber, hello, deliveries);
                        let stay = Stay::new(self.farewell.clone(), until);
                        let (metrics, drain) = (self.metrics.clone(), self.reception.drain);
                        let spread = move || goaway::spread(metrics.audience(), drain);
                        sse::stream(subscription, heartbeat(&self.reception), stay, spread)
                    }
                })
            }
            What::WebSocket => {
                let answer = websocket::handshake(&request)?;
                let since = routes::since(request.uri(), request.headers())?;
                let (subscriber, hello) = self.subscribe(room, since, WEBSOCKET).await?;
                let speech = Speech::WebSocket(Inbound::default());
                Ok(answer(self.hand_over(
                    subscriber,
                    hello,
                    speech,
                    until(pass),
                )))
            }
        }
    }

    /// Has a shard go on with the socket.
    fn hand_over(
        &self,
        subscriber: Subscriber,
        hello: Encoded,
        speech: Speech,
        until: Option<Instant>,
    ) -> Body {
        let shards = self.shards.clone();
        Body::takeover(move |taken| {
            shards.take(Arrival {
                taken,
                speech,
                subscriber,
                hello,
                until,
            });
        })
    }

    async fn subscribe(
        &self,
        room: &Room,
        since: Option<ResultId>,
        transport: &str,
    ) -> Result<(Subscriber, Encoded), Problem> {
        if let Some(id) = since
            && !self.hub.catch_up(id).await
        {
            return Err(Problem::unavailable(
                "this relay has lost its upstream, and does not know that id yet; come back, or try another",
            ));
        }
        if self.farewell.is_requested() {
            return Err(Problem::unavailable(
                "this server is about to end; connect again",
            ));
        }
        let heartbeat = self.reception.heartbeat;
        let joined = Subscriber::join(&self.hub, room, since, heartbeat, &self.metrics, transport);
        joined.ok_or_else(|| Problem::unavailable("too many rooms without a result are held open"))
    }
}

#[cfg(test)]
mod tests;
