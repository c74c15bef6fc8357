//! Bringing about a declared set of resources, all of it or nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    ClusterName, EndpointName, Error, KeyChange, Policy, Registry,
    endpoint::{AdminState, Spec, Turn},
};

/// A declared set of resources.
#[derive(Debug, Clone, Default)]
pub struct Declaration {
    /// Clusters and their rules.
    pub clusters: Vec<(ClusterName, Policy)>,
    /// Endpoints.
    pub endpoints: Vec<DeclaredEndpoint>,
    /// Delete what is not declared.
    pub prune: bool,
}

/// A declared endpoint. What belongs to the operator, or is not written down
/// everywhere, may be left as it is.
#[derive(Debug, Clone)]
pub struct DeclaredEndpoint {
    /// Its configuration, except for the two things below.
    pub spec: Spec,
    /// Its key.
    pub key: KeyChange,
    /// Whether it takes part; `None` leaves that alone.
    pub admin_state: Option<AdminState>,
}

/// What happened to one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The resource.
    pub resource: Resource,
    /// What was done.
    pub action: Action,
    /// Fields that differ, if it was updated.
    pub fields: Vec<String>,
}

/// A resource by name. Ordered as changes are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A cluster.
    Cluster(ClusterName),
    /// An endpoint.
    Endpoint(EndpointName),
}

/// What was done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was as declared.
    Unchanged,
    /// It was created.
    Created,
    /// It was changed.
    Updated,
    /// It was deleted.
    Deleted,
}

impl Registry {
    /// Makes the changes one by one: call it on a copy. An endpoint that is declared
    /// twice takes its last form.
    pub(super) fn declare(
        &mut self,
        declaration: Declaration,
        turn: Turn,
    ) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        let mut record = |resource, action, fields: &[&str]| {
            let fields = fields.iter().map(|field| (*field).into()).collect();
            changes.push(Change {
                resource,
                action,
                fields,
            });
        };
        let clusters: BTreeSet<_> = declaration
            .clusters
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        let endpoints: BTreeSet<_> = declaration
            .endpoints
            .iter()
            .map(|e| e.spec.name.clone())
            .collect();

        for (name, policy) in declaration.clusters {
            let resource = Resource::Cluster(name.clone());
            if !self.clusters.contains_key(&name) {
                self.create_cluster(name, policy, turn)?;
                record(resource, Action::Created, &[]);
            } else if self.replace_policy(&name, policy, turn) {
                record(resource, Action::Updated, &["policy"]);
            } else {
                record(resource, Action::Unchanged, &[]);
            }
        }
        for DeclaredEndpoint {
            mut spec,
            key,
            admin_state,
        } in declaration.endpoints
        {
            let resource = Resource::Endpoint(spec.name.clone());
            if let Some(present) = self.endpoint(&spec.name) {
                spec.admin_state = admin_state.unwrap_or(present.spec.admin_state);
                let fields = self.replace_spec(spec, key, turn)?;
                let action = if fields.is_empty() {
                    Action::Unchanged
                } else {
                    Action::Updated
                };
                record(resource, action, &fields);
            } else {
                spec.admin_state = admin_state.unwrap_or(AdminState::Enabled);
                spec.api_key = match key {
                    KeyChange::Keep => None,
                    KeyChange::Set(key) => key,
                    KeyChange::Stage { key, .. } => Some(key),
                };
                self.create_endpoint(spec, turn)?;
                record(resource, Action::Created, &[]);
            }
        }
        if declaration.prune {
            let undeclared: Vec<_> = self
                .endpoints
                .keys()
                .filter(|name| !endpoints.contains(*name))
                .cloned()
                .collect();
            for name in undeclared {
                self.delete_endpoint(&name);
                record(Resource::Endpoint(name), Action::Deleted, &[]);
            }
            let undeclared: Vec<_> = self
                .clusters
                .keys()
                .filter(|name| !clusters.contains(*name))
                .filter(|name| **name != ClusterName::default_cluster())
                .cloned()
                .collect();
            for name in undeclared {
                self.delete_cluster(&name)?;
                record(Resource::Cluster(name), Action::Deleted, &[]);
            }
        }
        changes.sort_by(|one, two| one.resource.cmp(&two.resource));
        Ok(changes)
    }
}
