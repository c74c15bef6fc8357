//! One try: the request goes to an endpoint, and its answer is judged.

use std::{
    pin::pin,
    time::{Duration, Instant, SystemTime},
};

use http::HeaderMap;
use qcc_proto::{
    upstream::{Verdict, class_of_error_type, classify, retry_after},
    v1::OutcomeClass,
};
use tokio::time::timeout_at;

use super::{Answer, Exchange, Reading, Tried, is_readable};
use crate::{
    proxy::{
        headers,
        inbound::Inbound,
        message::Response,
        opening::{self, Opening},
        upload::{Fault, Progress, State, Upload},
        upstream::Failed,
    },
    routing::Endpoint,
};

/// Who has not done in time what there is to wait for.
enum Overdue {
    Endpoint,
    Client(Fault),
}

impl Exchange<'_> {
    /// Sends the request to one endpoint, and waits for the head of the answer; for a
    /// stream of events also for its first content.
    pub(super) async fn attempt(
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
        let Response { head, body } = response;
        let told = || head.fields.to_map(|_| true);
        let is_error = head.status.is_client_error() || head.status.is_server_error();
        let verdict = match is_error {
            true => classify(head.status, &told(), SystemTime::now()),
            false => Verdict::SUCCESS,
        };
        let policy = self.routing.policy();
        let is_readable = is_readable(&head.fields);
        let is_held =
            is_readable && verdict.class == OutcomeClass::Success && !policy.hold_timeout.is_zero();
        if !is_held {
            return Tried::Answered(Answer {
                head,
                body: Reading::Unread(body),
                verdict,
                error_type: None,
                is_readable,
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
                    .map(|it| in_band(it, &told(), SystemTime::now()));
                Tried::Answered(Answer {
                    head,
                    body: Reading::Begun(Box::new(opening)),
                    verdict: in_band.unwrap_or(verdict),
                    error_type,
                    is_readable,
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
    let status = response.head.status.as_u16();
    if !(200..600).contains(&status) {
        return malformed(format!("malformed response: status {status}"));
    }
    if !headers::transfer_coding_is_plain(&response.head.fields) {
        return malformed("malformed response: transfer coding".to_owned());
    }
    Ok(())
}
