//! The tries of one request, and what the client gets in the end. The table of answers
//! is in the documentation of the [data path](super).

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    response::Parts,
};
use http_body::Body as _;
use hyper::body::Incoming;
use qcc_proto::{
    upstream::{self, Verdict, classify, set_credential},
    v1::OutcomeClass,
};
use tokio::time::timeout_at;
use tracing::debug;

use super::{
    count,
    failure::{Failure, request_id},
    headers::{self, X_QCC_ATTEMPTS, X_QCC_ENDPOINT, X_QCC_REVISION},
    relay::{Body, Clock, Events, Pending, Relay},
    replay::{Collected, Share},
    reply::{Kind, Refusal, Shape},
    service::{InFlight, Service},
    sse::Scanner,
    upload::{Fault, Progress, State, Upload},
    upstream::Failed,
};
use crate::routing::{Attempt, Endpoint, Next, Outcome, Routing, Unavailable};

/// Endpoints that an error names; a client has no use for a thousand.
const REASONS_MAX: usize = 20;

/// A client's request, as it goes to whichever endpoint.
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// The request target as sent.
    pub(super) target: Uri,
    /// Without what is not for an endpoint, but for the client's credentials.
    pub(super) headers: HeaderMap,
    /// The client told a length, or that there is a body.
    pub(super) has_length: bool,
    pub(super) shape: Shape,
    pub(super) is_http1: bool,
}

/// The request body, for as many tries as it is good for.
pub(super) enum Payload {
    /// Any number.
    Whole {
        bytes: Bytes,
        /// Held for as long as the bytes may be needed.
        _share: Share,
    },
    /// One.
    Once { start: Bytes, rest: Incoming },
    /// None any more.
    Spent,
}

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
    in_flight: InFlight,
}

/// A try that failed.
struct Try {
    endpoint: Arc<Endpoint>,
    class: OutcomeClass,
    detail: String,
}

/// What one try came to.
enum Tried {
    Answered(Response<Incoming>, Verdict),
    Failed(Failed),
    /// The client's body is at fault.
    Faulty(Fault),
    /// The request's total time is up.
    OutOfTime,
}

