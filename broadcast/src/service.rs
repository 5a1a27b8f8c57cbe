//! The running publisher: requests in, answers and streams out, and the farewell at its end.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use emostream_http::{AllowOrigin, Handler, Pass, Problem, Readiness, Request, Response, Shutdown};
use emostream_log::Log;
use emostream_model::{ResultId, Room};
use hyper::{Method, StatusCode, header::ORIGIN};
use prometheus::Registry;

use crate::{
    BroadcastError, Config,
    hub::Hub,
    metrics::Metrics,
    page::Page,
    routes::{self, Route, What},
    shape::Shape,
    sse, state,
    stay::Stay,
    subscription::Subscription,
    tail::Tail,
    token, websocket,
};

/// The methods of everything here.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// A running publisher. Dropped, it reads no more results.
pub struct Publisher {
    service: Arc<Service>,
    farewell: Shutdown,
    _tail: Tail,
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
        let hub = Arc::new(Hub::new(Shape::new(config.window_ms, config.swarm_size)));
        let tail = Tail::start(&config, log, hub.clone(), metrics.clone(), component)?;
        let farewell = Shutdown::new();
        let service = Service {
            page: Page::new(config.ingest_url.as_ref()),
            config,
            hub,
            metrics,
            farewell: farewell.clone(),
        };
        Ok(Self {
            service: Arc::new(service),
            farewell,
            _tail: tail,
        })
    }

    /// What answers its requests.
    pub fn handler(&self) -> Arc<impl Handler + use<>> {
        self.service.clone()
    }

    /// Says goodbye to every subscriber: each is told when to come back, and its stream ends. The
    /// listener's drain waits for them.
    pub fn bye(&self) {
        self.farewell.trigger();
    }
}

struct Service {
    page: Page,
    config: Config,
    hub: Arc<Hub>,
    metrics: Metrics,
    farewell: Shutdown,
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
            Route::Rooms => Ok(state::rooms(&self.hub, &self.admit(&request)?)),
            Route::Room(name, what) => {
                let pass = self.admit(&request)?;
                self.room(&routes::room(&name)?, what, &pass, request).await
            }
        }
    }

    fn admit(&self, request: &Request) -> Result<Pass, Problem> {
        let token = token::find(request.uri(), request.headers());
        self.config.gate.admit(token, SystemTime::now())
    }

    /// From now until the farewell, or until the token expires.
    fn stay(&self, pass: &Pass) -> Stay {
        Stay::new(self.farewell.clone(), pass.left(SystemTime::now()))
    }

    async fn room(
        &self,
        room: &Room,
        what: What,
        pass: &Pass,
        mut request: Request,
    ) -> Result<Response, Problem> {
        if !pass.opens(room.as_str()) {
            let detail = format!("the token does not open room \"{room}\"");
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        match what {
            What::State => Ok(state::room(&self.hub, room)),
            What::History => {
                let from_ms = routes::moment(request.uri(), "from")?.unwrap_or(0);
                let to_ms = routes::moment(request.uri(), "to")?.unwrap_or(u64::MAX);
                Ok(state::history(&self.hub, room, from_ms, to_ms))
            }
            What::Events if *request.method() == Method::HEAD => {
                Err(Problem::method_not_allowed("GET, OPTIONS"))
            }
            What::Events => {
                let since = routes::since(request.uri(), request.headers())?;
                let subscription = self.subscribe(room, since, "sse").await?;
                Ok(sse::answer(subscription, self.stay(pass)))
            }
            What::WebSocket => {
                let handshake = websocket::handshake(&mut request)?;
                let since = routes::since(request.uri(), request.headers())?;
                let subscription = self.subscribe(room, since, "websocket").await?;
                let serving = websocket::serve(handshake.upgrade, subscription, self.stay(pass));
                tokio::spawn(serving);
                Ok(handshake.response)
            }
        }
    }

    async fn subscribe(
        &self,
        room: &Room,
        since: Option<ResultId>,
        transport: &str,
    ) -> Result<Subscription, Problem> {
        if let Some(id) = since {
            self.hub.catch_up(id).await;
        }
        if self.farewell.is_requested() {
            return Err(Problem::unavailable(
                "this server is about to end; connect again",
            ));
        }
        let joined = Subscription::join(
            &self.hub,
            room,
            since,
            &self.config,
            &self.metrics,
            transport,
        );
        joined.ok_or_else(|| Problem::unavailable("too many rooms without a result are held open"))
    }
}
