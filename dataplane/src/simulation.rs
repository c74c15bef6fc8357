//! A door for simulations, and for nothing else: the routing core, the report buffer
//! and the rules by which views come in and reports go out, driven by hand in made-up
//! time. What production does between them (waiting, connecting, HTTP) is the
//! simulation's.
//!
//! [`Bug`] names mistakes that can be switched on for a thread, to see that a
//! simulation finds them. Without the feature there is no such switch.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, StatusCode, Uri};
use qcc_proto::{
    upstream::classify,
    v1::{
        self, AdminState, Cause, HealthState, OutcomeClass, ProxyIdentity, StreamReportsRequest,
        StreamReportsResponse, View, WatchSnapshotsRequest, WatchSnapshotsResponse,
    },
};

pub use crate::seeded::{Bug, seed_bug};

use crate::{
    reports::Outbox,
    routing::{
        self, Block, Health, Outcome, Policy, ReturnPolicy, Router, Routing, Session, Strategy,
        Suspicion, Symptom,
    },
    seeded::seeded,
    sync::{Client, Conversation, Link, Replica, Waits, Watch},
    view_file::Kept,
};

/// A data plane without its HTTP half and without a network.
pub struct Proxy {
    client: Client,
    replica: Replica,
    url: Uri,
    waits: Waits,
    conversation: Option<Conversation>,
}

/// What an upstream answered, or that it did not.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A response head, and a body that ended well.
    Head(StatusCode, HeaderMap),
    /// A 2xx head, and a body that broke off.
    Broken,
    /// Nothing in time.
    Timeout,
    /// No connection.
    Refused,
    /// A 403 with this error type.
    Denied(&'static str),
    /// The connection's end, once the request was sent.
    Killed,
}

/// What to do next for a client request.
#[derive(Debug)]
pub enum Next {
    /// Try this endpoint.
    Attempt(Attempt),
    /// Ask again when something has changed, or then.
    Wait(Option<Instant>),
    /// Nobody is left to fail alike: what was held against an endpoint stands. Ask again.
    Stands,
    /// There are endpoints that work, but not for this request.
    Exhausted,
    /// No endpoint is selectable.
    Unavailable,
}

/// One client request. Dropped, what it holds against an endpoint stands.
#[derive(Debug)]
pub struct Request {
    routing: Routing,
    suspicion: Suspicion,
    fingerprint: u64,
}

/// A client request that chooses as often as it is asked to.
#[derive(Debug)]
pub struct Choosing(Routing);

/// One try at one endpoint. Dropped, its client has gone away.
#[derive(Debug)]
pub struct Attempt {
    attempt: routing::Attempt,
    /// The endpoint's name.
    pub endpoint: String,
    /// Its generation.
    pub generation: u64,
    /// The credential that was sent.
    pub key: String,
    /// How long the head may take.
    pub timeout: Duration,
}

/// An endpoint as a data plane sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// The operator's wish.
    pub admin: AdminState,
    /// Observed health, by the view.
    pub state: HealthState,
    /// Why, if there is a reason.
    pub cause: Option<Cause>,
    /// Lower is preferred.
    pub priority: u32,
    /// Share among its like.
    pub weight: u32,
    /// Where requests go.
    pub url: String,
    /// End of a pause, by the view.
    pub until: Option<Instant>,
    /// Failures in a row, by the view.
    pub failures: u32,
    /// Whether it has answered well in this generation, by the view.
    pub proven: bool,
    /// The credential.
    pub key: String,
    /// Whether it has, as far as this process knows by itself or has been told.
    pub known: bool,
    /// Whether this process has seen its credential rejected, whatever else is the reason.
    pub rejected: bool,
    /// Failures in a row that eject.
    pub failures_max: u32,
    /// How long a response head may take.
    pub timeout: Duration,
    /// Why it is not selected now; empty if it is.
    pub reason: String,
    /// Attempts under way.
    pub in_flight: u32,
}

