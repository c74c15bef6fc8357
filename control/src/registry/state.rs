//! What the registry consists of, and what a turn hands out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{
    CheckId, CheckOrder, Clock, ClusterName, Endpoint, EndpointName, Event, Health, Moment, Policy,
    ProxyKey, ProxyRecord, Publication, RequestRecord,
};

/// How much of a registry's name an etag has: four random bytes tell those apart that an
/// operator may have read of.
const ETAG_ID_BYTES: usize = 8;

/// One version of the published state. Ordered by term, then revision.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct View {
    /// One life of the control plane.
    pub term: u64,
    /// Counts published changes; never falls.
    pub revision: u64,
}

/// One credential-and-verdict life of an endpoint. Drawn from one counter, so that a
/// name that is deleted and created again never meets its own past.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

/// A named set of interchangeable endpoints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cluster {
    /// Its rules.
    pub policy: Policy,
    /// The view that last changed it.
    pub configured: View,
    /// When it was created.
    pub created: Moment,
    /// When it was last changed.
    pub updated: Moment,
}

/// The failure queue's lifetime counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueTotals {
    /// Incidents that entered.
    pub failed: u64,
    /// Checks of queued endpoints that ended.
    pub verified: u64,
    /// Checks that brought one back.
    pub recovered: u64,
    /// Checks after which it stayed.
    pub still_failed: u64,
}

/// Single numbers that survive a restart.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Meta {
    /// The last published revision.
    pub revision: u64,
    /// The last generation drawn.
    pub generation: Generation,
    /// The registry's clock.
    pub clock: Clock,
    /// The queue's counters.
    pub totals: QueueTotals,
    /// Names this history of views and generations.
    pub registry_id: Arc<str>,
    /// Salt of key fingerprints.
    pub salt: Arc<[u8]>,
}

/// Random values that a new registry is made with.
#[derive(Debug, Clone)]
pub struct Seed {
    /// See [`Meta::registry_id`].
    pub registry_id: Arc<str>,
    /// See [`Meta::salt`].
    pub salt: Vec<u8>,
}

/// Everything that a store keeps, as it was read back.
#[derive(Debug, Clone, Default)]
pub struct Saved {
    /// Single numbers; `None` for a new store.
    pub meta: Option<Meta>,
    /// Clusters.
    pub clusters: BTreeMap<ClusterName, Cluster>,
    /// Endpoints.
    pub endpoints: OrdMap<EndpointName, Arc<Endpoint>>,
    /// Data planes.
    pub proxies: BTreeMap<ProxyKey, ProxyRecord>,
    /// Answered requests.
    pub requests: BTreeMap<Arc<str>, RequestRecord>,
    /// What has happened.
    pub events: BTreeMap<u64, Event>,
}

/// Something to do outside.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Run a check and bring back its verdict.
    Check(Box<CheckOrder>),
    /// Give a check up: its verdict is void.
    GiveUp(CheckId),
    /// An endpoint moved to another state; for the log.
    Moved {
        /// The endpoint.
        endpoint: EndpointName,
        /// Its health now.
        health: Health,
        /// Its generation now.
        generation: Generation,
    },
}

/// What a turn came to.
#[derive(Debug, Default)]
pub struct Settlement {
    /// What to store before anything else happens.
    pub dirty: Dirty,
    /// What to do afterwards.
    pub effects: Vec<Effect>,
    /// Names whose published state differs; `None` if no new view was made, or if it was
    /// revealed already.
    pub publication: Option<Publication>,
}

/// What differs from the store.
#[derive(Debug, Clone, Default)]
pub struct Dirty {
    /// Anything at all, the single numbers included.
    pub any: bool,
    /// Clusters, deleted ones included.
    pub clusters: BTreeSet<ClusterName>,
    /// Endpoints, deleted ones included.
    pub endpoints: BTreeSet<EndpointName>,
    /// Data planes, forgotten ones included.
    pub proxies: BTreeSet<ProxyKey>,
    /// Answered requests, forgotten ones included.
    pub requests: BTreeSet<Arc<str>>,
    /// Events, dropped ones included.
    pub events: BTreeSet<u64>,
}

/// Checks since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckCounts {
    /// Made: each may have cost something.
    pub made: u64,
    /// Due but not made, since the endpoint's budget for the hour was spent.
    pub refused: u64,
}

impl View {
    /// Returns the text that identifies what this view of a registry has changed last.
    /// Another registry counts its views anew, and never meets what was read of this one.
    pub(crate) fn etag(self, registry_id: &str) -> String {
        let id = registry_id.get(..ETAG_ID_BYTES).unwrap_or(registry_id);
        format!("{self}-{id}")
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.revision)
    }
}
