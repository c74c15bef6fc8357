//! What readers see, and what proxies are told.

use std::sync::Arc;

use qcc_control::registry::{
    AdminState, Endpoint, Health, Policy, ProxyKey, ReturnPolicy, Snapshot, Strategy,
};
use qcc_dataplane::simulation::{Rules, Seen};
use qcc_proto::v1;

use super::{Judge, Violation, rules};
use crate::{position::Position, proxy::shown};

impl Judge {
    /// Returns the rules of a view.
    pub(crate) fn rules(&self, view: Position) -> Policy {
        let truth = self.history.get(&view);
        truth.map(|truth| rules(truth).clone()).unwrap_or_default()
    }

    /// Judges what readers see now.
    pub(super) fn publish(&mut self, seen: &Arc<Snapshot>) -> Result<(), Violation> {
        let now = Position::of(seen);
        if let Some((newest, _)) = self.history.last_key_value()
            && (now < *newest
                || (now.registry == newest.registry && now.view.revision < newest.view.revision))
        {
            return Err(Violation::new(
                "I-8 neither term nor revision ever falls",
                format!("{now} after {newest}"),
            ));
        }
        if let Some(before) = self.history.get(&now) {
            let same = before.endpoints.len() == seen.endpoints.len()
                && rules(before) == rules(seen)
                && before.endpoints.iter().all(|(name, one)| {
                    let other = seen.endpoints.get(name);
                    other.is_some_and(|other| Arc::ptr_eq(one, other) || acts_like(one, other))
                });
            if !same {
                return Err(Violation::new(
                    "R-2 a view is one state",
                    format!("{now} was published with two"),
                ));
            }
        }
        for (name, endpoint) in &seen.endpoints {
            let key = key_of(endpoint);
            let born = (name.clone(), key);
            let generation = endpoint.generation.0;
            let known = self.generations.entry(generation);
            let known = known.or_insert_with(|| born.clone());
            if *known != born {
                return Err(Violation::new(
                    "R-3 a generation is one life of one endpoint",
                    format!("{generation} was of {}, now of {name}", known.0),
                ));
            }
        }
        self.history.insert(now, seen.clone());
        Ok(())
    }

    /// Judges what a proxy has after an update.
    pub(crate) fn applied(
        &mut self,
        proxy: &ProxyKey,
        before: Option<Position>,
        view: Position,
        seen: &[Seen],
        theirs: Option<Rules>,
    ) -> Result<(), Violation> {
        let proxy_id = proxy.id.as_str();
        if before.is_some_and(|before| view < before) {
            return Err(Violation::new(
                "I-10 a proxy's view never goes back",
                format!("{proxy_id} goes from {} to {view}", shown(before)),
            ));
        }
        let Some(truth) = self.history.get(&view) else {
            return Err(Violation::new(
                "I-14 a proxy holds what was published",
                format!("{proxy_id} is at {view}, which never was"),
            ));
        };
        let ours = rules(truth);
        if theirs.as_ref() != Some(&as_told(ours)) {
            return Err(Violation::new(
                "I-17 a snapshot and its deltas are the later snapshot",
                format!("{proxy_id} at {view} has the rules {theirs:?}, not {ours:?}"),
            ));
        }
        let limits_seen = |seen: &Seen| (summary_of_seen(seen), seen.failures_max, seen.timeout);
        let limits = |endpoint: &Endpoint| {
            let failures_max = endpoint.spec.max_failures.unwrap_or(ours.max_failures);
            let timeout = endpoint.spec.timeout.unwrap_or(ours.timeouts.first_byte);
            (summary(endpoint), failures_max, timeout)
        };
        let theirs: Vec<_> = seen.iter().map(limits_seen).collect();
        let ours: Vec<_> = truth.endpoints.values().map(|e| limits(e)).collect();
        if theirs != ours {
            let differing = theirs.iter().zip(&ours).find(|(one, two)| one != two);
            return Err(Violation::new(
                "I-17 a snapshot and its deltas are the later snapshot",
                format!(
                    "{proxy_id} at {view} differs: {differing:?} of {} and {}",
                    theirs.len(),
                    ours.len()
                ),
            ));
        }
        let was = before.filter(|before| before.registry == view.registry);
        let was = was.and_then(|before| self.history.get(&before));
        self.chosen
            .are_told(proxy, view, truth, was.map(|was| &**was));
        Ok(())
    }
}

