//! One request's way: from its head through the buffer to its answer.

#![allow(clippy::disallowed_methods, reason = "dates requests on arrival")]

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use axum::{Extension, Router, extract::State, routing::any};
use emostream_http::{AllowOrigin, BodyReader, Principal, Problem, Request, Response, bearer};
use emostream_log::LogError;
use hyper::{HeaderMap, Method, body::Body as _, header::ORIGIN};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    admission::rate_limiter::Limiter,
    admission::room_limit::Rooms,
    api::body::{Fault, Rejection, Submissions},
    api::openapi,
    api::request::{self, Dialect, METHODS, Wait},
    api::response::{self, Receipt},
    buffer::packed::Taken,
    buffer::{Buffer, Closed, Reservation},
    config::{Config, LOG_TIMEOUT},
    metrics::Metrics,
    producer::partition_health::Health,
};

/// What every request shares.
pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) bodies: BodyReader,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) health: Arc<Health>,
    pub(crate) limiter: Limiter,
    pub(crate) rooms: Mutex<Rooms>,
    pub(crate) metrics: Arc<Metrics>,
}

/// What becomes of reactions.
type Outcome = oneshot::Receiver<Result<(), LogError>>;

/// The sender of a request.
struct Sender {
    principal: Principal,
    address: IpAddr,
}

impl Service {
    /// Returns the routes of the service.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let openapi = openapi::router(&self.config.allow_origin);
        let mut router = Router::new();
        for (path, dialect) in request::PATHS {
            let respond = async move |State(service): State<Arc<Self>>,
                                      Extension(peer): Extension<SocketAddr>,
                                      request: Request| {
                service.respond(request, peer, dialect).await
            };
            router = router.route(path, any(respond));
        }
        router.with_state(self).merge(openapi)
    }

    async fn respond(&self, mut request: Request, peer: SocketAddr, dialect: Dialect) -> Response {
        let started = Instant::now();
        let allow = &self.config.allow_origin;
        let response = if *request.method() == Method::OPTIONS {
            allow.preflight(request.headers(), METHODS)
        } else {
            let origin = request.headers().get(ORIGIN).cloned();
            let mut response = match self.receive(&mut request, peer, dialect).await {
                Ok(receipt) => receipt.into_response(dialect),
                Err(problem) => response::refusal(problem, dialect),
            };
            allow.apply(origin.as_ref(), response.headers_mut());
            response
        };
        self.metrics.answered(response.status(), started.elapsed());
        response
    }

    /// The way of one request. An error means that nothing of it was kept, except where the log failed
    /// after it was.
    async fn receive(
        &self,
        request: &mut Request,
        peer: SocketAddr,
        dialect: Dialect,
    ) -> Result<Receipt, Problem> {
        if *request.method() != Method::POST {
            return Err(Problem::method_not_allowed(METHODS));
        }
        if !self.config.allow_origin.permits(request.headers()) {
            return Err(AllowOrigin::refusal());
        }
        let sender = self.sender(request.headers(), peer).await?;
        request::check_content(request.headers())?;
        let wait = Wait::of(request.uri(), request.headers())?;
        self.bodies.check(request)?;
        if self.health.is_away() {
            return Err(response::log_away());
        }
        let most = request::most_reactions(request.body().size_hint().exact());
        if !self.buffer.has_room(most) {
            return Err(response::buffer_full());
        }
        let body = self.bodies.read(request).await?;
        let read = Submissions::read(&body, &self.config.emojis, dialect.names())?;
        // Not before: clients that announce bodies and do not send them would hold all the room.
        let most = read.good.len() as u32;
        let room = self
            .buffer
            .reserve(most)
            .ok_or_else(response::buffer_full)?;
        let is_array = read.is_array;
        let (good, rejected) = self.admit(read, &sender)?;
        if good.is_empty() && !rejected.is_empty() {
            return Err(response::all_rejected(rejected, is_array));
        }
        let taken = good.len();
        let outcome = self.keep(good, room, wait)?;
        drop(body);
        if let Some(outcome) = outcome {
            self.stored(outcome).await?;
        }
        Ok(Receipt {
            taken,
            wait,
            rejected,
        })
    }

    async fn sender(&self, headers: &HeaderMap, peer: SocketAddr) -> Result<Sender, Problem> {
        let principal = self
            .config
            .authenticator
            .authenticate(bearer(headers), SystemTime::now())
            .await?;
        let address = self.config.trusted_proxies.client(peer.ip(), headers);
        Ok(Sender { principal, address })
    }

    /// The good entries that their sender may send and whose rooms are taken too, and all others. None,
    /// if they are too many for now.
    fn admit<'a>(
        &self,
        read: Submissions<'a>,
        sender: &Sender,
    ) -> Result<(Vec<Taken<'a>>, Vec<Rejection>), Problem> {
        let now = Instant::now();
        let (allowed, mut rejected) = read.allowed(&sender.principal);
        let taken = self.limiter.take(sender.address, &allowed, now);
        taken.map_err(|too_fast| {
            self.metrics.limited.inc_by(allowed.len() as u64);
            response::too_fast(too_fast)
        })?;
        let mut good = Vec::with_capacity(allowed.len());
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, plain) in allowed {
            match rooms.enter(&plain.room, now) {
                Ok(room) => good.push(Taken { room, plain }),
                Err(refused) => rejected.push(Rejection {
                    index,
                    detail: refused.to_string(),
                    fault: Fault::from(&refused),
                }),
            }
        }
        self.metrics.rooms.set(rooms.in_use() as i64);
        drop(rooms);
        rejected.sort_by_key(|rejection| rejection.index);
        let forbidden = rejected
            .iter()
            .filter(|rejection| rejection.fault == Fault::Forbidden);
        let forbidden = forbidden.count();
        self.metrics.forbidden.inc_by(forbidden as u64);
        let others = rejected.len() - forbidden;
        self.metrics.rejected.inc_by(others as u64);
        Ok((good, rejected))
    }

    /// Puts reactions into the buffer; what becomes of them, if that is asked for.
    fn keep(
        &self,
        good: Vec<Taken<'_>>,
        room: Reservation,
        wait: Wait,
    ) -> Result<Option<Outcome>, Problem> {
        if good.is_empty() {
            return Ok(None);
        }
        let now_ms = self.buffer.now_ms();
        for claimed_ms in good.iter().filter_map(|taken| taken.plain.claimed_ms) {
            self.metrics.claimed(claimed_ms, now_ms);
        }
        let taken = good.len();
        let (stored, outcome) = match wait {
            Wait::Buffered => (None, None),
            Wait::Stored => {
                let (stored, outcome) = oneshot::channel();
                (Some(stored), Some(outcome))
            }
        };
        let added = self.buffer.add(good, room, stored);
        added.map_err(|Closed| response::stopping())?;
        self.metrics.accepted.inc_by(taken as u64);
        Ok(outcome)
    }

    /// Waits for the log.
    async fn stored(&self, outcome: Outcome) -> Result<(), Problem> {
        match timeout(self.config.flush + LOG_TIMEOUT, outcome).await {
            Ok(outcome) => outcome
                .unwrap_or_else(|_| Err(LogError::Refused("the log gave no answer".to_owned())))
                .map_err(|error| response::not_stored(&error)),
            Err(_) => Err(response::not_yet_stored()),
        }
    }
}
