//! What readers see: a whole, immutable version of the state.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;

use super::{
    CheckCounts, Cluster, ClusterName, Endpoint, EndpointName, Events, Meta, ProxyKey, ProxyRecord,
    QueueTotals, Registry, ReportCounts, RequestRecord, View,
};

/// The state at one view. Making one costs the same for ten endpoints as for ten
/// thousand, since the maps share their nodes with the registry's.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The view.
    pub view: View,
    /// Clusters by name.
    pub clusters: OrdMap<ClusterName, Arc<Cluster>>,
    /// Endpoints by name.
    pub endpoints: OrdMap<EndpointName, Arc<Endpoint>>,
    /// The queue's counters.
    pub totals: QueueTotals,
    /// What became of reports.
    pub report_counts: ReportCounts,
    /// What became of checks that were due.
    pub check_counts: CheckCounts,
    /// Names the history that the view belongs to.
    pub registry_id: Arc<str>,
    /// Salt of key fingerprints.
    pub salt: Arc<[u8]>,
}

/// What differs between a view and the one before.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// Endpoints, deleted ones included.
    pub endpoints: BTreeSet<EndpointName>,
    /// Clusters, deleted ones included.
    pub clusters: BTreeSet<ClusterName>,
}

impl Publication {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.clusters.is_empty()
    }
}

impl Registry {
    /// Returns the state as readers may see it. Call it between turns.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            view: self.view(),
            clusters: self.clusters.clone(),
            endpoints: self.endpoints.clone(),
            totals: self.meta.totals,
            report_counts: self.report_counts,
            check_counts: self.check_counts,
            registry_id: self.meta.registry_id.clone(),
            salt: self.meta.salt.clone(),
        }
    }

    /// Returns the single numbers, to store them.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Returns the event log, the oldest first.
    pub fn events(&self) -> &Events {
        self.events.events()
    }

    /// Returns one cluster, to store it.
    pub fn cluster(&self, name: &ClusterName) -> Option<&Cluster> {
        self.clusters.get(name).map(AsRef::as_ref)
    }

    /// Returns one endpoint, to store it.
    pub fn endpoint(&self, name: &EndpointName) -> Option<&Endpoint> {
        self.endpoints.get(name).map(AsRef::as_ref)
    }

    /// Returns what is remembered of one data plane, to store it.
    pub fn proxy(&self, key: &ProxyKey) -> Option<&ProxyRecord> {
        self.proxies.get(key)
    }

    /// Returns one answered request, to store it.
    pub fn request(&self, id: &str) -> Option<&RequestRecord> {
        self.requests.get(id)
    }
}