/// Returns a cluster's rules as its data planes are told them.
fn as_told(rules: &Policy) -> Rules {
    let (timeouts, cool_downs) = (&rules.timeouts, &rules.cool_downs);
    Rules {
        attempts_max: rules.attempts_max,
        unproven_concurrency: rules.unproven_concurrency,
        timeouts: [timeouts.connect, timeouts.idle, timeouts.total],
        cool_downs: [
            cool_downs.overloaded,
            cool_downs.rate_limited,
            cool_downs.max,
        ],
        queue_timeout: rules.queue_timeout,
        strategy: match rules.strategy {
            Strategy::Priority => v1::Strategy::Priority,
            Strategy::Weighted => v1::Strategy::Weighted,
            Strategy::RoundRobin => v1::Strategy::RoundRobin,
            Strategy::Random => v1::Strategy::Random,
            Strategy::LeastInflight => v1::Strategy::LeastInflight,
            Strategy::PeakEwma => v1::Strategy::PeakEwma,
        },
        sessions_stay: rules.affinity.return_policy == ReturnPolicy::Stay,
        slow_start: rules.slow_start,
    }
}

/// What a proxy acts on, in words that both sides have.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    name: String,
    generation: u64,
    admin: v1::AdminState,
    state: v1::HealthState,
    cause: String,
    /// Whether a pause has an end.
    ends: bool,
    failures: u32,
    proven: bool,
    priority: u32,
    weight: u32,
    url: String,
    key: String,
}

fn summary(endpoint: &Endpoint) -> Summary {
    let admin = match endpoint.spec.admin_state {
        AdminState::Enabled => v1::AdminState::Enabled,
        AdminState::Draining => v1::AdminState::Draining,
        AdminState::Disabled => v1::AdminState::Disabled,
    };
    let state = match endpoint.health {
        Health::Unknown { .. } => v1::HealthState::Unknown,
        Health::Healthy { .. } => v1::HealthState::Healthy,
        Health::Degraded { .. } => v1::HealthState::Degraded,
        Health::Unhealthy(_) => v1::HealthState::Unhealthy,
    };
    let cause = endpoint.health.cause().map(|cause| cause.to_string());
    Summary {
        name: endpoint.spec.name.to_string(),
        generation: endpoint.generation.0,
        admin,
        state,
        cause: cause.unwrap_or_default(),
        ends: matches!(endpoint.health, Health::Degraded { .. }),
        failures: endpoint.health.failures(),
        proven: endpoint.proven,
        priority: endpoint.spec.priority,
        weight: endpoint.spec.weight,
        url: endpoint.spec.base_url.trim_end_matches('/').to_owned(),
        key: key_of(endpoint),
    }
}

fn summary_of_seen(seen: &Seen) -> Summary {
    let cause = seen.cause.map(|cause| cause.as_str_name().to_lowercase());
    let cause = cause.unwrap_or_default();
    Summary {
        name: seen.name.clone(),
        generation: seen.generation,
        admin: seen.admin,
        state: seen.state,
        cause: cause.trim_start_matches("cause_").to_owned(),
        ends: seen.until.is_some(),
        failures: seen.failures,
        proven: seen.proven,
        priority: seen.priority,
        weight: seen.weight,
        url: seen.url.trim_end_matches('/').to_owned(),
        key: seen.key.clone(),
    }
}

/// Returns whether two states of an endpoint are the same to a proxy.
pub(super) fn acts_like(one: &Endpoint, other: &Endpoint) -> bool {
    summary(one) == summary(other) && one.health.acts_like(&other.health) && one.spec == other.spec
}

pub(super) fn key_of(endpoint: &Endpoint) -> String {
    let key = endpoint.spec.api_key.as_ref();
    key.map_or("", |key| key.expose()).to_owned()
}
