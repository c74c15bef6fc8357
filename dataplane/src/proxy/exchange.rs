//! The tries of one request, and what the client gets in the end. The table of answers
//! is in the documentation of the [data path](super).
//!
//! - [`trying`]: one try, from the request's sending to the verdict on its answer.
//! - [`answering`]: the end: an endpoint's answer, or one of ours.
//!
//! A request's future has room for the deepest of its steps, and is made anew for each
//! request. What most requests do not need is boxed, so that they do not pay for it.

mod answering;
mod trying;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::Instant,
};

use qcc_proto::{upstream::Verdict, v1::OutcomeClass};
use tokio::time::timeout_at;
use tracing::warn;

use super::{
    Limit, count,
    ending::{End, Try, blames_credential},
    failure::{Failure, request_id, text_of},
    fields::Fields,
    headers,
    inbound::Inbound,
    message::ResponseHead,
    opening::Opening,
    outgoing::{Outgoing, Payload},
    service::{InFlight, Service},
    upload::{Fault, Progress},
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
    head: Box<ResponseHead>,
    body: Reading,
    verdict: Verdict,
    /// The type of the error that its stream began with.
    error_type: Option<String>,
    /// It is a stream of events that we can look into.
    is_readable: bool,
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
    pub(super) async fn run(&mut self, now: Instant) -> Result<Answered, End> {
        let mut suspicion = Suspicion::default();
        let mut first = Some(now);
        loop {
            let now = first.take().unwrap_or_else(Instant::now);
            let next = hold(&mut suspicion, pin!(self.next(now))).await;
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
    async fn next(&mut self, now: Instant) -> Result<(Attempt, Instant), End> {
        if self.payload.is_spent() {
            return Err(End::Exhausted);
        }
        if self.is_final {
            return Err(End::NoRetry);
        }
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

    /// Finishes an attempt that was answered with an error, and keeps the answer. What it
    /// says of itself is judged before its body is waited for, in which the client may go.
    async fn keep(&mut self, attempt: Attempt, answer: Answer, suspicion: &mut Suspicion) {
        let Answer {
            head,
            body,
            verdict,
            error_type,
            ..
        } = answer;
        let endpoint = Arc::clone(attempt.endpoint());
        let http_status = head.status.as_u16();
        let is_final = (head.fields.get("x-should-retry")).is_some_and(|said| said == b"false");
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
            upstream_request_id: text_of(request_id(&head.fields).as_ref()),
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
                method = %self.request.head.method,
                path = self.request.head.target.path(),
                endpoints = endpoints.join(", "),
                status = outcome.map(|outcome| outcome.http_status),
                error_type = outcome.map(|outcome| &*outcome.error_type),
                detail = outcome.map(|outcome| &*outcome.detail),
                "suspect request: it failed alike at two endpoints; no endpoint is blamed"
            );
        }
        self.is_suspect = suspicion.is_open();
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

/// Whether the body is a stream of events that we can look into.
fn is_readable(fields: &Fields) -> bool {
    headers::is_event_stream(fields) && headers::is_identity(fields)
}
