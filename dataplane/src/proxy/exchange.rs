//! The tries of one request, and what the client gets in the end. The table of answers
//! is in the documentation of the [data path](super).
//!
//! A request's future has room for the deepest of its steps, and is made anew for each
//! request. What most requests do not need is boxed, so that they do not pay for it.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, response::Parts};
use qcc_proto::{
    upstream::{Verdict, class_of_error_type, classify, retry_after},
    v1::OutcomeClass,
};
use tokio::time::{self, timeout_at};
use tracing::{debug, warn};

use super::{
    Limit,
    clock::Clock,
    count,
    ending::{End, Try, blames_credential},
    failure::{Failure, request_id, text_of},
    headers::{self, X_QCC_ATTEMPTS, X_QCC_ENDPOINT, X_QCC_REVISION},
    inbound::Inbound,
    opening::{self, Opening},
    outgoing::{Outgoing, Payload},
    relay::{Body, Events, Pending},
    reply::{Kind, Refusal},
    service::{InFlight, Service},
    sse::Scanner,
    upload::{Fault, Progress, State, Upload},
    upstream::Failed,
};
use crate::routing::{
    Attempt, Endpoint, Hearing, Judged, Next, Outcome, Routing, Suspicion, Symptom,
};

/// One request on its way through the endpoints.
pub(super) struct Exchange<'a> {
    service: &'a Service,
    request: Outgoing,
    payload: Payload,
    routing: Routing,
    started: Instant,
    /// End of the total time.
    deadline: Instant,
    /// End of the time for waiting, from the first wait on.
    patience: Option<Instant>,
    tries: Vec<Try>,
    /// The last relayable error.
    answer: Option<(Failure, Arc<Endpoint>)>,
    /// An endpoint has said that trying again is of no use.
    is_final: bool,
    /// The next verdict decides whether the request is to blame.
    is_suspect: bool,
    /// The next try is made for that alone, beyond the retry budget.
    hearing: Option<Hearing>,
    in_flight: InFlight,
}

/// An answer that is for the client. Its end decides the attempt.
pub(super) struct Answered {
    attempt: Attempt,
    answer: Answer,
    upload: Arc<Progress>,
}

/// An endpoint's answer.
struct Answer {
    head: Parts,
    body: Reading,
    verdict: Verdict,
    /// The type of the error that its stream began with.
    error_type: Option<String>,
}

/// How far an answer's body has been read.
enum Reading {
    /// Not at all.
    Unread(Inbound),
    /// As far as its head was held.
    Begun(Box<Opening>),
}

/// What one try came to.
enum Tried {
    Answered(Answer),
    Failed(Failed),
    /// The client's body is at fault.
    Faulty(Fault),
    /// The request's total time is up.
    OutOfTime,
}

