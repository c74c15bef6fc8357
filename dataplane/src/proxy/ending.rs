//! What a client is told when there is no answer for it to get.

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use qcc_proto::v1::OutcomeClass;

use super::{
    reply::{Kind, Refusal},
    upload::Fault,
};
use crate::routing::{Endpoint, Routing, Unavailable};

/// A try that failed.
pub(super) struct Try {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) class: OutcomeClass,
    pub(super) detail: String,
}

impl Try {
    /// Whether the request lost its connection, perhaps by its own fault.
    pub(super) fn may_have_broken_it(&self) -> bool {
        matches!(
            self.class,
            OutcomeClass::Connect | OutcomeClass::StreamBroken | OutcomeClass::Unspecified
        )
    }
}

/// Why there is no further try.
pub(super) enum End {
    /// All attempts were made, or there is nobody left to ask.
    Exhausted,
    /// There might be somebody to ask, but there is no budget for it, or it is not wanted.
    NoRetry,
    /// No endpoint is selectable.
    Unavailable(Arc<Unavailable>),
    /// There was no endpoint to be had in time.
    Busy(&'static str),
    /// The request's total time is up.
    OutOfTime,
    /// The client's body is at fault.
    Faulty(Fault),
    /// The proxy stops, and could not wait any longer.
    Stopping,
}

impl End {
    /// Whether the client gets an endpoint's error instead, if there was one.
    pub(super) fn yields_to_an_answer(&self) -> bool {
        match self {
            Self::Exhausted
            | Self::NoRetry
            | Self::Unavailable(_)
            | Self::Busy(_)
            | Self::OutOfTime => true,
            // Another proxy may do better than that.
            Self::Faulty(_) | Self::Stopping => false,
        }
    }

    /// Says it to the client. `is_spent`: the body could not be sent to anybody else.
    pub(super) fn refusal(self, tries: &[Try], routing: &Routing, is_spent: bool) -> Refusal {
        match self {
            Self::Exhausted => exhausted(tries, routing, is_spent),
            Self::NoRetry => exhausted(tries, routing, true),
            Self::Unavailable(unavailable) if are_rejected(tries, &unavailable) => {
                rejected(tries).final_answer()
            }
            Self::Unavailable(unavailable) => {
                let what = match routing.has_endpoints() {
                    true => "no endpoint is available",
                    false => "this proxy's cluster has no endpoints",
                };
                no_endpoint(Kind::NoEndpoint, what, &unavailable)
            }
            Self::Busy(why) => {
                let unavailable = routing.unavailable(Instant::now());
                no_endpoint(Kind::Busy, why, &unavailable).retry_after(Duration::from_secs(1))
            }
            Self::OutOfTime => {
                let message = "no answer within the total time of a request";
                Refusal::new(Kind::Timeout, message)
            }
            Self::Faulty(fault) => fault.into(),
            Self::Stopping => Refusal::stopping(),
        }
    }
}

/// Every try failed, and none left an answer that can be relayed.
fn exhausted(tries: &[Try], routing: &Routing, is_spent: bool) -> Refusal {
    let all = |is: fn(OutcomeClass) -> bool| tries.iter().all(|it| is(it.class));
    if tries.is_empty() {
        return Refusal::new(Kind::Unreachable, "no endpoint could be tried");
    }
    if all(blames_credential) {
        let refusal = rejected(tries);
        // With attempts left, and a body to send, there was nobody else to ask: coming
        // back is of no use.
        let may_help = is_spent || routing.attempts() >= routing.policy().attempts_max;
        return if may_help {
            refusal
        } else {
            refusal.final_answer()
        };
    }
    let list = list_of(tries);
    if all(|class| class == OutcomeClass::Timeout) {
        let message = format!("no endpoint answered in time: {list}");
        return Refusal::new(Kind::Timeout, message);
    }
    Refusal::new(Kind::Unreachable, format!("every endpoint failed: {list}"))
}

/// Whether a request has met nothing but rejections, and nobody else is left to ask
/// until somebody does something about it.
fn are_rejected(tries: &[Try], unavailable: &Unavailable) -> bool {
    !tries.is_empty()
        && tries.iter().all(|it| blames_credential(it.class))
        && unavailable.is_for_people
}

fn rejected(tries: &[Try]) -> Refusal {
    let message = format!("endpoint credentials rejected: {}", list_of(tries));
    Refusal::new(Kind::CredentialsRejected, message)
}

fn list_of(tries: &[Try]) -> String {
    list(tries.iter().map(|it| (&*it.endpoint.name, &*it.detail)))
}

/// Whether an answer is about our own credential, so that no client may see it.
pub(super) fn blames_credential(class: OutcomeClass) -> bool {
    matches!(class, OutcomeClass::Auth | OutcomeClass::Forbidden)
}

fn no_endpoint(kind: Kind, what: &'static str, unavailable: &Unavailable) -> Refusal {
    let reasons: Vec<_> = (unavailable.reasons.iter())
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
    if unavailable.others > 0 {
        let _ = write!(message, "; and {} more", unavailable.others); // Writing to a string cannot fail.
    }
    Refusal::new(kind, message).retry_after(unavailable.retry_after)
}

fn list<'a>(reasons: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let reasons: Vec<_> = reasons
        .map(|(name, reason)| format!("`{name}`: {reason}"))
        .collect();
    reasons.join("; ")
}