/// The cluster's rules as a data plane has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Tries per request.
    pub attempts_max: u32,
    /// Attempts at a time at an endpoint that has not yet answered well.
    pub unproven_concurrency: u32,
    /// Limits on connecting, on silence within a body, and on all of a request.
    pub timeouts: [Duration; 3],
    /// Pauses after an overload and a 429 that name no time, and the longest that is named.
    pub cool_downs: [Duration; 3],
    /// How long a request waits while all endpoints are busy.
    pub queue_timeout: Duration,
    /// How one of several endpoints is chosen.
    pub strategy: v1::Strategy,
    /// Whether sessions stay where they went.
    pub sessions_stay: bool,
    /// How long an endpoint that is new has less than its share.
    pub slow_start: Duration,
}

impl Choosing {
    /// Chooses an endpoint that answers so soon.
    pub fn serve(&mut self, took: Duration, now: Instant) {
        if let routing::Next::Attempt(attempt) = self.0.next(now) {
            attempt.answered();
            attempt.timed(now + took);
            attempt.finish(routing::Outcome::of(OutcomeClass::Success), now + took);
        }
        self.0.forget();
    }

    /// Chooses an endpoint for a session or for none, takes a place there and gives it back.
    /// Returns whether there is one.
    pub fn choose(&mut self, session: Option<&[u8]>, now: Instant) -> bool {
        if let Some(session) = session {
            self.0.keep(Session::of(session));
        }
        let is_chosen = matches!(self.0.next(now), routing::Next::Attempt(_));
        self.0.forget();
        is_chosen
    }
}

impl Proxy {
    /// Returns one run of a data plane, without a view.
    pub fn new(id: &str, incarnation: &str, reports_max: usize, seed: u64) -> Self {
        let outbox = Arc::new(Outbox::new(reports_max));
        Self {
            client: Client {
                control_urls: Vec::new(),
                trust: qcc_proto::tls::Trust::nobody(),
                identity: ProxyIdentity {
                    id: id.to_owned(),
                    incarnation: incarnation.to_owned(),
                    ..ProxyIdentity::default()
                },
                cluster: "default".to_owned(),
                router: Router::new(seed, Arc::clone(&outbox)),
                outbox,
                link: Link::new(),
                kept: None,
            },
            replica: Replica::default(),
            url: Uri::from_static("http://control"),
            waits: Waits::new(1),
            conversation: None,
        }
    }

    /// Returns how long to wait before the next connection.
    pub fn wait(&mut self, random: f64) -> Duration {
        self.waits.next(random)
    }

    /// Notes that a connection has lasted.
    pub fn steady(&mut self) {
        self.waits.reset();
    }

    /// Returns what is kept on disk of the view, if there is one.
    pub fn keep(&self, now: Instant) -> Option<Vec<u8>> {
        let table = self.client.router.table()?;
        Some(Kept::bytes(&table, now))
    }

    /// Serves from what an earlier run has kept.
    ///
    /// # Errors
    ///
    /// Says why it cannot be used.
    pub fn restore(&mut self, kept: &[u8], now: Instant) -> Result<(), String> {
        let kept = Kept::read(kept, now).map_err(|error| error.to_string())?;
        self.client.restore(kept, &mut self.replica);
        Ok(())
    }

    /// Notes that the connection is gone.
    pub fn lost(&mut self) {
        self.conversation = None;
    }

    /// Begins a stream of views.
    pub fn watch(&mut self) -> WatchSnapshotsRequest {
        Watch::new(&self.client, &self.url, &mut self.replica).request()
    }

    /// Applies one message of it.
    ///
    /// # Errors
    ///
    /// Says why the stream must be opened anew.
    pub fn apply(&mut self, message: WatchSnapshotsResponse, now: Instant) -> Result<(), String> {
        let mut watch = Watch::new(&self.client, &self.url, &mut self.replica);
        watch.apply(message, now).map_err(|error| error.to_string())
    }

    /// Returns the view that new requests are routed by.
    pub fn view(&self) -> Option<View> {
        self.client.router.table().map(|table| table.view())
    }

    /// Names the registry that it is of; empty if that is not known.
    pub fn registry_id(&self) -> String {
        let table = self.client.router.table();
        table.map_or_else(String::new, |table| table.registry_id().to_string())
    }

    /// Returns the first message of a stream of reports.
    pub fn hello(&self) -> StreamReportsRequest {
        Conversation::hello(&self.client.identity, &self.client.outbox, self.view())
    }

