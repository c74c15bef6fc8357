//! What an operator may do.

mod clusters;
mod endpoints;

use std::time::Duration;

use super::{
    Answer, Cause, CheckKind, ClusterName, Endpoint, EndpointName, Error, EventKind, Evidence,
    Facts, Health, Incident, KeyChange, Moment, Mutation, Operator, OutcomeClass, Policy, Registry,
    Request, Witness,
    endpoint::{AdminState, Spec, Turn},
    requests::Known,
};
use crate::seeded::{Bug, seeded};

impl Registry {
    /// Applies a mutation, whole or not at all. A `request` that was answered before
    /// is answered in the same way again.
    ///
    /// # Errors
    ///
    /// Says why it was refused; nothing changed then.
    pub fn mutate(
        &mut self,
        mutation: Mutation,
        request: Option<Request>,
        now: Moment,
    ) -> Result<Answer, Error> {
        self.mutate_as(Operator::default(), mutation, request, now)
    }

    /// Applies a mutation as [`Registry::mutate`] does, and notes who asked for it.
    ///
    /// # Errors
    ///
    /// As [`Registry::mutate`].
    pub fn mutate_as(
        &mut self,
        operator: Operator,
        mutation: Mutation,
        request: Option<Request>,
        now: Moment,
    ) -> Result<Answer, Error> {
        let turn = self.turn(now);
        if let Some(request) = &request {
            match self.requests.look_up(request, turn.now.clock) {
                Known::New => {}
                Known::Answered(answer) => return Ok(answer),
                Known::Reused => return Err(Error::RequestIdReused),
            }
        }
        self.acting = Some(operator);
        let answer = self.apply_mutation(mutation, turn);
        self.acting = None;
        let answer = answer?;
        self.promised = true;
        if let Some(request) = request {
            let changed = self
                .requests
                .remember(request, answer.clone(), turn.now.clock);
            self.dirty.any = true;
            self.dirty.requests.extend(changed);
        }
        Ok(answer)
    }

    /// Returns what `mutation` would come to, and the state after it.
    ///
    /// # Errors
    ///
    /// As [`Registry::mutate`].
    pub fn rehearse(&self, mutation: Mutation, now: Moment) -> Result<(Answer, Self), Error> {
        let mut copy = self.clone();
        let answer = copy.mutate(mutation, None, now)?;
        Ok((answer, copy))
    }

    fn apply_mutation(&mut self, mutation: Mutation, turn: Turn) -> Result<Answer, Error> {
        match mutation {
            Mutation::CreateCluster { name, policy } => {
                self.create_cluster(name.clone(), policy, turn)?;
                self.log_cluster_act(EventKind::ClusterCreated, &name, turn);
                Ok(Answer::Cluster(name))
            }
            Mutation::UpdateCluster { name, policy, etag } => {
                let present = self
                    .clusters
                    .get(&name)
                    .ok_or_else(|| Error::UnknownCluster(name.clone()))?;
                check_etag(etag, || present.configured.etag(&self.meta.registry_id))?;
                if self.replace_policy(&name, policy, turn) {
                    self.log_cluster_act(EventKind::ClusterUpdated, &name, turn);
                }
                Ok(Answer::Cluster(name))
            }
            Mutation::DeleteCluster {
                name,
                etag,
                allow_missing,
            } => {
                let Some(present) = self.clusters.get(&name) else {
                    return missing(allow_missing, Error::UnknownCluster(name));
                };
                check_etag(etag, || present.configured.etag(&self.meta.registry_id))?;
                self.delete_cluster(&name)?;
                self.log_cluster_act(EventKind::ClusterDeleted, &name, turn);
                Ok(Answer::Done)
            }
            Mutation::CreateEndpoint(spec) => {
                let name = spec.name.clone();
                self.create_endpoint(spec, turn)?;
                self.log_endpoint_act(EventKind::EndpointCreated, &name, None, &[], turn);
                Ok(Answer::Endpoint(name))
            }
            Mutation::UpdateEndpoint { spec, key, etag } => {
                let name = spec.name.clone();
                let present = self.known(&name)?;
                check_etag(etag, || present.etag(&self.meta.registry_id))?;
                self.update_endpoint(spec, key, turn)?;
                Ok(Answer::Endpoint(name))
            }
            Mutation::DeleteEndpoint {
                name,
                etag,
                allow_missing,
            } => {
                let Some(present) = self.endpoints.get(&name) else {
                    return missing(allow_missing, Error::UnknownEndpoint(name));
                };
                check_etag(etag, || present.etag(&self.meta.registry_id))?;
                let was = present.health.state();
                let act = EventKind::EndpointDeleted;
                self.log_endpoint_act(act, &name, Some(was), &[], turn);
                self.delete_endpoint(&name);
                Ok(Answer::Done)
            }
            Mutation::SetAdminState { name, state } => {
                let mut spec = Spec::clone(&self.known(&name)?.spec);
                spec.admin_state = state;
                self.update_endpoint(spec, KeyChange::Keep, turn)?;
                Ok(Answer::Endpoint(name))
            }
            Mutation::Eject { name, reason, hold } => {
                self.known(&name)?;
                self.touch(&name, turn, |endpoint, policy, turn| {
                    endpoint.eject_by_operator(reason, hold, policy, turn);
                });
                Ok(Answer::Endpoint(name))
            }
            Mutation::Restore { name } => {
                self.known(&name)?;
                self.begin_generation(&name, turn);
                Ok(Answer::Endpoint(name))
            }
            Mutation::Verify { name } => {
                let endpoint = self.known(&name)?;
                if endpoint.spec.admin_state == AdminState::Disabled {
                    return Err(Error::Disabled(name));
                }
                let policy = self.clusters.get(&endpoint.spec.cluster).map(|c| &c.policy);
                if policy.is_some_and(|policy| endpoint.check(policy).kind == CheckKind::None) {
                    return Err(Error::NothingToCheck(name));
                }
                self.demand_check(&name, turn);
                Ok(Answer::Endpoint(name))
            }
            Mutation::VerifyFailures { names } => {
                let names = if names.is_empty() {
                    self.queued(None)
                } else {
                    names
                };
                for name in &names {
                    self.known_queued(name)?;
                }
                let started = names
                    .iter()
                    .filter(|name| self.demand_check(name, turn))
                    .count();
                Ok(Answer::Count(started as u32))
            }
            Mutation::RemoveFailure { name } => {
                self.known_queued(&name)?;
                self.begin_generation(&name, turn);
                Ok(Answer::Endpoint(name))
            }
            Mutation::ClearFailures { cluster } => {
                let names = self.queued(cluster.as_ref());
                for name in &names {
                    self.begin_generation(name, turn);
                }
                Ok(Answer::Count(names.len() as u32))
            }
            Mutation::Apply(declaration) => {
                let mut next = self.clone();
                let changes = next.declare(declaration, turn)?;
                next.log_changes(&changes, self, turn);
                *self = next;
                Ok(Answer::Changes(changes))
            }
        }
    }

