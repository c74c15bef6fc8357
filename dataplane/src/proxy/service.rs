//! One request from its head to its response head.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::{HeaderValue, StatusCode, Version, header::ACCEPT_ENCODING};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    Counters, Curfew, Limit, Live, Settings, count,
    ending::End,
    exchange::Exchange,
    fields::Fields,
    headers,
    inbound::Inbound,
    message::{RequestHead, Response},
    outgoing::{Outgoing, Payload},
    presence::{Crowd, Turn},
    prompt,
    relay::Body,
    replay,
    reply::{self, Kind, Refusal, Shape},
    rules::{self, Route},
    stats::{self, Start},
    upload::Fault,
    upstream::Upstreams,
};
use crate::{routing::Router, sync::Link};

/// Longest time for a request body while there is no policy that says so.
const NO_VIEW_TIMEOUT: Duration = Duration::from_secs(60);

/// What all requests share.
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) upstreams: Upstreams,
    pub(super) settings: Live,
    /// Requests that wait for an endpoint.
    waiting: AtomicUsize,
    pub(super) counters: Arc<Counters>,
    /// All client connections.
    pub(super) crowd: Arc<Crowd>,
    /// How current the view is.
    pub(super) link: Link,
    stop: CancellationToken,
    pub(super) curfew: Curfew,
    start: Start,
}

/// What bounds one request.
#[derive(Clone, Copy)]
struct Limits {
    requests_max: u64,
    body: replay::Limits,
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self {
            requests_max: settings.requests_max,
            body: replay::Limits {
                replay_max: settings.replay_max_bytes,
                replay_total_max: settings.replay_total_bytes,
                body_max: settings.body_max_bytes,
                idle: settings.body_idle_timeout,
            },
        }
    }
}

/// A place among the requests that wait for an endpoint, given up on drop.
pub(super) struct Waits<'a>(&'a AtomicUsize);

/// A request that is being served. Dropped before it was settled: its client went away.
pub(super) struct InFlight {
    counters: Option<Arc<Counters>>,
    /// Until it is dropped, its connection is not idle.
    turn: Option<Turn>,
}

impl Service {
    pub(super) fn new(
        router: Router,
        settings: Live,
        counters: Arc<Counters>,
        link: Link,
        stop: CancellationToken,
        curfew: Curfew,
    ) -> Self {
        Self {
            router,
            upstreams: Upstreams::new(&settings.load()),
            waiting: AtomicUsize::new(0),
            crowd: Crowd::new(settings.clone(), Arc::clone(&counters)),
            settings,
            counters,
            link,
            stop,
            curfew,
            start: Start::now(),
        }
    }

    /// Answers a request: with an endpoint's answer, or one of our own. Whoever asks looks again
    /// when the curfew is called.
    pub(super) async fn call(
        &self,
        head: Box<RequestHead>,
        body: Inbound,
        turn: Turn,
    ) -> Response<Body> {
        let is_http1 = is_http1(head.version);
        let (route, limits) = {
            let settings = self.settings.load();
            (self.route(&head, &settings), Limits::of(&settings))
        };
        let mut response = match route {
            Ok(Route::Forward) => self.forward(head, body, turn, limits).await,
            Ok(Route::Hello | Route::Health) => reply::empty(StatusCode::OK),
            Ok(Route::Ready) => reply::empty(match self.is_ready() {
                true => StatusCode::OK,
                false => StatusCode::SERVICE_UNAVAILABLE,
            }),
            Ok(Route::Stats) => self.stats(),
            Err(refusal) => self.refuse(&head, refusal, InFlight::new(&self.counters, turn)),
        };
        if is_http1 && self.crowd.is_idle_enough() {
            self.counters.hit(Limit::IdleConnections);
            response.head.closes = true;
        }
        response
    }

