//! Who gets a request among endpoints that are equally good, by the cluster's strategy
//! and by the request's session.

use std::collections::{BTreeMap, BTreeSet};

use qcc_control::registry::{
    AdminState, Endpoint, Health, Policy, ProxyKey, ReturnPolicy, Strategy,
};
use qcc_dataplane::simulation::Seen;

use super::{Choice, Judge, Violation, rules};
use crate::position::Position;

/// Endpoints by name, with their weights.
type Weights = BTreeMap<String, u32>;

/// Where requests went.
#[derive(Debug, Default)]
pub(super) struct Equals {
    /// Where each session belongs, by those that it could choose among.
    homes: BTreeMap<u64, Vec<(Weights, String)>>,
    /// Where each session went last through a run of a proxy, where they stay.
    last: BTreeMap<(ProxyKey, u64), String>,
    /// Whose turn it was last, and among whom, by run of a proxy.
    turns: BTreeMap<ProxyKey, (Position, Weights, String)>,
}

impl Equals {
    /// Whether the session stays there, for whom others may be better.
    pub(super) fn stays(&self, proxy: &ProxyKey, choice: &Choice<'_>, rules: &Policy) -> bool {
        let session = choice.session.filter(|_| stay(rules));
        let last = session.and_then(|session| self.last.get(&(proxy.clone(), session)));
        last == Some(&choice.chosen.0)
    }

    /// Notes that a run of a proxy has looked for an endpoint, whoever it was for.
    pub(super) fn looked(&mut self, proxy: &ProxyKey) {
        self.turns.remove(proxy);
    }
}

impl Judge {
    /// Judges that the one that a request got was due, by the proxy's own account of a
    /// moment before.
    pub(super) fn is_due(
        &mut self,
        proxy: &ProxyKey,
        choice: &Choice<'_>,
        seen: &[Seen],
    ) -> Result<(), Violation> {
        let before = self.equals.turns.remove(proxy);
        let Some(truth) = self.history.get(&choice.pinned) else {
            return Ok(());
        };
        let rules = rules(truth);
        let session = choice.session.filter(|_| rules.affinity.enabled);
        let here = session.map(|session| (proxy.clone(), session));
        let last = here.as_ref().and_then(|here| self.equals.last.get(here));
        let last = last.cloned();
        let (name, _) = choice.chosen;
        if let Some(here) = here.filter(|_| stay(rules)) {
            self.equals.last.insert(here, name.clone());
        }
        // Of those that are new a part of the requests goes elsewhere.
        if !choice.tried.is_empty() || !rules.slow_start.is_zero() {
            return Ok(());
        }
        let is_flat = rules.strategy == Strategy::Weighted;
        let open = truth.endpoints.values().filter(|it| is_open(it));
        let ranks: Vec<_> = open.map(|it| (rank(it, is_flat), it)).collect();
        let free: BTreeSet<&str> = (seen.iter())
            .filter(|seen| seen.reason.is_empty())
            .map(|seen| &*seen.name)
            .collect();
        let is_free = |it: &Endpoint| free.contains(&*it.spec.name.to_string());
        let best = ranks.iter().filter(|(_, it)| is_free(it)).map(|it| it.0);
        let Some(best) = best.min() else {
            return Ok(());
        };
        let weights = |which: &dyn Fn(&Endpoint) -> bool| -> Weights {
            let of_rank = ranks.iter().filter(|(rank, it)| *rank == best && which(it));
            of_rank
                .map(|(_, it)| (it.spec.name.to_string(), it.spec.weight))
                .collect()
        };
        let tier = weights(&|it| is_free(it));
        let is_whole = tier == weights(&|_| true) && ranks.iter().all(|(rank, _)| *rank >= best);
        let Some(session) = session else {
            if rules.strategy == Strategy::RoundRobin && is_whole && tier.len() > 1 {
                let turn = (choice.pinned, tier, name.clone());
                if before.as_ref() == Some(&turn) {
                    return Err(Violation::new(
                        "turns: each of the equals has its turn",
                        format!("{} chooses `{name}` again, of {:?}", proxy.id, turn.1),
                    ));
                }
                self.equals.turns.insert(proxy.clone(), turn);
            }
            return Ok(());
        };
        if stay(rules)
            && let Some(last) = last.filter(|last| free.contains(&**last))
        {
            if last == *name {
                return Ok(());
            }
            return Err(Violation::new(
                "A-2 a session stays where it went last",
                format!("{} sends {session} to `{name}`, not to `{last}`", proxy.id),
            ));
        }
        let homes = self.equals.homes.entry(session).or_default();
        let contradicts = |(others, home): &&(Weights, String)| {
            let is_part = |part: &Weights, whole: &Weights| {
                part.iter()
                    .all(|(name, weight)| whole.get(name) == Some(weight))
            };
            home != name
                && ((is_part(&tier, others) && tier.contains_key(home))
                    || (is_part(others, &tier) && others.contains_key(name)))
        };
        if let Some((others, home)) = homes.iter().find(contradicts) {
            return Err(Violation::new(
                "A-1 a session goes where it belongs, whoever sends it",
                format!(
                    "{} sends {session} to `{name}` of {tier:?}; of {others:?} it was `{home}`",
                    proxy.id
                ),
            ));
        }
        if !homes.iter().any(|(others, _)| *others == tier) {
            homes.push((tier, name.clone()));
        }
        Ok(())
    }

    /// Judges that an endpoint's count of what is under way is right. `holding`: requests
    /// hold evidence, and with it their places.
    pub(crate) fn is_counted(
        &self,
        proxy: &ProxyKey,
        seen: &Seen,
        under_way: usize,
        holding: bool,
    ) -> Result<(), Violation> {
        let counted = seen.in_flight as usize;
        if counted < under_way || (counted > under_way && !holding) {
            return Err(Violation::new(
                "balance: what is under way is counted, and nothing else",
                format!(
                    "{} counts {counted} at `{}`, where {under_way} are under way",
                    proxy.id, seen.name
                ),
            ));
        }
        Ok(())
    }
}

fn stay(rules: &Policy) -> bool {
    rules.affinity.enabled && rules.affinity.return_policy == ReturnPolicy::Stay
}

/// Whether the view lets an endpoint through, now or once its pause is over.
fn is_open(endpoint: &Endpoint) -> bool {
    endpoint.spec.admin_state == AdminState::Enabled && endpoint.health.incident().is_none()
}

/// Returns where an endpoint stands among those that may be tried: the lower the better.
pub(super) fn rank(endpoint: &Endpoint, is_flat: bool) -> (u32, u8) {
    let health = match endpoint.health {
        Health::Healthy { .. } => 0,
        Health::Unknown { .. } => 1,
        Health::Degraded { .. } => 2,
        Health::Unhealthy(_) => 3,
    };
    let priority = if is_flat { 0 } else { endpoint.spec.priority };
    (priority, health)
}
