//! What has happened, for people who ask why: every transition, and every act of an
//! operator.
//!
//! The log is bounded: the newest events stay. So that a burst cannot push out
//! everything else, occurrences of one kind at one place are *folded*: the first is an
//! event at once, the next ones are counted, and after a while the event is replaced by
//! one that says how many there were ([`log`]).

mod acts;
mod log;
mod transition;

use serde::{Deserialize, Serialize};

use super::{
    AdminState, Cause, ClusterName, EndpointName, Evidence, Generation, Moment, State, View,
};

pub use log::Events;
pub(super) use log::{EventLog, Fold};
pub(super) use transition::{Before, Unlogged};

/// Endpoints that an event names at most.
const ENDPOINTS_NAMED_MAX: usize = 100;

/// Something that happened. Fields are documented on `qcc.v1.Event`.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    #[serde(skip)]
    pub id: u64,
    pub kind: EventKind,
    pub time: Moment,
    pub last: Moment,
    pub view: View,
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<EndpointName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<ClusterName>,
    #[serde(default)]
    pub generation: Generation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<State>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Box<Evidence>>,
    /// Milliseconds since the Unix epoch: to be read, not to be waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_wall_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<Box<Operator>>,
    #[serde(default)]
    pub replaces: u64,
    /// What only events about several endpoints have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Box<Group>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_state: Option<AdminState>,
}

/// The endpoints of an event that is about several.
#[allow(missing_docs)]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Empty if it is not about a provider.
    pub provider: String,
    /// In their order, at most 100.
    pub endpoints: Vec<EndpointName>,
    /// All of them.
    pub endpoint_count: u32,
}

/// Who asked for a change, and why. Nobody has verified the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// At most 64 bytes.
    pub name: String,
    /// At most 200 bytes.
    pub reason: String,
}

/// The kinds of events; see `qcc.v1.EventKind`.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    ControlStarted,
    EndpointEjected,
    EndpointPaused,
    EndpointHealthy,
    EndpointRecovered,
    CauseChanged,
    EndpointStartedAnew,
    EndpointDoubted,
    FailuresSuppressed,
    ReportsStale,
    ProviderBusy,
    CheckRefused,
    NewCredentialRejected,
    EndpointCreated,
    EndpointUpdated,
    EndpointDeleted,
    ClusterCreated,
    ClusterUpdated,
    ClusterDeleted,
}

impl Event {
    /// Returns an event that says no more than that something happened.
    pub(crate) fn new(kind: EventKind, time: Moment, view: View) -> Self {
        Self {
            id: 0,
            kind,
            time,
            last: time,
            view,
            count: 1,
            endpoint: None,
            cluster: None,
            generation: Generation::default(),
            from: None,
            to: None,
            cause: None,
            evidence: None,
            until_wall_ms: None,
            operator: None,
            replaces: 0,
            group: None,
            fields: Vec::new(),
            admin_state: None,
        }
    }

    /// Counts the endpoints of `other`, one of those for which it stands.
    fn take_in(&mut self, other: &Self) {
        let Some(group) = &mut self.group else {
            return;
        };
        let several = other.group.iter().flat_map(|group| &group.endpoints);
        for name in other.endpoint.iter().chain(several) {
            group.add(name);
        }
    }

    /// Whether it is about this endpoint, also as one of several.
    pub fn concerns(&self, name: &EndpointName) -> bool {
        let in_group = |group: &Group| group.endpoints.binary_search(name).is_ok();
        self.endpoint.as_ref() == Some(name) || self.group.as_deref().is_some_and(in_group)
    }
}

impl Group {
    /// Adds an endpoint. One that is not named because there are too many may be
    /// counted again when it comes again.
    pub(super) fn add(&mut self, name: &EndpointName) {
        let Err(at) = self.endpoints.binary_search(name) else {
            return;
        };
        self.endpoint_count += 1;
        if self.endpoints.len() < ENDPOINTS_NAMED_MAX {
            self.endpoints.insert(at, name.clone());
        }
    }
}
