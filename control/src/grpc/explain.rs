//! Why an endpoint is in its state, in words.

use std::fmt;

use qcc_proto::v1;

use super::{Api, convert, events};
use crate::registry::{
    AdminState, Cause, CheckKind, Clock, Endpoint, Evidence, Facts, Health, OutcomeClass, Policy,
    Snapshot, Witness,
};

/// Proxies and events that an explanation names at most.
const PROXIES_MAX: usize = 100;
const EVENTS_MAX: usize = 20;

/// Longest summary that data planes are sent.
const MARK_BYTES_MAX: usize = 400;

/// What happens next, and when.
struct Next {
    what: String,
    at: Option<Clock>,
}

impl Api {
    /// Explains an endpoint of `snapshot`.
    pub(super) fn explanation(
        &self,
        endpoint: &Endpoint,
        policy: &Policy,
        snapshot: &Snapshot,
    ) -> v1::ExplainEndpointResponse {
        let now = self.feed.now();
        let next = next(endpoint, policy, now.clock);
        let mut behind: Vec<_> = self
            .proxies(snapshot.view)
            .into_iter()
            .filter(|(session, proxy)| {
                proxy.cluster == endpoint.spec.cluster.as_str()
                    && !session.gone()
                    && session.applied.is_none_or(|view| view < endpoint.changed)
            })
            .map(|(_, proxy)| v1::ProxyBehind {
                id: proxy.id,
                applied_view: proxy.applied_view,
                lag: proxy.lag,
            })
            .collect();
        behind
            .sort_by_key(|proxy| std::cmp::Reverse(proxy.lag.map(|lag| (lag.seconds, lag.nanos))));
        let count = behind.len() as u32;
        behind.truncate(PROXIES_MAX);
        let log = self.feed.events().borrow().clone();
        let of_it = log.entries.values().rev();
        let of_it = of_it.filter(|event| event.concerns(&endpoint.spec.name));
        v1::ExplainEndpointResponse {
            endpoint: Some(convert::endpoint(endpoint, snapshot, self.wall())),
            summary: summary(endpoint, policy),
            next: next.what,
            next_time: next.at.map(|at| self.wall().time(at)),
            advice: advice(endpoint).replace("NAME", endpoint.spec.name.as_str()),
            proxies_behind: behind,
            proxies_behind_count: count,
            events: of_it
                .take(EVENTS_MAX)
                .map(|event| events::message(event))
                .collect(),
            view: Some(convert::view(snapshot.view)),
        }
    }
}

/// Returns on whose word and by which facts an endpoint is in its state; empty if
/// nothing is held against it.
pub(super) fn mark_summary(endpoint: &Endpoint) -> String {
    let evidence = endpoint.mark.evidence.as_deref();
    let held = evidence.filter(|_| endpoint.health.cause().is_some());
    let mut summary = held.map_or_else(String::new, word);
    summary.truncate(summary.floor_char_boundary(MARK_BYTES_MAX));
    summary
}

fn summary(endpoint: &Endpoint, policy: &Policy) -> String {
    let name = &endpoint.spec.name;
    let wish = match endpoint.spec.admin_state {
        AdminState::Enabled => "",
        AdminState::Draining => " It is draining: an operator wants no new requests there.",
        AdminState::Disabled => " It is disabled: an operator wants no requests there.",
    };
    let evidence = endpoint.mark.evidence.as_deref();
    let by = evidence.map_or_else(String::new, |evidence| format!(": {}", word(evidence)));
    let state = match &endpoint.health {
        Health::Healthy { failures: 0 } if endpoint.doubts.is_empty() => {
            format!("`{name}` is HEALTHY: nothing is held against it.")
        }
        Health::Healthy { failures: 0 } => format!(
            "`{name}` is HEALTHY, but somebody could not reach it: {}.",
            doubts(endpoint)
        ),
        Health::Healthy { failures } => format!(
            "`{name}` is HEALTHY, with {failures} of {} failures in a row that eject it{by}.",
            endpoint.failures_max(policy)
        ),
        Health::Unknown { .. } if endpoint.doubts.is_empty() => format!(
            "`{name}` is UNKNOWN: nothing has been proven in generation {}{by}.",
            endpoint.generation.0
        ),
        Health::Unknown { .. } => format!(
            "`{name}` is UNKNOWN, and somebody could not reach it: {}.",
            doubts(endpoint)
        ),
        Health::Degraded { cause, .. } => {
            format!("`{name}` is DEGRADED, {}{by}.", pause(*cause, evidence))
        }
        Health::Unhealthy(incident) => {
            let again = match incident.observations {
                0 | 1 => String::new(),
                seen => format!(" It was seen {seen} times and counted once."),
            };
            format!(
                "`{name}` is UNHEALTHY, {}{by}.{again}",
                reason(incident.cause)
            )
        }
    };
    state + wish
}