/// Who has not done in time what there is to wait for.
enum Overdue {
    Endpoint,
    Client(Fault),
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        service: &'a Service,
        request: Outgoing,
        payload: Payload,
        routing: Routing,
        started: Instant,
        in_flight: InFlight,
    ) -> Self {
        let deadline = started + routing.policy().timeouts.total;
        Self {
            service,
            request,
            payload,
            routing,
            started,
            deadline,
            patience: None,
            tries: Vec::new(),
            answer: None,
            is_final: false,
            is_suspect: false,
            hearing: None,
            in_flight,
        }
    }

    /// Tries endpoints until there is an answer for the client.
    pub(super) async fn run(&mut self) -> Result<Answered, End> {
        let mut suspicion = Suspicion::default();
        loop {
            let next = hold(&mut suspicion, pin!(self.next())).await;
            let (attempt, now) = match next {
                Ok(chosen) => chosen,
                // With nobody left to fail alike, the endpoint is to blame.
                Err(_) if suspicion.stand() => continue,
                Err(end) => return Err(end),
            };
            let Some((upload, progress)) = self.payload.upload(now) else {
                return Err(End::Exhausted);
            };
            self.count(now);
            let tried = hold(
                &mut suspicion,
                pin!(self.attempt(attempt.endpoint(), upload, &progress, now)),
            )
            .await;
            let answer = match tried {
                Tried::Answered(answer) => answer,
                Tried::Failed(failed) => {
                    self.record(attempt, failed, &mut suspicion);
                    continue;
                }
                Tried::Faulty(fault) => return Err(End::Faulty(fault)),
                Tried::OutOfTime => return Err(End::OutOfTime),
            };
            match answer.verdict.class {
                OutcomeClass::Success => suspicion.clear(),
                OutcomeClass::Request => {}
                _ => {
                    Box::pin(self.keep(attempt, answer, &mut suspicion)).await;
                    continue;
                }
            }
            return Ok(Answered {
                attempt,
                answer,
                upload: progress,
            });
        }
    }

    /// Answers the client.
    pub(super) fn finish(&mut self, end: Result<Answered, End>) -> Response<Body> {
        match end {
            Ok(answered) => self.relay(answered),
            Err(end) => self.conclude(end),
        }
    }

    fn count(&self, now: Instant) {
        let counters = &self.service.counters;
        count(&counters.attempts);
        if self.routing.attempts() > 1 {
            count(&counters.retries);
            if !self.is_free() && self.hearing.is_none() {
                self.routing.spend_retry(now);
            }
        }
    }

    /// Whether the next try is none that the retry budget is there to bound: a rejected
    /// credential moves the requests under way to another endpoint once, and no more come.
    fn is_free(&self) -> bool {
        let last = self.tries.last();
        last.is_none_or(|last| last.class == OutcomeClass::Auth)
    }

    /// Chooses an endpoint, waiting for one if that may help, and says when that was.
    async fn next(&mut self) -> Result<(Attempt, Instant), End> {
        if self.payload.is_spent() {
            return Err(End::Exhausted);
        }
        if self.is_final {
            return Err(End::NoRetry);
        }
        let now = Instant::now();
        if !self.is_free() && !self.routing.may_retry(now) {
            self.hearing = (self.is_suspect.then(|| self.routing.hear())).flatten();
            if self.hearing.is_none() {
                return Err(End::NoRetry);
            }
        }
        match self.routing.next(now) {
            Next::Attempt(attempt) => Ok((attempt, now)),
            Next::Exhausted => Err(End::Exhausted),
            Next::Unavailable(unavailable) => Err(End::Unavailable(unavailable)),
            Next::Wait { .. } => Box::pin(self.wait()).await,
        }
    }

    async fn wait(&mut self) -> Result<(Attempt, Instant), End> {
        let Some(_place) = self.service.place_to_wait() else {
            self.service.counters.hit(Limit::Waiting);
            return Err(End::Busy("too many requests wait for an endpoint"));
        };
        let queue_timeout = self.routing.policy().queue_timeout;
        let patience = *(self.patience).get_or_insert_with(|| Instant::now() + queue_timeout);
        let give_up = patience.min(self.deadline);
        loop {
            let changed = self.service.router.changed(); // Made first: misses nothing.
            let now = Instant::now();
            match self.routing.next(now) {
                Next::Attempt(attempt) => return Ok((attempt, now)),
                Next::Exhausted => return Err(End::Exhausted),
                Next::Unavailable(unavailable) => return Err(End::Unavailable(unavailable)),
                Next::Wait { .. } if now >= give_up => {
                    return Err(End::Busy("every endpoint is busy"));
                }
                Next::Wait { until } => {
                    let wake = until.map_or(give_up, |until| until.min(give_up));
                    // Either way it is time to ask again.
                    let _ = timeout_at(wake.into(), changed).await;
                }
            }
        }
    }

    /// Sends the request to one endpoint, and waits for the head of the answer; for a
    /// stream of events also for its first content.
    async fn attempt(
        &self,
        endpoint: &Endpoint,
        upload: Upload,
        progress: &Progress,
        now: Instant,
    ) -> Tried {
        let call = match self.request.to(endpoint) {
            Ok(call) => call,
            Err(failed) => return Tried::Failed(failed),
        };
        let policy = self.routing.policy();
        let (connect, protocol) = (policy.timeouts.connect, policy.upstream_protocol);
        let pool = (self.service.upstreams).pool(endpoint, connect, protocol, now);
        let alone = self.tries.iter().any(|it| it.may_have_broken_it());
        let mut sending = pin!(pool.send(&call, upload, progress, alone));
        let first_byte = endpoint.first_byte_timeout;
        let mut limit = now + first_byte;
        let sent = loop {
            match timeout_at(limit.min(self.deadline).into(), &mut sending).await {
                Ok(sent) => break sent,
                Err(_) if Instant::now() >= self.deadline => return Tried::OutOfTime,
                Err(_) => match self.extend(progress, first_byte, limit) {
                    Ok(later) => limit = later,
                    Err(Overdue::Client(fault)) => return Tried::Faulty(fault),
                    Err(Overdue::Endpoint) => {
                        return Tried::Failed(Failed {
                            class: OutcomeClass::Timeout,
                            detail: Self::overdue(progress, first_byte),
                            was_reused: false,
                            is_kill: false,
                        });
                    }
                },
            }
        };
        if let Some(fault) = progress.fault() {
            return Tried::Faulty(fault);
        }
        match sent.and_then(|response| check(&response).map(|()| response)) {
            Ok(response) => self.answer(response).await,
            Err(failed) => Tried::Failed(failed),
        }
    }

    /// Judges an answer. The head of a stream of events is held for that, for as long as
    /// the policy says.
    async fn answer(&self, response: Response<Inbound>) -> Tried {
        let now = SystemTime::now();
        let (head, body) = response.into_parts();
        let verdict = classify(head.status, &head.headers, now);
        let policy = self.routing.policy();
        let is_held = verdict.class == OutcomeClass::Success
            && !policy.hold_timeout.is_zero()
            && is_readable(&head.headers);
        if !is_held {
            return Tried::Answered(Answer {
                head,
                body: Reading::Unread(body),
                verdict,
                error_type: None,
            });
        }
        let limits = opening::Limits {
            hold: policy.hold_timeout,
            idle: policy.timeouts.idle,
            deadline: self.deadline.into(),
        };
        match Box::pin(Opening::read(body, limits)).await {
            Ok(opening) => {
                let error_type = opening.scanner.first_error().map(str::to_owned);
                let in_band = error_type
                    .as_deref()
                    .map(|it| in_band(it, &head.headers, now));
                Tried::Answered(Answer {
                    head,
                    body: Reading::Begun(Box::new(opening)),
                    verdict: in_band.unwrap_or(verdict),
                    error_type,
                })
            }
            Err(opening::Failed::OutOfTime) => Tried::OutOfTime,
            Err(opening::Failed::Told(reason)) => Tried::Failed(Failed {
                is_kill: true,
                ..Failed::of_nobody(reason)
            }),
            Err(opening::Failed::Broken(reason)) => Tried::Failed(Failed {
                class: OutcomeClass::StreamBroken,
                detail: format!("before the first content of its stream: {reason}"),
                was_reused: false,
                is_kill: true, // As without a head: it may be the request that does it.
            }),
        }
    }

    fn overdue(progress: &Progress, first_byte: Duration) -> String {
        match progress.state() {
            State::Sent(_) => format!("no response head within {first_byte:?}"),
            _ => format!("took nothing of the request body for {first_byte:?}"),
        }
    }

    /// Decides what it means that a limit has passed without an answer. While the client
    /// is still sending, an endpoint has nothing to answer to.
    fn extend(
        &self,
        progress: &Progress,
        first_byte: Duration,
        limit: Instant,
    ) -> Result<Instant, Overdue> {
        let (later, overdue) = match progress.state() {
            State::Failed(fault) => return Err(Overdue::Client(fault)),
            State::Queued => return Ok(Instant::now() + first_byte), // Its wait is bounded.
            State::Waiting(since) => {
                let idle = self.service.settings.load().body_idle_timeout;
                (since + idle, Overdue::Client(Fault::Stalled))
            }
            State::Sending(since) | State::Sent(since) => (since + first_byte, Overdue::Endpoint),
        };
        if later > limit {
            Ok(later)
        } else {
            Err(overdue)
        }
    }

    /// Passes an answer on. Its end decides the attempt.
    fn relay(&mut self, answered: Answered) -> Response<Body> {
        let Answered {
            attempt,
            answer,
            upload,
        } = answered;
        let now = Instant::now();
        if answer.verdict.class == OutcomeClass::Success {
            attempt.answered();
            attempt.timed(now);
        }
        let mut head = answer.head;
        let (start, rest, scanner, last) = match answer.body {
            Reading::Unread(body) => (Bytes::new(), body, Scanner::default(), now.into()),
            Reading::Begun(opening) => {
                let opening = *opening;
                (opening.start, opening.rest, opening.scanner, opening.last)
            }
        };
        let events = is_readable(&head.headers).then_some(Events {
            scanner,
            shape: self.request.shape,
        });
        let clock = self.clock(last);
        let endpoint = Arc::clone(attempt.endpoint());
        let pending = Pending {
            attempt,
            class: answer.verdict.class,
            http_status: head.status.as_u16(),
            request_id: request_id(&head.headers).cloned(),
            upload,
        };
        headers::strip_response(&mut head.headers);
        let in_flight = self.in_flight.take();
        let body = Body::of_answer(start, rest, pending, events, clock, in_flight);
        self.answer_with(head, body, &endpoint, now)
    }

    /// Finishes an attempt that was answered with an error, and keeps the answer. What it
    /// says of itself is judged before its body is waited for, in which the client may go.
    async fn keep(&mut self, attempt: Attempt, answer: Answer, suspicion: &mut Suspicion) {
        let Answer {
            head,
            body,
            verdict,
            error_type,
        } = answer;
        let endpoint = Arc::clone(attempt.endpoint());
        let http_status = head.status.as_u16();
        let is_final = (head.headers.get("x-should-retry")).is_some_and(|said| said == "false");
        self.tries.push(Try {
            endpoint: Arc::clone(&endpoint),
            class: verdict.class,
            detail: match error_type {
                Some(_) => format!("answered {http_status}, and then with an error"),
                None => format!("answered {http_status}"),
            },
        });
        let outcome = Outcome {
            class: verdict.class,
            http_status,
            error_type: String::new(),
            retry_after: verdict.retry_after,
            detail: String::new(), // Providers put parts of keys into their messages.
            upstream_request_id: text_of(request_id(&head.headers)),
        };
        let may_be_its_own = verdict.class == OutcomeClass::Forbidden;
        let now = Instant::now();
        let mut judged = match may_be_its_own {
            true => attempt.hold(outcome, now),
            false => attempt.judge(outcome, now),
        };
        let failure = match body {
            Reading::Unread(body) => Failure::read(head, body).await,
            Reading::Begun(opening) => Failure::begun(head, opening.start, opening.rest),
        };
        let error_type = error_type.unwrap_or_else(|| failure.error_type());
        judged.set_error_type(error_type.clone());
        let symptom = may_be_its_own.then_some(Symptom::Refused {
            http_status,
            error_type,
        });
        self.suspect(judged, symptom, suspicion);
        if !blames_credential(verdict.class) {
            self.is_final = is_final;
            self.answer = Some((failure, endpoint));
        }
    }

    /// Finishes an attempt that was not answered.
    fn record(&mut self, attempt: Attempt, failed: Failed, suspicion: &mut Suspicion) {
        self.tries.push(Try {
            endpoint: Arc::clone(attempt.endpoint()),
            class: failed.class,
            detail: failed.detail.clone(),
        });
        let outcome = Outcome {
            detail: failed.detail,
            ..Outcome::of(failed.class)
        };
        let now = Instant::now();
        let judged = match failed.is_kill {
            true => attempt.hold(outcome, now),
            false => attempt.judge(outcome, now),
        };
        let symptom = failed.is_kill.then_some(Symptom::Killed);
        self.suspect(judged, symptom, suspicion);
        if failed.was_reused {
            self.routing.once_more();
        }
    }

    /// Weighs a failure against the one before.
    fn suspect(&mut self, judged: Judged, symptom: Option<Symptom>, suspicion: &mut Suspicion) {
        self.hearing = None;
        if symptom.is_some() {
            self.routing.pursue();
        }
        let request = || self.request.fingerprint(&self.payload);
        if suspicion.take(judged, symptom, request) {
            count(&self.service.counters.suspects);
            let endpoints: Vec<_> = (suspicion.excused().iter())
                .map(|judged| &*judged.endpoint().name)
                .collect();
            let outcome = suspicion.excused().last().map(Judged::outcome);
            warn!(
                method = %self.request.method,
                path = self.request.target.path(),
                endpoints = endpoints.join(", "),
                status = outcome.map(|outcome| outcome.http_status),
                error_type = outcome.map(|outcome| &*outcome.error_type),
                detail = outcome.map(|outcome| &*outcome.detail),
                "suspect request: it failed alike at two endpoints; no endpoint is blamed"
            );
        }
        self.is_suspect = suspicion.is_open();
    }

    /// Answers without a further try.
    fn conclude(&mut self, end: End) -> Response<Body> {
        if matches!(end, End::NoRetry) && !self.is_final {
            count(&self.service.counters.over_budget);
        }
        let Some((failure, endpoint)) = self.answer.take_if(|_| end.yields_to_an_answer()) else {
            let refusal = end.refusal(&self.tries, &self.routing, self.payload.is_spent());
            return self.refuse(refusal);
        };
        let mut head = failure.head;
        headers::strip_response(&mut head.headers);
        let now = Instant::now();
        let clock = self.clock(now.into());
        let in_flight = self.in_flight.take();
        let body = Body::of_failure(failure.start, failure.rest, clock, in_flight);
        self.answer_with(head, body, &endpoint, now)
    }

    fn refuse(&mut self, refusal: Refusal) -> Response<Body> {
        self.in_flight.own_error();
        let kind = refusal.kind;
        self.service.note(kind);
        let mut response = refusal.into_response(self.request.shape, self.request.is_http1);
        self.stamp(response.headers_mut(), None, Instant::now());
        self.log(response.status(), "-", Some(kind));
        response
    }

    fn answer_with(
        &self,
        head: Parts,
        body: Body,
        endpoint: &Endpoint,
        now: Instant,
    ) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        self.stamp(response.headers_mut(), Some(endpoint), now);
        self.log(head.status, &endpoint.name, None);
        response
    }

    /// Says where an answer comes from, unless that is not for clients to know.
    fn stamp(&self, headers: &mut HeaderMap, endpoint: Option<&Endpoint>, now: Instant) {
        if !self.routing.policy().expose_headers {
            return;
        }
        let name = endpoint.map(|endpoint| HeaderValue::from_str(&endpoint.name));
        if let Some(Ok(name)) = name {
            headers.insert(X_QCC_ENDPOINT, name);
        }
        let attempts = match self.routing.attempts() {
            1 => HeaderValue::from_static("1"),
            several => HeaderValue::from(several),
        };
        headers.insert(X_QCC_ATTEMPTS, attempts);
        let revision = match self.service.link.staleness(now) {
            None => Ok(self.routing.revision().clone()),
            Some(age) => {
                let (view, age) = (self.routing.view(), age.as_secs());
                HeaderValue::try_from(format!("{view}; age={age}; stale"))
            }
        };
        if let Ok(revision) = revision {
            headers.insert(X_QCC_REVISION, revision);
        }
    }

    fn clock(&self, last: time::Instant) -> Clock {
        let idle = self.routing.policy().timeouts.idle;
        let curfew = self.service.curfew.clone();
        Clock::new(idle, self.deadline.into(), curfew, last)
    }

    fn log(&self, status: StatusCode, endpoint: &str, refused: Option<Kind>) {
        debug!(
            method = %self.request.method,
            status = status.as_u16(),
            endpoint,
            attempts = self.routing.attempts(),
            elapsed_ms = self.started.elapsed().as_millis() as u64,
            ?refused,
            "request answered"
        );
    }
}

