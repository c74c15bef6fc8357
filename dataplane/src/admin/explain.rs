//! Why an endpoint is selected or not: a page for whoever wonders.
//!
//! The view speaks first, for it binds all proxies; then what this process saw itself.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use qcc_proto::{
    duration,
    v1::{ExplainProxyEndpointResponse, LocalEvidence},
};

use super::endpoints;
use crate::{
    routing::{Entry, Health, Leniency, Reason, Table, Witness},
    sync::LinkState,
};

/// All that an explanation is made of.
pub(super) struct Explanation<'a> {
    pub(super) table: &'a Table,
    pub(super) entry: &'a Entry,
    pub(super) link: LinkState,
    pub(super) now: Instant,
}

impl Explanation<'_> {
    /// Returns the explanation.
    pub(super) fn tell(&self) -> ExplainProxyEndpointResponse {
        let routed = &self.entry.routed;
        let leniency = Leniency::of(self.table, self.now);
        let endpoint = endpoints::describe(self.entry, self.table.policy(), &leniency, self.now);
        let refusal = self.refusal();
        let witness = self.entry.live.witness();
        // What was seen before a success, or before the view said so, explains nothing.
        let witness = witness.filter(|_| endpoint.local_mark.is_some());
        let since = |at: Instant| self.now.saturating_duration_since(at);
        let remaining = match routed.health {
            Health::Degraded { until, .. } => Some(until.saturating_duration_since(self.now)),
            Health::Unknown | Health::Healthy | Health::Unhealthy { .. } => None,
        };
        ExplainProxyEndpointResponse {
            summary: self.summary(refusal, &leniency, witness.as_deref()),
            next: self.next(refusal),
            next_in: refusal.and_then(|it| it.next_in()).map(duration::to_proto),
            view_summary: routed.summary.as_deref().unwrap_or_default().to_owned(),
            view_since: routed.since.map(|at| duration::to_proto(since(at))),
            view_remaining: remaining.map(duration::to_proto),
            view_failures: routed.failures,
            max_failures: routed.failures_max,
            local_evidence: witness.map(|it| evidence(&it, since(it.at))),
            view: Some(self.table.view()),
            view_age: self.link.age(self.now).map(duration::to_proto),
            stale: self.link.is_stale(self.now),
            endpoint: Some(endpoint),
        }
    }

    fn refusal(&self) -> Option<Reason> {
        self.entry.selectable(self.table.policy(), self.now).err()
    }

    fn summary(
        &self,
        refusal: Option<Reason>,
        leniency: &Leniency,
        witness: Option<&Witness>,
    ) -> String {
        let name = &self.entry.routed.endpoint.name;
        let mut text = match refusal {
            None => format!("`{name}` takes new requests"),
            Some(reason) => format!("`{name}` takes no new requests: {reason}"),
        };
        if let (Some(reason), Some(said)) = (refusal, &self.entry.routed.summary)
            && is_of_the_view(reason)
        {
            let _ = write!(text, " ({said})"); // Writing to a string cannot fail.
        }
        let failures = self.failures();
        if refusal.is_none() && failures > 0 {
            let max = self.entry.routed.failures_max;
            let _ = write!(text, ", after {failures} of {max} failures in a row");
        }
        if let Some(witness) = witness.filter(|_| !refusal.is_some_and(is_of_the_view)) {
            let ago = self.now.saturating_duration_since(witness.at).as_secs();
            let _ = write!(
                text,
                "; this proxy's attempt {} saw {}, {ago} s ago",
                witness.attempt,
                seen(witness)
            );
        }
        if refusal.is_none() && !self.entry.live.proven() {
            text.push_str("; only a few at a time, until one succeeds in this generation");
        }
        if let Some(words) = leniency.words(name).filter(|_| refusal.is_some()) {
            let _ = write!(text, "; {words}");
        }
        if self.link.is_stale(self.now) {
            let age = self.link.age(self.now).unwrap_or_default().as_secs();
            let _ = write!(
                text,
                "; by a view that may be out of date, confirmed {age} s ago"
            );
        }
        text
    }

    fn next(&self, refusal: Option<Reason>) -> String {
        let is_away = self.link.connected.is_none();
        let text = match refusal {
            None => "it stays so until it fails or the control plane says otherwise",
            Some(Reason::Disabled | Reason::Draining) => "an operator has to enable it",
            Some(Reason::Unhealthy { .. }) if is_away => {
                "a check at the control plane has to pass, and this proxy to hear of it: it is not connected"
            }
            Some(Reason::Unhealthy { .. }) => "a check at the control plane has to pass",
            Some(Reason::Degraded { .. }) => {
                "the pause ends by itself, then it takes requests again"
            }
            Some(Reason::Paused { .. }) => {
                "the pause ends by itself; inside of a long one a request a minute tries it, and the first that is answered ends it"
            }
            Some(Reason::Rejected) if is_away => {
                "nothing but a newer generation brings it back here, and this proxy is not connected to hear of one"
            }
            Some(Reason::Rejected) => {
                "nothing but a newer generation brings it back here: a check that passes, a new key, or an operator"
            }
            Some(Reason::Suspended { .. }) => {
                "then one request at a time tries it; the first that is answered brings it back"
            }
            Some(Reason::Trial) => "the one request that tries it now decides",
            Some(Reason::Unproven) => "as soon as one of the first attempts succeeds, or ends",
            Some(Reason::Held) => "how that request fares elsewhere decides",
            Some(Reason::Superseded) => "the next request sees the newer view",
        };
        text.to_owned()
    }

    /// Failures in a row, of the view's count and ours the one that is used.
    fn failures(&self) -> u32 {
        let mark = self.entry.live.mark();
        let known = self.entry.routed.failures;
        let elsewhere = if mark.forgiven == known { 0 } else { known };
        mark.failures.max(elsewhere)
    }
}

fn is_of_the_view(reason: Reason) -> bool {
    matches!(reason, Reason::Unhealthy { .. } | Reason::Degraded { .. })
}

/// Says in words what an attempt came to.
fn seen(witness: &Witness) -> String {
    let outcome = &witness.outcome;
    let parts = [
        match outcome.http_status {
            0 => String::new(),
            status => format!("http {status}"),
        },
        outcome.error_type.clone(),
        outcome.detail.clone(),
        match &*outcome.upstream_request_id {
            "" => String::new(),
            id => format!("request id {id}"),
        },
    ];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return outcome.class.as_str_name().to_owned();
    }
    parts.join(", ")
}

fn evidence(witness: &Witness, age: Duration) -> LocalEvidence {
    let outcome = &witness.outcome;
    LocalEvidence {
        outcome: outcome.class.into(),
        http_status: outcome.http_status.into(),
        error_type: outcome.error_type.clone(),
        retry_after: outcome.retry_after.map(duration::to_proto),
        detail: outcome.detail.clone(),
        upstream_request_id: outcome.upstream_request_id.clone(),
        age: Some(duration::to_proto(age)),
        attempt: witness.attempt,
        view: Some(witness.view),
    }
}
