//! What proxies are told, and whom they choose.

use std::{collections::BTreeSet, sync::Arc};

use qcc_control::registry::{AdminState, Endpoint, Health, ProxyKey, Snapshot, View};
use qcc_dataplane::simulation::Seen;
use qcc_proto::v1;

use super::{Judge, Violation};

/// What proxies have seen of endpoints.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Endpoints and generations that have answered 401, by run of a proxy.
    rejected: BTreeSet<(ProxyKey, String, u64)>,
    /// Endpoints and generations that have asked a run of a proxy for a pause, which the
    /// fleet has not lifted since.
    paused: BTreeSet<(ProxyKey, String, u64)>,
    /// Endpoints and generations that have answered a run of a proxy well.
    proven: BTreeSet<(ProxyKey, String, u64)>,
}

/// Attempts at a time at an endpoint that has not yet answered well.
const UNPROVEN_MAX: usize = 4;

impl Chosen {
    pub(super) fn rejected(&mut self, proxy: &ProxyKey, endpoint: &str, generation: u64) {
        self.rejected
            .insert((proxy.clone(), endpoint.to_owned(), generation));
    }

    pub(super) fn asked_to_wait(&mut self, proxy: &ProxyKey, endpoint: &str, generation: u64) {
        self.paused
            .insert((proxy.clone(), endpoint.to_owned(), generation));
    }

    fn is_proven(&self, known: &(ProxyKey, String, u64)) -> bool {
        self.proven.contains(known)
    }

    /// Returns whether a run of a proxy may stay away for as long as it was asked to.
    pub(super) fn may_wait(&self, proxy: &ProxyKey, endpoint: &str, generation: u64) -> bool {
        self.paused
            .contains(&(proxy.clone(), endpoint.to_owned(), generation))
    }
}