    /// Returns the next message of it.
    pub fn question(&self, now: Instant) -> StreamReportsRequest {
        Conversation::question(&self.client.outbox, self.view(), now)
    }

    /// Takes the answer to the last message.
    ///
    /// # Errors
    ///
    /// Says why the stream must be opened anew.
    pub fn answered(&mut self, answer: &StreamReportsResponse) -> Result<(), String> {
        let outbox = &self.client.outbox;
        match &mut self.conversation {
            None => {
                self.conversation = Some(Conversation::begin(answer, outbox));
                Ok(())
            }
            Some(conversation) => {
                let answered = conversation.answered(answer, outbox);
                answered.map_err(|error| error.to_string())
            }
        }
    }

    /// Whether another message should follow at once.
    pub fn has_backlog(&self) -> bool {
        self.client.outbox.buffer().has_backlog()
    }

    /// Returns the number of reports that are not acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.client.outbox.buffer().len()
    }

    /// Returns how many attempts were never reported.
    pub fn dropped(&self) -> u64 {
        self.client.outbox.buffer().dropped_total()
    }

    /// Begins a client request, which `fingerprint` tells from others. `None`: there is no
    /// view yet.
    pub fn begin(&self, fingerprint: u64, session: Option<u64>) -> Option<Request> {
        let mut routing = self.client.router.begin()?;
        if let Some(session) = session {
            routing.keep(Session::of(&session.to_be_bytes()));
        }
        Some(Request {
            routing,
            suspicion: Suspicion::default(),
            fingerprint,
        })
    }

    /// Begins a client request, to measure what its choices take. `None`: there is no view.
    pub fn choosing(&self) -> Option<Choosing> {
        self.client.router.begin().map(Choosing)
    }

    /// Returns the rules of the newest table.
    pub fn rules(&self) -> Option<Rules> {
        Some(Rules::of(self.client.router.table()?.policy()))
    }

    /// Returns all endpoints of the newest table, by name.
    pub fn endpoints(&self, now: Instant) -> Vec<Seen> {
        let Some(table) = self.client.router.table() else {
            return Vec::new();
        };
        let seen = table.by_name().map(|entry| {
            let routed = &entry.routed;
            let (state, cause, until) = match routed.health {
                Health::Unknown => (HealthState::Unknown, None, None),
                Health::Healthy => (HealthState::Healthy, None, None),
                Health::Degraded { cause, until } => {
                    (HealthState::Degraded, Some(cause), Some(until))
                }
                Health::Unhealthy { cause } => (HealthState::Unhealthy, Some(cause), None),
            };
            let reason = entry.selectable(table.policy(), now).err();
            Seen {
                name: routed.endpoint.name.to_string(),
                generation: routed.endpoint.generation,
                admin: routed.admin,
                state,
                cause,
                priority: routed.priority,
                weight: routed.weight,
                url: routed.endpoint.base_url.to_string(),
                until,
                failures: routed.failures,
                proven: routed.proven,
                key: key_of(&routed.endpoint),
                known: entry.live.proven(),
                rejected: entry.live.mark().block == Block::Rejected,
                failures_max: routed.failures_max,
                timeout: routed.endpoint.first_byte_timeout,
                reason: reason.map_or_else(String::new, |reason| reason.to_string()),
                in_flight: entry.live.in_flight(),
            }
        });
        seen.collect()
    }
}

impl Rules {
    fn of(policy: &Policy) -> Self {
        let (timeouts, cool_downs) = (&policy.timeouts, &policy.cool_downs);
        Self {
            attempts_max: policy.attempts_max,
            unproven_concurrency: policy.unproven_concurrency,
            timeouts: [timeouts.connect, timeouts.idle, timeouts.total],
            cool_downs: [
                cool_downs.overloaded,
                cool_downs.rate_limited,
                cool_downs.max,
            ],
            queue_timeout: policy.queue_timeout,
            strategy: match policy.strategy {
                Strategy::Priority => v1::Strategy::Priority,
                Strategy::Weighted => v1::Strategy::Weighted,
                Strategy::RoundRobin => v1::Strategy::RoundRobin,
                Strategy::Random => v1::Strategy::Random,
                Strategy::LeastInflight => v1::Strategy::LeastInflight,
                Strategy::PeakEwma => v1::Strategy::PeakEwma,
            },
            sessions_stay: policy.affinity.return_policy == ReturnPolicy::Stay,
            slow_start: policy.slow_start,
        }
    }
}