    /// Decides what is to be done with a request, and whether this client may ask for it.
    fn route(&self, head: &RequestHead, settings: &Settings) -> Result<Route, Refusal> {
        rules::fits(head, settings)?;
        let route = rules::route(head)?;
        // Whether somebody is there, and ready, may be asked by whoever balances load.
        let is_open = matches!(route, Route::Hello | Route::Health | Route::Ready);
        if let Some(keys) = &settings.client_keys
            && !is_open
            && let Err(denied) = keys.admit(&head.fields)
        {
            count(&self.counters.unauthenticated);
            return Err(denied.into());
        }
        Ok(route)
    }

    /// Finds a place for a request that has to wait for an endpoint.
    pub(super) fn place_to_wait(&self) -> Option<Waits<'_>> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Waits(&self.waiting);
        (waiting < self.settings.load().waiting_max).then_some(place)
    }

    /// Counts the limit that a refusal is about, where no other place does.
    pub(super) fn note(&self, kind: Kind) {
        match kind {
            Kind::BodyTooLarge => self.counters.hit(Limit::BodyBytes),
            Kind::BodyTimeout => self.counters.hit(Limit::BodyIdleTime),
            Kind::HeadTooLarge | Kind::TargetTooLong => self.counters.hit(Limit::HeadBytes),
            _ => {}
        }
    }

    fn stats(&self) -> Response<Body> {
        let table = self.router.table();
        let table = table
            .as_deref()
            .filter(|table| table.policy().expose_headers);
        let stats = stats::stats(&self.start, &self.counters, &self.upstreams, table);
        reply::json(&stats)
    }

    /// With a view requests can be served, whether or not the control plane is there.
    fn is_ready(&self) -> bool {
        !self.stop.is_cancelled() && self.router.table().is_some()
    }

    fn total_timeout(&self) -> Duration {
        let table = self.router.table();
        table.map_or(NO_VIEW_TIMEOUT, |table| table.policy().timeouts.total)
    }

    async fn forward(
        &self,
        head: Box<RequestHead>,
        body: Inbound,
        turn: Turn,
        limits: Limits,
    ) -> Response<Body> {
        let in_flight = InFlight::new(&self.counters, turn);
        let started = Instant::now();
        if self.stop.is_cancelled() {
            return self.refuse(&head, Refusal::stopping(), in_flight);
        }
        // This one is among them.
        if self.counters.active.load(Ordering::Relaxed) > limits.requests_max {
            self.counters.hit(Limit::Requests);
            let refusal = Refusal::new(Kind::Overloaded, "the proxy serves too many requests");
            return self.refuse(&head, refusal, in_flight);
        }
        let (collected, now) = match replay::at_once(body, limits.body, &self.counters) {
            Ok(collected) => (Some(collected), started),
            Err(body) => {
                let collected = Box::pin(self.collect(body, limits.body)).await;
                (collected, Instant::now())
            }
        };
        let collected = match collected {
            Some(Ok(collected)) => collected,
            Some(Err(fault)) => return self.refuse(&head, fault.into(), in_flight),
            None => return self.refuse(&head, Refusal::stopping(), in_flight),
        };
        let replay_max = limits.body.replay_max;
        let mut exchange = match self.prepare(head, collected, replay_max, started, in_flight) {
            Ok(exchange) => exchange,
            Err(refused) => return refused,
        };
        // Whoever is being asked then hears no more of us: nobody is blamed.
        let end = self.curfew.bounds(pin!(exchange.run(now))).await;
        let end = end.unwrap_or(Err(End::Stopping));
        exchange.finish(end)
    }

    /// Makes of a request what goes to endpoints. Apart from what waits for them, as the future
    /// of that would have room for every step of this.
    fn prepare(
        &self,
        mut head: Box<RequestHead>,
        collected: replay::Collected,
        replay_max: usize,
        started: Instant,
        in_flight: InFlight,
    ) -> Result<Exchange<'_>, Response<Body>> {
        // Only now, so that the view is of the moment when the request is sent.
        let Some(mut routing) = self.router.begin() else {
            let message = "the proxy has not yet heard from its control plane";
            let refusal = Refusal::new(Kind::NoView, message);
            return Err(self.refuse(&head, refusal, in_flight));
        };
        if let Some(session) = headers::session(&head.fields, &routing.policy().affinity) {
            routing.keep(session);
        }
        let mut payload = Payload::from(collected);
        let policy = routing.policy();
        if prompt::renames(policy)
            && prompt::may_name_a_model(&head.fields)
            && !payload.rename_model(policy)
        {
            return Err(self.refuse(&head, not_kept(&payload, replay_max), in_flight));
        }
        let framing = ["content-length", "transfer-encoding"];
        let has_length = framing.iter().any(|name| head.fields.contains(name));
        let shape = Shape::of(head.target.path(), &head.fields);
        headers::strip_request(&mut head.fields);
        let is_looked_into = !policy.hold_timeout.is_zero()
            && head.fields.contains("accept-encoding")
            && prompt::wants_stream(&head.fields, payload.start());
        if is_looked_into {
            (head.fields).set(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        let request = Outgoing {
            head,
            has_length,
            shape,
        };
        let exchange = Exchange::new(self, request, payload, routing, started, in_flight);
        Ok(exchange)
    }

    /// Reads a body as far as it is kept. `None`: there is no time left.
    async fn collect(
        &self,
        body: Inbound,
        limits: replay::Limits,
    ) -> Option<Result<replay::Collected, Fault>> {
        let collecting = replay::collect(body, limits, &self.counters);
        // A body that comes drop by drop is never idle, but the total time is for it as well.
        let collected = timeout(self.total_timeout(), collecting);
        let collected = self.curfew.bounds(pin!(collected)).await?;
        Some(collected.unwrap_or(Err(Fault::Stalled)))
    }

    /// Answers what is no request of HTTP/1 that can be served. Of its path so much is known.
    pub(super) fn refuse_unread(&self, path: &str, refusal: Refusal, turn: Turn) -> Response<Body> {
        let shape = Shape::of(path, &Fields::default());
        self.refuse_in(shape, refusal, InFlight::new(&self.counters, turn))
    }

    fn refuse(&self, head: &RequestHead, refusal: Refusal, in_flight: InFlight) -> Response<Body> {
        let shape = Shape::of(head.target.path(), &head.fields);
        self.refuse_in(shape, refusal, in_flight)
    }

    fn refuse_in(&self, shape: Shape, refusal: Refusal, mut in_flight: InFlight) -> Response<Body> {
        in_flight.own_error();
        self.note(refusal.kind);
        tracing::debug!(kind = ?refusal.kind, "request refused");
        refusal.into_response(shape)
    }
}