fn doubts(endpoint: &Endpoint) -> String {
    let words: Vec<_> = endpoint.doubts.iter().map(word).collect();
    words.join("; ")
}

/// Returns the facts and whose word they are.
fn word(evidence: &Evidence) -> String {
    let facts = Said(&evidence.facts);
    match &evidence.witness {
        Witness::Operator if evidence.facts.detail.is_empty() => "an operator said so".into(),
        Witness::Operator => format!("an operator said `{}`", evidence.facts.detail),
        Witness::Check => format!("{facts}, seen by the control plane's own check"),
        Witness::Proxy(id) => format!("{facts}, reported by `{id}`"),
    }
}

/// Facts in words. Every update about an endpoint that is out has them.
struct Said<'a>(&'a Facts);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts {
            outcome,
            http_status,
            error_type,
            detail,
            ..
        } = self.0;
        match (http_status, error_type.as_str()) {
            (0, "") if detail.is_empty() => return f.write_str(nothing_but(*outcome)),
            (0, "") => return f.write_str(detail),
            (0, error_type) => f.write_str(error_type)?,
            (status, "") => status.fmt(f)?,
            (status, error_type) => write!(f, "{status} {error_type}")?,
        }
        if detail.is_empty() {
            return Ok(());
        }
        write!(f, " ({detail})")
    }
}

fn nothing_but(outcome: OutcomeClass) -> &'static str {
    match outcome {
        OutcomeClass::Timeout => "no answer in time",
        OutcomeClass::Connect => "no connection",
        OutcomeClass::StreamBroken => "an answer that broke off",
        OutcomeClass::Success => "a wrong answer",
        OutcomeClass::Auth
        | OutcomeClass::Forbidden
        | OutcomeClass::RateLimited
        | OutcomeClass::Overloaded
        | OutcomeClass::ServerError
        | OutcomeClass::Request
        | OutcomeClass::Cancelled => "an error",
    }
}

fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::Auth => "since its key is rejected",
        Cause::Forbidden => "since it denies access",
        Cause::RateLimited => "and the last check was rate limited",
        Cause::Overloaded => "and at the last check its provider was overloaded",
        Cause::ServerError => "since it answers with server errors",
        Cause::Timeout => "since it does not answer in time",
        Cause::Connect => "since it cannot be reached",
        Cause::StreamBroken => "since its answers break off",
        Cause::CheckFailed => "since it does not answer a check as it should",
        Cause::Operator => "since an operator ejected it",
    }
}

fn pause(cause: Cause, evidence: Option<&Evidence>) -> &'static str {
    match cause {
        Cause::Overloaded => "since its provider is busy: a short pause, which is no failure",
        _ if evidence.is_some_and(|evidence| evidence.facts.retry_after.is_none()) => {
            "since it is rate limited and does not say until when, which is usually a spend cap"
        }
        _ => "since it is rate limited until a time that it named",
    }
}