/// Why there is no further try.
enum End {
    Exhausted,
    Unavailable(Unavailable),
    Busy(&'static str),
    OutOfTime,
    Faulty(Fault),
}

impl From<Collected> for Payload {
    fn from(collected: Collected) -> Self {
        match collected {
            Collected::Whole { bytes, share } => Self::Whole {
                bytes,
                _share: share,
            },
            Collected::Start { bytes, rest } => Self::Once { start: bytes, rest },
        }
    }
}

impl Payload {
    fn upload(
        &mut self,
        bytes_max: Option<u64>,
        now: Instant,
    ) -> Option<(Upload, Option<Arc<Progress>>)> {
        if let Self::Whole { bytes, .. } = self {
            return Some((Upload::whole(bytes.clone()), None));
        }
        match std::mem::replace(self, Self::Spent) {
            Self::Once { start, rest } => {
                let (upload, progress) = Upload::streamed(start, rest, bytes_max, now);
                Some((upload, Some(progress)))
            }
            Self::Whole { .. } | Self::Spent => None,
        }
    }
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
            in_flight,
        }
    }

    /// Tries endpoints until there is an answer for the client.
    pub(super) async fn run(mut self) -> Response<Body> {
        loop {
            let attempt = match self.next().await {
                Ok(attempt) => attempt,
                Err(end) => return self.conclude(end),
            };
            let now = Instant::now();
            let bytes_max = self.service.settings.body_max_bytes;
            let Some((upload, progress)) = self.payload.upload(bytes_max, now) else {
                return self.conclude(End::Exhausted);
            };
            self.count();
            match self
                .attempt(attempt.endpoint(), upload, progress.as_deref(), now)
                .await
            {
                Tried::Answered(response, verdict) => match verdict.class {
                    OutcomeClass::Success | OutcomeClass::Request => {
                        return self.relay(attempt, response, verdict, progress);
                    }
                    _ => self.keep(attempt, response, verdict).await,
                },
                Tried::Failed(failed) => self.record(attempt, failed),
                Tried::Faulty(fault) => return self.conclude(End::Faulty(fault)),
                Tried::OutOfTime => return self.conclude(End::OutOfTime),
            }
        }
    }

    fn count(&self) {
        let counters = &self.service.counters;
        count(&counters.attempts);
        if self.routing.attempts() > 1 {
            count(&counters.retries);
        }
    }

    /// Chooses an endpoint, waiting for one if that may help.
    async fn next(&mut self) -> Result<Attempt, End> {
        if matches!(self.payload, Payload::Spent) {
            return Err(End::Exhausted);
        }
        match self.routing.next(Instant::now()) {
            Next::Attempt(attempt) => Ok(attempt),
            Next::Exhausted => Err(End::Exhausted),
            Next::Unavailable(unavailable) => Err(End::Unavailable(unavailable)),
            Next::Wait { .. } => self.wait().await,
        }
    }

    async fn wait(&mut self) -> Result<Attempt, End> {
        let Ok(_place) = self.service.waiting.try_acquire() else {
            return Err(End::Busy("too many requests wait for an endpoint"));
        };
        let queue_timeout = self.routing.policy().queue_timeout;
        let patience = *(self.patience).get_or_insert_with(|| Instant::now() + queue_timeout);
        let give_up = patience.min(self.deadline);
        loop {
            let changed = self.service.router.changed(); // Made first: misses nothing.
            let now = Instant::now();
            match self.routing.next(now) {
                Next::Attempt(attempt) => return Ok(attempt),
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

    /// Sends the request to one endpoint, and waits for the head of the answer.
    async fn attempt(
        &self,
        endpoint: &Endpoint,
        upload: Upload,
        progress: Option<&Progress>,
        now: Instant,
    ) -> Tried {
        let request = match self.request.build(endpoint, upload) {
            Ok(request) => request,
            Err(failed) => return Tried::Failed(failed),
        };
        let connect = self.routing.policy().timeouts.connect;
        let pool = self.service.upstreams.pool(endpoint, connect, now);
        let mut sending = std::pin::pin!(pool.send(request));
        let first_byte = endpoint.first_byte_timeout;
        let mut limit = now + first_byte;
        let sent = loop {
            match timeout_at(limit.min(self.deadline).into(), &mut sending).await {
                Ok(sent) => break sent,
                Err(_) if Instant::now() >= self.deadline => return Tried::OutOfTime,
                Err(_) => match self.extend(progress, first_byte, limit) {
                    Ok(later) => limit = later,
                    Err(tried) => return tried,
                },
            }
        };
        if let Some(fault) = progress.and_then(Progress::fault) {
            return Tried::Faulty(fault);
        }
        match sent {
            Ok(response) => match check(&response) {
                Ok(()) => {
                    let verdict =
                        classify(response.status(), response.headers(), SystemTime::now());
                    Tried::Answered(response, verdict)
                }
                Err(failed) => Tried::Failed(failed),
            },
            Err(failed) => Tried::Failed(failed),
        }
    }

    /// Decides what it means that a limit has passed without an answer. While the client
    /// is still sending, an endpoint has nothing to answer to.
    fn extend(
        &self,
        progress: Option<&Progress>,
        first_byte: Duration,
        limit: Instant,
    ) -> Result<Instant, Tried> {
        let silent = || {
            Tried::Failed(Failed {
                class: OutcomeClass::Timeout,
                detail: format!("no response head within {first_byte:?}"),
            })
        };
        let (later, overdue) = match progress.map(Progress::state) {
            None => return Err(silent()),
            Some(State::Failed(fault)) => return Err(Tried::Faulty(fault)),
            Some(State::Waiting(since)) => {
                let idle = self.service.settings.body_idle_timeout;
                (since + idle, Tried::Faulty(Fault::Stalled))
            }
            Some(State::Sending(since) | State::Sent(since)) => (since + first_byte, silent()),
        };
        if later > limit {
            Ok(later)
        } else {
            Err(overdue)
        }
    }

    /// Passes an answer on. Its end decides the attempt.
    fn relay(
        mut self,
        attempt: Attempt,
        response: Response<Incoming>,
        verdict: Verdict,
        upload: Option<Arc<Progress>>,
    ) -> Response<Body> {
        if verdict.class == OutcomeClass::Success {
            attempt.answered();
        }
        let (mut head, body) = response.into_parts();
        let readable =
            headers::is_event_stream(&head.headers) && headers::is_identity(&head.headers);
        let events = readable.then(|| Events {
            scanner: Scanner::default(),
            shape: self.request.shape,
        });
        let request_id = head
            .headers
            .iter()
            .filter(|(name, _)| name.as_str().ends_with("request-id"));
        let request_id = request_id
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let clock = self.clock();
        let endpoint = Arc::clone(attempt.endpoint());
        let pending = Pending {
            attempt,
            class: verdict.class,
            http_status: head.status.as_u16(),
            headers: request_id,
            upload,
        };
        headers::strip_response(&mut head.headers);
        let in_flight = self.in_flight.take();
        let body = Relay::new(body, pending, events, clock, in_flight);
        self.answer_with(head, body, &endpoint)
    }

    /// Finishes an attempt that was answered with an error, and keeps the answer.
    async fn keep(&mut self, attempt: Attempt, response: Response<Incoming>, verdict: Verdict) {
        let (head, body) = response.into_parts();
        let status = head.status;
        let failure = Failure::read(head, body).await;
        let error_type = failure.error_type();
        self.tries.push(Try {
            endpoint: Arc::clone(attempt.endpoint()),
            class: verdict.class,
            detail: format!("answered {}", status.as_u16()),
        });
        let endpoint = Arc::clone(attempt.endpoint());
        let outcome = Outcome {
            class: verdict.class,
            http_status: status.as_u16(),
            error_type,
            retry_after: verdict.retry_after,
            detail: String::new(), // Providers put parts of keys into their messages.
            upstream_request_id: request_id(&failure.head.headers),
        };
        attempt.finish(outcome, Instant::now());
        if !blames_credential(verdict.class) {
            self.answer = Some((failure, endpoint));
        }
    }

    /// Finishes an attempt that was not answered.
    fn record(&mut self, attempt: Attempt, failed: Failed) {
        self.tries.push(Try {
            endpoint: Arc::clone(attempt.endpoint()),
            class: failed.class,
            detail: failed.detail.clone(),
        });
        let outcome = Outcome {
            detail: failed.detail,
            ..Outcome::of(failed.class)
        };
        attempt.finish(outcome, Instant::now());
    }

    /// Answers without a further try.
    fn conclude(mut self, end: End) -> Response<Body> {
        let relayable = match end {
            End::Exhausted | End::Unavailable(_) | End::Busy(_) | End::OutOfTime => {
                self.answer.take()
            }
            End::Faulty(_) => None,
        };
        if let Some((failure, endpoint)) = relayable {
            let mut head = failure.head;
            headers::strip_response(&mut head.headers);
            let (clock, in_flight) = (self.clock(), self.in_flight.take());
            let body = Relay::of_failure(failure.start, failure.rest, clock, in_flight);
            return self.answer_with(head, body, &endpoint);
        }
        let refusal = match end {
            End::Exhausted => self.failed(),
            End::Unavailable(unavailable) => {
                no_endpoint(Kind::NoEndpoint, "no endpoint is available", &unavailable)
            }
            End::Busy(why) => {
                let unavailable = self.routing.unavailable(Instant::now());
                no_endpoint(Kind::Busy, why, &unavailable).retry_after(Duration::from_secs(1))
            }
            End::OutOfTime => Refusal::new(
                Kind::Timeout,
                "no answer within the total time of a request",
            ),
            End::Faulty(fault) => fault.into(),
        };
        self.refuse(refusal)
    }

    /// Every try failed, and none left an answer that can be relayed.
    fn failed(&self) -> Refusal {
        let all = |is: fn(OutcomeClass) -> bool| self.tries.iter().all(|it| is(it.class));
        let list = list(
            self.tries
                .iter()
                .map(|it| (&*it.endpoint.name, it.detail.as_str())),
        );
        if self.tries.is_empty() {
            // Only if the body could not be sent at all.
            return Refusal::new(Kind::Unreachable, "no endpoint could be tried");
        }
        if all(blames_credential) {
            let refusal = Refusal::new(
                Kind::CredentialsRejected,
                format!("endpoint credentials rejected: {list}"),
            );
            // With tries left there is nobody else to ask, and coming back is of no use.
            let exhausted = self.routing.attempts() >= self.routing.policy().attempts_max;
            return if exhausted {
                refusal
            } else {
                refusal.final_answer()
            };
        }
        if all(|class| class == OutcomeClass::Timeout) {
            return Refusal::new(
                Kind::Timeout,
                format!("no endpoint answered in time: {list}"),
            );
        }
        Refusal::new(Kind::Unreachable, format!("every endpoint failed: {list}"))
    }

    fn refuse(mut self, refusal: Refusal) -> Response<Body> {
        self.in_flight.own_error();
        let kind = refusal.kind;
        let mut response = refusal.into_response(self.request.shape, self.request.is_http1);
        self.stamp(response.headers_mut());
        self.log(response.status(), "-", Some(kind));
        response
    }

    fn answer_with(self, head: Parts, body: Body, endpoint: &Endpoint) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        self.stamp(response.headers_mut());
        if let Ok(name) = HeaderValue::from_str(&endpoint.name) {
            response.headers_mut().insert(X_QCC_ENDPOINT, name);
        }
        self.log(head.status, &endpoint.name, None);
        response
    }

    fn stamp(&self, headers: &mut HeaderMap) {
        headers.insert(X_QCC_ATTEMPTS, HeaderValue::from(self.routing.attempts()));
        if let Ok(view) = HeaderValue::try_from(self.routing.view().to_string()) {
            headers.insert(X_QCC_REVISION, view);
        }
    }

    fn clock(&self) -> Clock {
        let idle = self.routing.policy().timeouts.idle;
        Clock::new(idle, self.deadline.into(), Instant::now().into())
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

impl Outgoing {
    fn build(&self, endpoint: &Endpoint, upload: Upload) -> Result<Request<Upload>, Failed> {
        let path = self
            .target
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let target = upstream::target(&endpoint.base_url, path).map_err(|error| Failed {
            class: OutcomeClass::Request,
            detail: error.to_string(),
        })?;
        let mut headers = self.headers.clone();
        set_credential(&mut headers, endpoint.credential.as_ref());
        match upload.size_hint().exact() {
            Some(length) if length > 0 || self.has_length => {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            // hyper takes these two for methods without a body unless told otherwise.
            None if self.method == Method::GET || self.method == Method::HEAD => {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            Some(_) | None => {}
        }
        let mut request = Request::new(upload);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = target;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            Fault::Broken => Kind::BodyBroken,
            Fault::TooLarge => Kind::BodyTooLarge,
            Fault::Stalled => Kind::BodyTimeout,
        };
        Self::new(kind, fault.to_string())
    }
}

/// Refuses answers that no HTTP server should give, and no client should get.
fn check(response: &Response<Incoming>) -> Result<(), Failed> {
    let malformed = |detail| {
        Err(Failed {
            class: OutcomeClass::ServerError,
            detail,
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

fn blames_credential(class: OutcomeClass) -> bool {
    matches!(class, OutcomeClass::Auth | OutcomeClass::Forbidden)
}

fn no_endpoint(kind: Kind, what: &'static str, unavailable: &Unavailable) -> Refusal {
    let reasons: Vec<_> = (unavailable.reasons.iter())
        .take(REASONS_MAX)
        .map(|(name, reason)| (&**name, reason.to_string()))
        .collect();
    let mut message = what.to_owned();
    if !reasons.is_empty() {
        message.push_str(": ");
        message.push_str(&list(
            reasons
                .iter()
                .map(|(name, reason)| (*name, reason.as_str())),
        ));
    }
    let left_out = unavailable.reasons.len() - reasons.len();
    if left_out > 0 {
        let _ = write!(message, "; and {left_out} more"); // Writing to a string cannot fail.
    }
    Refusal::new(kind, message).retry_after(unavailable.retry_after)
}

fn list<'a>(reasons: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let reasons: Vec<_> = reasons
        .map(|(name, reason)| format!("`{name}`: {reason}"))
        .collect();
    reasons.join("; ")
}