/// Says why a body is not taken whose model would have another name.
fn not_kept(payload: &Payload, bytes_max: usize) -> Refusal {
    if payload.is_within(bytes_max) {
        let message = "too many request bodies are kept for models to be renamed in this one";
        return Refusal::new(Kind::Busy, message);
    }
    let message = format!("models are renamed here, in bodies of at most {bytes_max} bytes");
    Refusal::new(Kind::BodyTooLarge, message)
}

fn is_http1(version: Version) -> bool {
    version < Version::HTTP_2
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight {
    fn new(counters: &Arc<Counters>, turn: Turn) -> Self {
        count(&counters.requests);
        counters.active.fetch_add(1, Ordering::Relaxed);
        Self {
            counters: Some(Arc::clone(counters)),
            turn: Some(turn),
        }
    }

    /// Hands the duty to settle over.
    pub(super) fn take(&mut self) -> Self {
        Self {
            counters: self.counters.take(),
            turn: self.turn.take(),
        }
    }

    /// The client got an endpoint's answer.
    pub(super) fn relayed(&mut self) {
        self.settle(|counters| count(&counters.relayed));
    }

    /// The client got an error of ours.
    pub(super) fn own_error(&mut self) {
        self.settle(|counters| count(&counters.own_errors));
    }

    fn settle(&mut self, how: impl FnOnce(&Counters)) {
        if let Some(counters) = self.counters.take() {
            how(&counters);
            counters.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.settle(|counters| count(&counters.cancelled));
    }
}
