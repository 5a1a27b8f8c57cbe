//! Handles requests: checks the head, reads the body, adds the reactions to the buffer, and returns the response.

#![allow(
    clippy::disallowed_methods,
    reason = "reads the time at which a request arrives"
)]

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
    api::body::{ReactionRequest, Rejection, RejectionKind},
    api::openapi,
    api::request::{self, ApiFlavor, METHODS, Wait},
    api::response::{self, Receipt},
    buffer::packed::AdmittedReaction,
    buffer::{Buffer, Closed, Reservation},
    config::{Config, LOG_TIMEOUT},
    metrics::Metrics,
    producer::partition_health::PartitionHealth,
};

/// State that all requests share.
pub(crate) struct Service {
    pub(crate) config: Config,
    pub(crate) bodies: BodyReader,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) health: Arc<PartitionHealth>,
    pub(crate) limiter: Limiter,
    pub(crate) rooms: Mutex<Rooms>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Receives the result for a request that waits: its reactions are stored, or the log has returned an error.
type StoredReceiver = oneshot::Receiver<Result<(), LogError>>;

/// The authenticated sender of a request, and its address.
struct Sender {
    principal: Principal,
    address: IpAddr,
}

impl Service {
    /// Returns the routes of the service.
    pub(crate) fn router(self: Arc<Self>) -> Router {
        let openapi = openapi::router(&self.config.allow_origin);
        let mut router = Router::new();
        for (path, flavor) in request::PATHS {
            let respond = async move |State(service): State<Arc<Self>>,
                                      Extension(peer): Extension<SocketAddr>,
                                      request: Request| {
                service.respond(request, peer, flavor).await
            };
            router = router.route(path, any(respond));
        }
        router.with_state(self).merge(openapi)
    }

    async fn respond(&self, mut request: Request, peer: SocketAddr, flavor: ApiFlavor) -> Response {
        let started = Instant::now();
        let allow = &self.config.allow_origin;
        let response = if *request.method() == Method::OPTIONS {
            allow.preflight(request.headers(), METHODS)
        } else {
            let origin = request.headers().get(ORIGIN).cloned();
            let mut response = match self.receive(&mut request, peer, flavor).await {
                Ok(receipt) => receipt.into_response(flavor),
                Err(problem) => response::refusal(problem, flavor),
            };
            allow.apply(origin.as_ref(), response.headers_mut());
            response
        };
        self.metrics
            .observe_response(response.status(), started.elapsed());
        response
    }

    /// Handles a POST. If it returns an error, none of the request's reactions was accepted. There is one exception: an
    /// error of the log occurs after the buffer has accepted the reactions.
    async fn receive(
        &self,
        request: &mut Request,
        peer: SocketAddr,
        flavor: ApiFlavor,
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
        if self.health.none_available() {
            return Err(response::log_unavailable());
        }
        let max_count = request::max_reactions(request.body().size_hint().exact());
        if !self.buffer.has_capacity(max_count) {
            return Err(response::buffer_full());
        }
        let body = self.bodies.read(request).await?;
        let parsed = ReactionRequest::parse(&body, &self.config.emojis, flavor.names())?;
        // Permits are reserved only after the body was read. Otherwise clients that announce bodies and do not send
        // them could hold all permits.
        let count = parsed.valid.len() as u32;
        let reservation = self
            .buffer
            .reserve(count)
            .ok_or_else(response::buffer_full)?;
        let is_array = parsed.is_array;
        let (admitted, rejected) = self.admit(parsed, &sender)?;
        if admitted.is_empty() && !rejected.is_empty() {
            return Err(response::all_rejected(rejected, is_array));
        }
        let count = admitted.len();
        let outcome = self.enqueue(admitted, reservation, wait)?;
        drop(body);
        if let Some(outcome) = outcome {
            self.wait_stored(outcome).await?;
        }
        Ok(Receipt {
            count,
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

    /// Returns the reactions that the sender may send and whose rooms are admitted, and the rejections of all other
    /// entries. If a rate is exceeded, returns an error for the whole request.
    fn admit<'a>(
        &self,
        request: ReactionRequest<'a>,
        sender: &Sender,
    ) -> Result<(Vec<AdmittedReaction<'a>>, Vec<Rejection>), Problem> {
        let now = Instant::now();
        let (allowed, mut rejected) = request.allowed(&sender.principal);
        let acquired = self.limiter.try_acquire(sender.address, &allowed, now);
        acquired.map_err(|exceeded| {
            self.metrics.limited.inc_by(allowed.len() as u64);
            response::rate_exceeded(exceeded)
        })?;
        let mut admitted = Vec::with_capacity(allowed.len());
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, reaction) in allowed {
            match rooms.admit(&reaction.room, now) {
                Ok(room) => admitted.push(AdmittedReaction { room, reaction }),
                Err(refused) => rejected.push(Rejection {
                    index,
                    detail: refused.to_string(),
                    kind: RejectionKind::from(&refused),
                }),
            }
        }
        self.metrics.rooms.set(rooms.in_use() as i64);
        drop(rooms);
        rejected.sort_by_key(|rejection| rejection.index);
        let forbidden = rejected
            .iter()
            .filter(|rejection| rejection.kind == RejectionKind::Forbidden);
        let forbidden = forbidden.count();
        self.metrics.forbidden.inc_by(forbidden as u64);
        let others = rejected.len() - forbidden;
        self.metrics.rejected.inc_by(others as u64);
        Ok((admitted, rejected))
    }

    /// Adds reactions to the buffer. Returns a receiver of the result if the request waits until the reactions are
    /// stored.
    fn enqueue(
        &self,
        reactions: Vec<AdmittedReaction<'_>>,
        reservation: Reservation,
        wait: Wait,
    ) -> Result<Option<StoredReceiver>, Problem> {
        if reactions.is_empty() {
            return Ok(None);
        }
        let now_ms = self.buffer.now_ms();
        for claimed_ms in reactions
            .iter()
            .filter_map(|admitted| admitted.reaction.claimed_ms)
        {
            self.metrics.observe_skew(claimed_ms, now_ms);
        }
        let count = reactions.len();
        let (stored, outcome) = match wait {
            Wait::Buffered => (None, None),
            Wait::Stored => {
                let (stored, outcome) = oneshot::channel();
                (Some(stored), Some(outcome))
            }
        };
        let added = self.buffer.add(reactions, reservation, stored);
        added.map_err(|Closed| response::stopping())?;
        self.metrics.accepted.inc_by(count as u64);
        Ok(outcome)
    }

    /// Waits until the log has stored the reactions.
    async fn wait_stored(&self, outcome: StoredReceiver) -> Result<(), Problem> {
        match timeout(self.config.flush + LOG_TIMEOUT, outcome).await {
            Ok(outcome) => outcome
                .unwrap_or_else(|_| Err(LogError::Refused("no response from the log".to_owned())))
                .map_err(|error| response::not_stored(&error)),
            Err(_) => Err(response::not_yet_stored()),
        }
    }
}
