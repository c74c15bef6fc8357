//! The list of endpoints, as selection sees them.

use std::{sync::atomic::Ordering, time::Instant};

use qcc_proto::{
    duration,
    v1::{
        Cause, HealthState, ListProxyEndpointsRequest, ListProxyEndpointsResponse, LocalMark,
        ProxyEndpoint,
    },
};

use super::error::Error;
use crate::routing::{Block, Entry, Health, Leniency, Policy, Table};

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1000;
/// Begins every page token; the rest is the last name of the page before.
const TOKEN_PREFIX: &str = "after:";

/// Which part of the list is asked for.
#[derive(Debug)]
pub(super) struct Page<'a> {
    size: usize,
    after: Option<&'a str>,
}

impl<'a> TryFrom<&'a ListProxyEndpointsRequest> for Page<'a> {
    type Error = Error;

    fn try_from(request: &'a ListProxyEndpointsRequest) -> Result<Self, Error> {
        let size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE_SIZE_DEFAULT,
            Ok(size) => size.min(PAGE_SIZE_MAX),
            Err(_) => {
                return Err(Error::Invalid {
                    field: "page_size",
                    rule: "0 or more",
                });
            }
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.strip_prefix(TOKEN_PREFIX).ok_or(Error::Invalid {
                field: "page_token",
                rule: "the `next_page_token` of an earlier answer",
            })?),
        };
        Ok(Self { size, after })
    }
}

impl Page<'_> {
    /// Returns this part of the list.
    pub(super) fn of(&self, table: &Table, now: Instant) -> ListProxyEndpointsResponse {
        let mut rest = table
            .by_name()
            .skip_while(|entry| {
                self.after
                    .is_some_and(|after| &*entry.routed.endpoint.name <= after)
            })
            .peekable();
        let leniency = Leniency::of(table, now);
        let endpoints: Vec<_> = rest
            .by_ref()
            .take(self.size)
            .map(|entry| describe(entry, table.policy(), &leniency, now))
            .collect();
        let next_page_token = match (rest.peek(), endpoints.last()) {
            (Some(_), Some(last)) => format!("{TOKEN_PREFIX}{}", last.name),
            _ => String::new(),
        };
        ListProxyEndpointsResponse {
            endpoints,
            next_page_token,
            view: Some(table.view()),
        }
    }
}

/// Returns an endpoint as selection sees it.
pub(super) fn describe(
    entry: &Entry,
    policy: &Policy,
    leniency: &Leniency,
    now: Instant,
) -> ProxyEndpoint {
    let (routed, live) = (&entry.routed, &entry.live);
    let (state, cause) = match routed.health {
        Health::Unknown => (HealthState::Unknown, Cause::Unspecified),
        Health::Healthy => (HealthState::Healthy, Cause::Unspecified),
        Health::Degraded { cause, .. } => (HealthState::Degraded, cause),
        Health::Unhealthy { cause } => (HealthState::Unhealthy, cause),
    };
    let refusal = entry.selectable(policy, now).err();
    ProxyEndpoint {
        name: routed.endpoint.name.to_string(),
        base_url: routed.endpoint.base_url.to_string(),
        generation: routed.endpoint.generation,
        admin_state: routed.admin.into(),
        state: state.into(),
        cause: cause.into(),
        local_mark: local_mark(entry, now),
        selectable: refusal.is_none(),
        reason: refusal
            .map(|reason| match leniency.words(&routed.endpoint.name) {
                Some(words) => format!("{reason}; {words}"),
                None => reason.to_string(),
            })
            .unwrap_or_default(),
        in_flight: live.in_flight(),
        unproven: !live.proven(),
        attempts: live.totals().attempts.load(Ordering::Relaxed),
        successes: live.totals().successes.load(Ordering::Relaxed),
        priority: Some(routed.priority),
        weight: Some(routed.weight),
    }
}

fn local_mark(entry: &Entry, now: Instant) -> Option<LocalMark> {
    let mark = entry.live.mark();
    let failures = mark.failures.saturating_sub(entry.routed.failures);
    let is_paused = matches!(mark.block, Block::Paused { until, .. } if until > now);
    let (cause, until) = match mark.block {
        Block::Clear | Block::Paused { .. } if failures == 0 && !is_paused => return None,
        Block::Clear => (Cause::Unspecified, Some(now)),
        Block::Paused {
            cause,
            until,
            trial,
        } => (cause, Some(until.min(trial))),
        Block::Suspended { cause, until, .. } => (cause, Some(until)),
        Block::Rejected => (Cause::Auth, None),
    };
    Some(LocalMark {
        cause: cause.into(),
        remaining: until.map(|until| duration::to_proto(until.saturating_duration_since(now))),
        failures,
    })
}