    fn demand_check(&mut self, name: &EndpointName, turn: Turn) -> bool {
        self.touch(name, turn, |endpoint, _, turn| {
            let idle = endpoint.checks.running.is_none();
            let able = endpoint.spec.admin_state != AdminState::Disabled;
            if idle && able {
                endpoint.checks.demand(turn.now.clock);
            }
            idle && able
        })
        .unwrap_or(false)
    }

    fn known(&self, name: &EndpointName) -> Result<&Endpoint, Error> {
        self.endpoint(name)
            .ok_or_else(|| Error::UnknownEndpoint(name.clone()))
    }

    fn known_queued(&self, name: &EndpointName) -> Result<(), Error> {
        match self.known(name)?.health.incident() {
            Some(_) => Ok(()),
            None => Err(Error::NotQueued(name.clone())),
        }
    }

    fn queued(&self, cluster: Option<&ClusterName>) -> Vec<EndpointName> {
        self.endpoints
            .values()
            .filter(|e| e.health.incident().is_some())
            .filter(|e| cluster.is_none_or(|cluster| e.spec.cluster == *cluster))
            .map(|e| e.spec.name.clone())
            .collect()
    }
}

impl Endpoint {
    fn eject_by_operator(&mut self, reason: String, hold: Duration, policy: &Policy, turn: Turn) {
        let facts = Facts {
            detail: reason,
            ..Facts::of(OutcomeClass::Cancelled)
        };
        let evidence = Evidence {
            facts: facts.bounded(),
            witness: Witness::Operator,
            view: turn.view,
            generation: self.generation,
            observed: turn.now,
        };
        let health = self.health.clone().eject(Cause::Operator, turn.now);
        let health = match health {
            Health::Unhealthy(incident) => Health::Unhealthy(Incident {
                cause: Cause::Operator,
                ..incident
            }),
            other => other,
        };
        self.set_health(health, Some(&evidence), turn);
        self.checks.contradict();
        self.checks.hold(turn.now.clock.after(hold));
        self.plan_check(policy, turn.now.clock);
    }
}

fn check_etag(expected: Option<String>, current: impl FnOnce() -> String) -> Result<(), Error> {
    match (expected, current()) {
        (Some(expected), current) if expected != current && !seeded(Bug::EtagIgnored) => {
            Err(Error::EtagMismatch { current })
        }
        _ => Ok(()),
    }
}

fn missing(allowed: bool, error: Error) -> Result<Answer, Error> {
    if allowed {
        Ok(Answer::Done)
    } else {
        Err(error)
    }
}