impl Request {
    /// Returns how long it waits while all endpoints are busy.
    pub fn queue_timeout(&self) -> Duration {
        self.routing.policy().queue_timeout
    }

    /// Chooses the next endpoint.
    ///
    /// # Panics
    ///
    /// On purpose only, as [`Bug::Panics`].
    pub fn next(&mut self, now: Instant) -> Next {
        assert!(!seeded(Bug::Panics), "it panics on purpose");
        match self.routing.next(now) {
            routing::Next::Attempt(attempt) => {
                let endpoint = Arc::clone(attempt.endpoint());
                Next::Attempt(Attempt {
                    attempt,
                    endpoint: endpoint.name.to_string(),
                    generation: endpoint.generation,
                    key: key_of(&endpoint),
                    timeout: endpoint.first_byte_timeout,
                })
            }
            routing::Next::Wait { until } => Next::Wait(until),
            routing::Next::Exhausted | routing::Next::Unavailable(_) if self.stand() => {
                Next::Stands
            }
            routing::Next::Exhausted => Next::Exhausted,
            routing::Next::Unavailable(_) => Next::Unavailable,
        }
    }

    /// Returns until when evidence is held; `None` if none is.
    pub fn held_until(&self) -> Option<Instant> {
        self.suspicion.held_until()
    }

    /// Lets what is held stand, and returns whether there was something.
    pub fn stand(&mut self) -> bool {
        self.suspicion.stand()
    }

    /// Says that a 2xx head has come, and that the body is under way.
    pub fn answered(&mut self, attempt: &Attempt) {
        self.suspicion.clear();
        attempt.attempt.answered();
    }

    /// Judges an attempt by what the upstream replied, and returns the judgement.
    pub fn finish(
        &mut self,
        attempt: Attempt,
        reply: &Reply,
        now: Instant,
        wall: SystemTime,
    ) -> OutcomeClass {
        let outcome = reply.outcome(wall);
        let (class, http_status) = (outcome.class, outcome.http_status);
        let symptom = match (class, reply) {
            (_, Reply::Killed) => Symptom::Killed,
            (OutcomeClass::Forbidden, _) => Symptom::Refused {
                http_status,
                error_type: outcome.error_type.clone(),
            },
            (OutcomeClass::Success | OutcomeClass::StreamBroken | OutcomeClass::Request, _) => {
                // Its head was passed on: the request is not tried elsewhere.
                attempt.attempt.finish(outcome, now);
                return class;
            }
            _ => {
                let judged = attempt.attempt.judge(outcome, now);
                self.suspicion.take(judged, None, || self.fingerprint);
                return class;
            }
        };
        let judged = attempt.attempt.hold(outcome, now);
        self.routing.pursue();
        self.suspicion
            .take(judged, Some(symptom), || self.fingerprint);
        class
    }
}

impl Reply {
    fn outcome(&self, wall: SystemTime) -> Outcome {
        match self {
            Self::Head(status, headers) => {
                let verdict = classify(*status, headers, wall);
                Outcome {
                    http_status: status.as_u16(),
                    retry_after: verdict.retry_after,
                    ..Outcome::of(verdict.class)
                }
            }
            Self::Denied(error_type) => Outcome {
                http_status: 403,
                error_type: (*error_type).to_owned(),
                ..Outcome::of(OutcomeClass::Forbidden)
            },
            Self::Broken => Outcome::of(OutcomeClass::StreamBroken),
            Self::Timeout => Outcome::of(OutcomeClass::Timeout),
            Self::Refused | Self::Killed => Outcome::of(OutcomeClass::Connect),
        }
    }
}

/// Returns the key that requests to an endpoint carry; empty for none.
fn key_of(endpoint: &routing::Endpoint) -> String {
    let credential = endpoint.credential.as_ref();
    let value = credential.and_then(|credential| credential.value.to_str().ok());
    value.unwrap_or_default().to_owned()
}