impl Judge {
    /// Judges what readers see now.
    pub(super) fn publish(&mut self, seen: &Arc<Snapshot>) -> Result<(), Violation> {
        if let Some((newest, _)) = self.history.last_key_value()
            && (seen.view < *newest || seen.view.revision < newest.revision)
        {
            return Err(Violation::new(
                "I-8 neither term nor revision ever falls",
                format!("{} after {newest}", seen.view),
            ));
        }
        if let Some(before) = self.history.get(&seen.view) {
            let same = before.endpoints.len() == seen.endpoints.len()
                && before.endpoints.iter().all(|(name, one)| {
                    let other = seen.endpoints.get(name);
                    other.is_some_and(|other| Arc::ptr_eq(one, other) || acts_like(one, other))
                });
            if !same {
                return Err(Violation::new(
                    "R-2 a view is one state",
                    format!("{} was published with two", seen.view),
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
        self.history.insert(seen.view, seen.clone());
        Ok(())
    }

    /// Judges what a proxy has after an update.
    pub(crate) fn applied(
        &mut self,
        proxy: &ProxyKey,
        before: Option<v1::View>,
        view: Option<v1::View>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        let Some(view) = view else { return Ok(()) };
        let proxy_id = proxy.id.as_str();
        if before.is_some_and(|before| view < before) {
            return Err(Violation::new(
                "I-10 a proxy's view never goes back",
                format!("{proxy_id} goes from {before:?} to {view}"),
            ));
        }
        let Some(truth) = self.history.get(&of_wire(view)) else {
            return Err(Violation::new(
                "I-14 a proxy holds what was published",
                format!("{proxy_id} is at {view}, which never was"),
            ));
        };
        let theirs: Vec<_> = seen.iter().map(summary_of_seen).collect();
        let ours: Vec<_> = truth.endpoints.values().map(|e| summary(e)).collect();
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
        let was = before.and_then(|before| self.history.get(&of_wire(before)));
        for (name, is) in &truth.endpoints {
            if is.proven {
                let known = (proxy.clone(), name.to_string(), is.generation.0);
                self.chosen.proven.insert(known);
            }
            let was = was.and_then(|was| was.endpoints.get(name));
            let paused = was.is_some_and(|was| matches!(was.health, Health::Degraded { .. }));
            if paused && matches!(is.health, Health::Healthy { .. }) {
                let lifted = (proxy.clone(), name.to_string(), is.generation.0);
                self.chosen.paused.remove(&lifted);
            }
        }
        Ok(())
    }

    /// Notes that an endpoint has answered a run of a proxy well.
    pub(crate) fn answered_well(&mut self, proxy: &ProxyKey, endpoint: &str, generation: u64) {
        let known = (proxy.clone(), endpoint.to_owned(), generation);
        self.chosen.proven.insert(known);
    }

    /// Judges a choice.
    pub(crate) fn chosen(
        &mut self,
        proxy: &ProxyKey,
        (name, generation): &(String, u64),
        key: &str,
        view: Option<v1::View>,
        again: bool,
        in_flight: usize,
    ) -> Result<(), Violation> {
        let known = (proxy.clone(), name.clone(), *generation);
        if self.chosen.rejected.contains(&known) {
            return Err(Violation::new(
                "R-10 a proxy that has seen a 401 stays away",
                format!(
                    "{} chooses `{name}` in generation {generation} again",
                    proxy.id
                ),
            ));
        }
        if again {
            return Err(Violation::new(
                "D-1 a request tries an endpoint once",
                format!("{} chooses `{name}` a second time", proxy.id),
            ));
        }
        let truth = view.and_then(|view| self.history.get(&of_wire(view)));
        let Some(endpoint) = truth.and_then(|truth| truth.endpoints.get(name.as_str())) else {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!("{} chooses `{name}`, which is not there", proxy.id),
            ));
        };
        let lets_through = endpoint.spec.admin_state == AdminState::Enabled
            && endpoint.health.incident().is_none()
            && endpoint.generation.0 == *generation;
        if !lets_through {
            return Err(Violation::new(
                "R-11 a proxy chooses what its view lets through",
                format!(
                    "{} chooses `{name}` in generation {generation}; the view says {:?}, {:?}, generation {}",
                    proxy.id, endpoint.spec.admin_state, endpoint.health, endpoint.generation.0
                ),
            ));
        }
        let is_proven = endpoint.proven || self.chosen.is_proven(&known);
        if !is_proven && in_flight >= UNPROVEN_MAX {
            return Err(Violation::new(
                "unproven: few find out about an endpoint that nobody has proven",
                format!(
                    "{} has {in_flight} at `{name}` and begins one more",
                    proxy.id
                ),
            ));
        }
        if key_of(endpoint) != key {
            return Err(Violation::new(
                "S-3 a key goes to its endpoint",
                format!("{} sends another key to `{name}`", proxy.id),
            ));
        }
        Ok(())
    }
}

/// What a proxy acts on, in words that both sides have.
type Summary = (
    String,
    u64,
    v1::AdminState,
    v1::HealthState,
    u32,
    bool,
    String,
);

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
    (
        endpoint.spec.name.to_string(),
        endpoint.generation.0,
        admin,
        state,
        endpoint.health.failures(),
        endpoint.proven,
        key_of(endpoint),
    )
}

fn summary_of_seen(seen: &Seen) -> Summary {
    (
        seen.name.clone(),
        seen.generation,
        seen.admin,
        seen.state,
        seen.failures,
        seen.proven,
        seen.key.clone(),
    )
}

/// Returns whether two states of an endpoint are the same to a proxy.
pub(super) fn acts_like(one: &Endpoint, other: &Endpoint) -> bool {
    summary(one) == summary(other) && one.health.acts_like(&other.health) && one.spec == other.spec
}

fn key_of(endpoint: &Endpoint) -> String {
    let key = endpoint.spec.api_key.as_ref();
    key.map_or("", |key| key.expose()).to_owned()
}

pub(super) fn of_wire(view: v1::View) -> View {
    View {
        term: view.term,
        revision: view.revision,
    }
}
