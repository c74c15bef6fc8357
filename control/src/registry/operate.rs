//! What an operator may do.

use std::{sync::Arc, time::Duration};

use super::{
    Answer, Cause, CheckKind, Cluster, ClusterName, Effect, Endpoint, EndpointName, Error,
    EventKind, Evidence, Facts, Health, Incident, KeyChange, Moment, Mutation, Operator,
    OutcomeClass, Policy, Registry, Request, Witness,
    endpoint::{AdminState, Spec, Turn},
    requests::Known,
};
use crate::seeded::{Bug, seeded};

/// Endpoints that a registry holds at most.
pub(super) const ENDPOINTS_MAX: usize = 20_000;

/// Clusters that a registry holds at most.
pub(super) const CLUSTERS_MAX: usize = 1_000;

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

    pub(super) fn create_cluster(
        &mut self,
        name: ClusterName,
        policy: Policy,
        turn: Turn,
    ) -> Result<(), Error> {
        if self.clusters.contains_key(&name) {
            return Err(Error::ClusterExists(name));
        }
        if self.clusters.len() >= CLUSTERS_MAX {
            return Err(Error::TooMany {
                what: "clusters",
                limit: CLUSTERS_MAX,
            });
        }
        self.insert_cluster(name, policy, turn);
        Ok(())
    }

    pub(super) fn insert_cluster(&mut self, name: ClusterName, policy: Policy, turn: Turn) {
        let cluster = Cluster {
            policy,
            configured: turn.view,
            created: turn.now,
            updated: turn.now,
        };
        self.clusters.insert(name.clone(), Arc::new(cluster));
        self.cluster_changed(name);
    }

    /// Replaces a cluster's rules. Returns whether they differ.
    pub(super) fn replace_policy(
        &mut self,
        name: &ClusterName,
        policy: Policy,
        turn: Turn,
    ) -> bool {
        let Some(cluster) = self.clusters.get_mut(name) else {
            return false;
        };
        if cluster.policy == policy {
            return false;
        }
        let before = &cluster.policy;
        let asks_anew = before.api != policy.api
            || before.credential_scheme != policy.credential_scheme
            || before.check != policy.check;
        let cluster = Arc::make_mut(cluster);
        cluster.policy = policy;
        cluster.configured = turn.view;
        cluster.updated = turn.now;
        self.cluster_changed(name.clone());
        // What proxies are told of an endpoint has its cluster's values filled in.
        for member in self.members(name) {
            self.touch(&member, turn, |endpoint, policy, turn| {
                if !seeded(Bug::MembersUntold) {
                    endpoint.changed = turn.view;
                }
                if asks_anew {
                    endpoint.ask_anew(policy, turn.now.clock);
                } else {
                    endpoint.replan_check(policy, turn.now.clock);
                }
            });
        }
        true
    }

    pub(super) fn delete_cluster(&mut self, name: &ClusterName) -> Result<(), Error> {
        if *name == ClusterName::default_cluster() {
            return Err(Error::DefaultCluster);
        }
        if !self.members(name).is_empty() {
            return Err(Error::ClusterInUse(name.clone()));
        }
        self.clusters.remove(name);
        self.cluster_changed(name.clone());
        Ok(())
    }

    pub(super) fn create_endpoint(&mut self, spec: Spec, turn: Turn) -> Result<(), Error> {
        let name = spec.name.clone();
        if self.endpoints.contains_key(&name) {
            return Err(Error::EndpointExists(name));
        }
        if !self.clusters.contains_key(&spec.cluster) {
            return Err(Error::UnknownCluster(spec.cluster));
        }
        if self.endpoints.len() >= ENDPOINTS_MAX {
            return Err(Error::TooMany {
                what: "endpoints",
                limit: ENDPOINTS_MAX,
            });
        }
        let generation = self.draw_generation();
        self.endpoints.insert(
            name.clone(),
            Arc::new(Endpoint::new(spec, generation, turn)),
        );
        self.alter(&name, turn, |endpoint, policy, turn| {
            endpoint.plan_check(policy, turn.now.clock);
        });
        Ok(())
    }

    fn update_endpoint(&mut self, spec: Spec, key: KeyChange, turn: Turn) -> Result<(), Error> {
        let name = spec.name.clone();
        let was = self.known(&name)?.health.state();
        let fields = self.replace_spec(spec, key, turn)?;
        if !fields.is_empty() {
            let act = EventKind::EndpointUpdated;
            self.log_endpoint_act(act, &name, Some(was), &fields, turn);
        }
        Ok(())
    }

    /// Replaces an endpoint's configuration. Returns the names of the fields that
    /// differ. Another key or base URL begins a new generation.
    pub(super) fn replace_spec(
        &mut self,
        mut spec: Spec,
        key: KeyChange,
        turn: Turn,
    ) -> Result<Vec<&'static str>, Error> {
        let name = spec.name.clone();
        let present = self.known(&name)?.spec.clone();
        if spec.cluster != present.cluster {
            return Err(Error::ClusterImmutable(name));
        }
        let endpoint = self.known(&name)?;
        let (mut staged, mut withdrawn) = (None, false);
        spec.api_key = match key {
            // The key that serves: another one that waits is not wanted any more.
            KeyChange::Set(key) if key == present.api_key => {
                withdrawn = endpoint.staged.is_some();
                key
            }
            KeyChange::Stage { key, .. } if present.api_key.as_ref() == Some(&key) => {
                withdrawn = endpoint.staged.is_some();
                Some(key)
            }
            KeyChange::Stage { key, .. } if endpoint.awaits(&key) => present.api_key.clone(),
            KeyChange::Stage { key, overlap } if self.can_stage(&spec, &present) => {
                staged = Some((key, overlap));
                present.api_key.clone()
            }
            KeyChange::Set(key) => key,
            KeyChange::Stage { key, .. } => Some(key),
            KeyChange::Keep if spec.base_url != present.base_url && present.api_key.is_some() => {
                return Err(Error::CredentialNeeded(name));
            }
            KeyChange::Keep => present.api_key.clone(),
        };
        let mut fields = present.differences(&spec);
        let renewed = fields.contains(&"credential") || fields.contains(&"base_url");
        if staged.is_some() || withdrawn && !renewed {
            fields.push("credential");
        }
        if fields.is_empty() {
            return Ok(fields);
        }
        let generation = if renewed {
            Some(self.draw_generation())
        } else {
            None
        };
        self.alter(&name, turn, |endpoint, policy, turn| {
            let asks_anew = fields.contains(&"check") && generation.is_none();
            endpoint.spec = Arc::new(spec);
            endpoint.configured = turn.view;
            endpoint.changed = turn.view;
            endpoint.updated = turn.now;
            if generation.is_some() || withdrawn {
                endpoint.unstage();
            }
            if let Some(generation) = generation {
                endpoint.regenerate(generation, Health::Unknown { failures: 0 }, turn);
            } else if endpoint.spec.admin_state == AdminState::Disabled {
                endpoint.checks.disown();
            }
            if asks_anew {
                endpoint.ask_anew(policy, turn.now.clock);
            } else {
                endpoint.replan_check(policy, turn.now.clock);
            }
            if let Some((key, overlap)) = staged {
                endpoint.stage(key, overlap, policy, turn);
            }
        });
        Ok(fields)
    }

    /// Whether a new key can wait to be proven; if not, it serves at once.
    fn can_stage(&self, spec: &Spec, present: &Spec) -> bool {
        let endpoint = self.endpoints.get(&spec.name);
        let cluster = self.clusters.get(&spec.cluster);
        let known = endpoint.zip(cluster);
        spec.base_url == present.base_url
            && known.is_some_and(|(endpoint, cluster)| endpoint.can_stage(&cluster.policy))
    }

    pub(super) fn delete_endpoint(&mut self, name: &EndpointName) {
        if let Some(endpoint) = self.endpoints.remove(name) {
            if let Some(running) = endpoint.checks.running {
                self.effects.push(Effect::GiveUp(running.id));
            }
            if let Some(due) = endpoint.checks.due {
                self.due.remove(&(due, name.clone()));
            }
            self.dirty.any = true;
            self.dirty.endpoints.insert(name.clone());
            self.publication.endpoints.insert(name.clone());
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

    fn members(&self, cluster: &ClusterName) -> Vec<EndpointName> {
        self.endpoints
            .values()
            .filter(|e| e.spec.cluster == *cluster)
            .map(|e| e.spec.name.clone())
            .collect()
    }

    fn cluster_changed(&mut self, name: ClusterName) {
        self.dirty.any = true;
        self.dirty.clusters.insert(name.clone());
        self.publication.clusters.insert(name);
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

impl Spec {
    /// Returns the names of the fields in which `other` differs, as the contract
    /// spells them.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        [
            ("base_url", self.base_url != other.base_url),
            ("credential", self.api_key != other.api_key),
            ("priority", self.priority != other.priority),
            ("weight", self.weight != other.weight),
            ("max_failures", self.max_failures != other.max_failures),
            ("timeout", self.timeout != other.timeout),
            ("admin_state", self.admin_state != other.admin_state),
            ("check", self.check != other.check),
            ("labels", self.labels != other.labels),
            (
                "allow_plaintext",
                self.allow_plaintext != other.allow_plaintext,
            ),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
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
