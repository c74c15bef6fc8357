//! What operators ask for, and what it comes to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ApiKey, Change, ClusterName, Declaration, EndpointName, Policy,
    endpoint::{AdminState, Spec},
};

/// A change that an operator asks for.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// Add a cluster.
    CreateCluster {
        /// Its name.
        name: ClusterName,
        /// Its rules.
        policy: Policy,
    },
    /// Replace a cluster's rules.
    UpdateCluster {
        /// Its name.
        name: ClusterName,
        /// Its rules.
        policy: Policy,
        /// Only if this is its etag.
        etag: Option<String>,
    },
    /// Remove an empty cluster.
    DeleteCluster {
        /// Its name.
        name: ClusterName,
        /// Only if this is its etag.
        etag: Option<String>,
        /// A cluster that does not exist is as good as deleted.
        allow_missing: bool,
    },
    /// Add an endpoint.
    CreateEndpoint(Spec),
    /// Replace an endpoint's configuration.
    UpdateEndpoint {
        /// The configuration; its key is not looked at.
        spec: Spec,
        /// What happens to the key.
        key: KeyChange,
        /// Only if this is its etag.
        etag: Option<String>,
    },
    /// Remove an endpoint.
    DeleteEndpoint {
        /// Its name.
        name: EndpointName,
        /// Only if this is its etag.
        etag: Option<String>,
        /// An endpoint that does not exist is as good as deleted.
        allow_missing: bool,
    },
    /// Say whether an endpoint takes part.
    SetAdminState {
        /// Its name.
        name: EndpointName,
        /// The operator's wish.
        state: AdminState,
    },
    /// Call an endpoint unhealthy.
    Eject {
        /// Its name.
        name: EndpointName,
        /// For the people who will ask.
        reason: String,
        /// No check before this has passed.
        hold: Duration,
    },
    /// Forget what is held against an endpoint.
    Restore {
        /// Its name.
        name: EndpointName,
    },
    /// Check an endpoint now.
    Verify {
        /// Its name.
        name: EndpointName,
    },
    /// Check queued endpoints now.
    VerifyFailures {
        /// Their names; empty for all.
        names: Vec<EndpointName>,
    },
    /// Forget one incident.
    RemoveFailure {
        /// The endpoint.
        name: EndpointName,
    },
    /// Forget all incidents.
    ClearFailures {
        /// Of this cluster only.
        cluster: Option<ClusterName>,
    },
    /// Bring about a declared set of resources.
    Apply(Declaration),
}

/// What happens to an endpoint's key.
#[derive(Debug, Clone)]
pub enum KeyChange {
    /// It stays.
    Keep,
    /// It is replaced, or removed.
    Set(Option<ApiKey>),
    /// It is replaced once the new one is proven, or `overlap` has passed.
    Stage {
        /// The new one.
        key: ApiKey,
        /// How long the present one serves at most.
        overlap: Duration,
    },
}

/// What a mutation came to. Resources are named, not shown: whoever answers reads
/// them from the published state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Nothing more to say.
    Done,
    /// This cluster.
    Cluster(ClusterName),
    /// This endpoint.
    Endpoint(EndpointName),
    /// So many.
    Count(u32),
    /// All this.
    Changes(Vec<Change>),
}
