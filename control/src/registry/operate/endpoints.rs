//! What operators do to endpoints, and to their keys.

use std::sync::Arc;

use super::super::{
    Effect, Endpoint, EndpointName, Error, EventKind, Health, KeyChange, Registry,
    endpoint::{AdminState, Spec, Turn},
};

/// Endpoints that a registry holds at most.
const ENDPOINTS_MAX: usize = 20_000;

impl Registry {
    pub(in crate::registry) fn create_endpoint(
        &mut self,
        spec: Spec,
        turn: Turn,
    ) -> Result<(), Error> {
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

    pub(super) fn update_endpoint(
        &mut self,
        spec: Spec,
        key: KeyChange,
        turn: Turn,
    ) -> Result<(), Error> {
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
    pub(in crate::registry) fn replace_spec(
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

    pub(in crate::registry) fn delete_endpoint(&mut self, name: &EndpointName) {
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
}
