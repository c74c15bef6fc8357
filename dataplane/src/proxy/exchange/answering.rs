//! What the client gets in the end.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use qcc_proto::v1::OutcomeClass;
use tokio::time;
use tracing::debug;

use super::{Answered, Exchange, Reading};
use crate::{
    proxy::{
        clock::Clock,
        count,
        ending::End,
        failure::request_id,
        fields::Fields,
        headers::{self, X_QCC_ATTEMPTS, X_QCC_ENDPOINT, X_QCC_REVISION},
        message::{Response, ResponseHead},
        relay::{Body, Events, Pending},
        reply::{Kind, Refusal},
        sse::Scanner,
    },
    routing::Endpoint,
};

impl Exchange<'_> {
    /// Answers the client.
    pub(in crate::proxy) fn finish(&mut self, end: Result<Answered, End>) -> Response<Body> {
        match end {
            Ok(answered) => self.relay(answered),
            Err(end) => self.conclude(end),
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
        let events = answer.is_readable.then_some(Events {
            scanner,
            shape: self.request.shape,
        });
        let clock = self.clock(last);
        let endpoint = Arc::clone(attempt.endpoint());
        let pending = Pending {
            attempt,
            class: answer.verdict.class,
            http_status: head.status.as_u16(),
            request_id: request_id(&head.fields),
            upload,
        };
        headers::strip_response(&mut head.fields);
        let in_flight = self.in_flight.take();
        let body = Body::of_answer(start, rest, pending, events, clock, in_flight);
        self.answer_with(head, body, &endpoint, now)
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
        headers::strip_response(&mut head.fields);
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
        let mut response = refusal.into_response(self.request.shape);
        self.stamp(&mut response.head.fields, None, Instant::now());
        self.log(response.head.status, "-", Some(kind));
        response
    }

    fn answer_with(
        &self,
        mut head: Box<ResponseHead>,
        body: Body,
        endpoint: &Endpoint,
        now: Instant,
    ) -> Response<Body> {
        self.stamp(&mut head.fields, Some(endpoint), now);
        self.log(head.status, &endpoint.name, None);
        Response { head, body }
    }

    /// Says where an answer comes from, unless that is not for clients to know.
    fn stamp(&self, fields: &mut Fields, endpoint: Option<&Endpoint>, now: Instant) {
        if !self.routing.policy().expose_headers {
            return;
        }
        let name = endpoint.map(|endpoint| HeaderValue::from_str(&endpoint.name));
        if let Some(Ok(name)) = name {
            fields.append(X_QCC_ENDPOINT, name);
        }
        let attempts = match self.routing.attempts() {
            1 => HeaderValue::from_static("1"),
            several => HeaderValue::from(several),
        };
        fields.append(X_QCC_ATTEMPTS, attempts);
        let revision = match self.service.link.staleness(now) {
            None => Ok(self.routing.revision().clone()),
            Some(age) => {
                let (view, age) = (self.routing.view(), age.as_secs());
                HeaderValue::try_from(format!("{view}; age={age}; stale"))
            }
        };
        if let Ok(revision) = revision {
            fields.append(X_QCC_REVISION, revision);
        }
    }

    fn clock(&self, last: time::Instant) -> Clock {
        let idle = self.routing.policy().timeouts.idle;
        let curfew = self.service.curfew.clone();
        Clock::new(idle, self.deadline.into(), curfew, last)
    }

    fn log(&self, status: StatusCode, endpoint: &str, refused: Option<Kind>) {
        debug!(
            method = %self.request.head.method,
            status = status.as_u16(),
            endpoint,
            attempts = self.routing.attempts(),
            elapsed_ms = self.started.elapsed().as_millis() as u64,
            ?refused,
            "request answered"
        );
    }
}