/// Takes a step, and lets what is held stand once it has been held for long enough.
async fn hold<T>(suspicion: &mut Suspicion, mut step: Pin<&mut impl Future<Output = T>>) -> T {
    if let Some(until) = suspicion.held_until() {
        match timeout_at(until.into(), step.as_mut()).await {
            Ok(taken) => return taken,
            Err(_) => drop(suspicion.stand()),
        }
    }
    step.await
}

/// What an error means that a stream begins with: the same as the status it stands for.
fn in_band(error_type: &str, headers: &HeaderMap, now: SystemTime) -> Verdict {
    let class = class_of_error_type(error_type);
    let is_limit = class == OutcomeClass::RateLimited;
    Verdict {
        class,
        retry_after: is_limit.then(|| retry_after(headers, now)).flatten(),
    }
}

/// Whether the body is a stream of events that we can look into.
fn is_readable(headers: &HeaderMap) -> bool {
    headers::is_event_stream(headers) && headers::is_identity(headers)
}

/// Refuses answers that no HTTP server should give, and no client should get.
fn check(response: &Response<Inbound>) -> Result<(), Failed> {
    let malformed = |detail| {
        Err(Failed {
            class: OutcomeClass::ServerError,
            detail,
            was_reused: false,
            is_kill: false,
        })
    };
    let status = response.status().as_u16();
    if !(200..600).contains(&status) {
        return malformed(format!("malformed response: status {status}"));
    }
    if !headers::transfer_coding_is_plain(response.headers()) {
        return malformed("malformed response: transfer coding".to_owned());
    }
    Ok(())
}
