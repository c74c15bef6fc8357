//! What operators do to clusters.

use std::sync::Arc;

use super::super::{Cluster, ClusterName, EndpointName, Error, Policy, Registry, endpoint::Turn};
use crate::seeded::{Bug, seeded};

/// Clusters that a registry holds at most.
const CLUSTERS_MAX: usize = 1_000;

impl Registry {
    pub(in crate::registry) fn create_cluster(
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

    pub(in crate::registry) fn insert_cluster(
        &mut self,
        name: ClusterName,
        policy: Policy,
        turn: Turn,
    ) {
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
    pub(in crate::registry) fn replace_policy(
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

    pub(in crate::registry) fn delete_cluster(&mut self, name: &ClusterName) -> Result<(), Error> {
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