fn next(endpoint: &Endpoint, policy: &Policy, now: Clock) -> Next {
    let without_time = |what: &str| Next {
        what: what.into(),
        at: None,
    };
    if endpoint.spec.admin_state == AdminState::Disabled {
        return without_time("Nothing: it is not checked until an operator enables it.");
    }
    let asks = endpoint.check(policy).kind != CheckKind::None;
    let due = endpoint.checks.due;
    let running = endpoint.checks.running.is_some();
    match &endpoint.health {
        Health::Unknown { .. } | Health::Healthy { .. } | Health::Degraded { .. }
            if endpoint.staged.is_some() =>
        {
            Next {
                what:
                    "A check decides whether the new key takes over; the present one serves until \
                   then, or until its time is up."
                        .into(),
                at: due,
            }
        }
        Health::Unhealthy(_) if running => without_time(
            "A check is under way. If it passes the endpoint is back at once, in a new generation.",
        ),
        Health::Unhealthy(_) if asks => Next {
            what: "A check. If it passes the endpoint is back at once, in a new generation.".into(),
            at: due,
        },
        Health::Unhealthy(_) => Next {
            what: "It becomes UNKNOWN, and a few requests find out: its check is `none`.".into(),
            at: due,
        },
        Health::Degraded { until, .. } if *until <= now => without_time(
            "The pause is over: requests try it after all that are healthy, and the first success \
             makes it HEALTHY.",
        ),
        Health::Degraded { until, .. } if due.is_some_and(|due| due < *until) => Next {
            what: "A check inside the pause: if it passes, the pause ends early.".into(),
            at: due,
        },
        Health::Degraded { until, .. } => Next {
            what: "The pause ends: requests may try it again.".into(),
            at: Some(*until),
        },
        Health::Unknown { .. } if running => without_time("A check is under way."),
        Health::Unknown { .. } if due.is_some() => Next {
            what: "A check. Requests may find out before it, a few at a time.".into(),
            at: due,
        },
        Health::Unknown { .. } => without_time("Requests find out, a few at a time in each proxy."),
        Health::Healthy { .. } if !endpoint.doubts.is_empty() => Next {
            what: "A check, or a second proxy, decides whether all others keep away too.".into(),
            at: due,
        },
        Health::Healthy { failures } if *failures > 0 => {
            without_time("A success ends the row of failures; more of them eject it.")
        }
        Health::Healthy { .. } => without_time("Nothing."),
    }
}

/// Returns what an operator could do; `NAME` stands for the endpoint's.
fn advice(endpoint: &Endpoint) -> &'static str {
    match endpoint.health.cause() {
        Some(Cause::Auth) => {
            "Replace the key (`qcc-ctl endpoints update NAME --key-env VAR`): it is checked at once."
        }
        Some(Cause::Forbidden) => {
            "Look at the account behind the key: permissions, region, payment."
        }
        Some(Cause::RateLimited) => {
            "Look at the account's limits. If they were raised: `qcc-ctl endpoints verify NAME`."
        }
        Some(Cause::Timeout | Cause::Connect) => {
            "Look at the network between here and there, and at the provider's status page."
        }
        Some(Cause::ServerError | Cause::StreamBroken) => "Look at the provider's status page.",
        Some(Cause::CheckFailed) => {
            "Look at the check itself: its model, path and expected statuses."
        }
        Some(Cause::Operator) => "`qcc-ctl endpoints restore NAME` ends the ejection.",
        Some(Cause::Overloaded) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of(http_status: u16, error_type: &str, detail: &str) -> String {
        let facts = Facts {
            http_status,
            error_type: error_type.into(),
            detail: detail.into(),
            ..Facts::of(OutcomeClass::Timeout)
        };
        Said(&facts).to_string()
    }

    #[test]
    fn facts_are_said_in_as_few_words_as_there_are() {
        let auth = facts_of(401, "authentication_error", "");
        assert_eq!(auth, "401 authentication_error");
        assert_eq!(facts_of(0, "", "connection refused"), "connection refused");
        assert_eq!(facts_of(503, "", "no body"), "503 (no body)");
        assert_eq!(facts_of(0, "", ""), "no answer in time");
    }
}
