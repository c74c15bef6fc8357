//! One endpoint: what its operator configured, and what is known about it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ApiKey, Check, ClusterName, EndpointName, Evidence, Generation, Health, Moment, View,
    checks::Checks, staged::Staged,
};

/// What an operator configured. Fields are documented on `qcc.v1.Endpoint`.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub name: EndpointName,
    pub cluster: ClusterName,
    pub base_url: String,
    /// Stored apart, sealed.
    #[serde(skip)]
    pub api_key: Option<ApiKey>,
    pub priority: u32,
    pub weight: u32,
    pub max_failures: Option<u32>,
    pub timeout: Option<Duration>,
    pub admin_state: AdminState,
    /// Most endpoints have their cluster's.
    pub check: Option<Box<Check>>,
    pub labels: BTreeMap<String, String>,
    pub allow_plaintext: bool,
}

/// The operator's wish: an axis that no evidence changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// Take part in selection.
    Enabled,
    /// Take no new requests.
    Draining,
    /// Take no requests and run no checks.
    Disabled,
}

/// An endpoint and everything that is known about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Endpoint {
    /// What its operator configured.
    pub spec: Arc<Spec>,
    /// One credential-and-verdict life; older evidence is void.
    pub generation: Generation,
    /// A new key that waits to be proven.
    #[serde(default)]
    pub staged: Option<Staged>,
    /// Observed health.
    pub health: Health,
    /// How that health came to be.
    pub mark: Mark,
    /// Whether a proxied request has succeeded in this generation.
    pub proven: bool,
    /// Local-origin evidence that awaits a second opinion: the newest of each witness.
    #[serde(default)]
    pub doubts: Vec<Evidence>,
    /// Planned and running checks.
    pub checks: Checks,
    /// Lifetime counts.
    pub stats: Stats,
    /// The view that last changed the configuration.
    pub configured: View,
    /// The view that last changed anything a reader acts on.
    pub changed: View,
    /// When it was created.
    pub created: Moment,
    /// When its configuration was last changed.
    pub updated: Moment,
}

/// How the present health came to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Since when state and cause have been as they are.
    pub since: Moment,
    /// The first view that holds it. A success chosen under an older view is older
    /// than the mark, and changes nothing.
    pub view: View,
    /// The newest view under which a counted failure was chosen. A success that was
    /// chosen no earlier ends their row: of attempts that ran side by side, the
    /// failures must not count more than the successes.
    pub failed_under: View,
    /// The view in which a success last lifted something. Weak evidence chosen under
    /// an older view is older than that success, and changes nothing.
    pub cleared: View,
    /// The facts behind it. Most endpoints have none.
    pub evidence: Option<Box<Evidence>>,
}

/// Lifetime counts of reported attempts; see `qcc.v1.EndpointStats`.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub attempts: u64,
    pub successes: u64,
    pub failures: u64,
    pub throttled: u64,
    pub stale: u64,
    pub checks: u64,
    #[serde(default)]
    pub checks_refused: u64,
}

/// The moment in which a change is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Now.
    pub(super) now: Moment,
    /// The view that will show what is changed now.
    pub(super) view: View,
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

impl Endpoint {
    pub(super) fn new(spec: Spec, generation: Generation, turn: Turn) -> Self {
        Self {
            spec: Arc::new(spec),
            generation,
            staged: None,
            health: Health::Unknown { failures: 0 },
            mark: Mark {
                since: turn.now,
                view: turn.view,
                failed_under: View::default(),
                cleared: turn.view,
                evidence: None,
            },
            proven: false,
            doubts: Vec::new(),
            checks: Checks::default(),
            stats: Stats::default(),
            configured: turn.view,
            changed: turn.view,
            created: turn.now,
            updated: turn.now,
        }
    }

    /// Begins a new life: what was known stops to count, running checks included.
    pub(super) fn regenerate(&mut self, generation: Generation, health: Health, turn: Turn) {
        self.generation = generation;
        self.proven = false;
        self.doubts.clear();
        self.checks.forget();
        self.health = health;
        self.mark = Mark {
            since: turn.now,
            view: turn.view,
            failed_under: View::default(),
            cleared: turn.view,
            evidence: None,
        };
        self.changed = turn.view;
    }

    /// Moves to `health`, recording why if that is news to anybody.
    pub(super) fn set_health(&mut self, health: Health, evidence: Option<&Evidence>, turn: Turn) {
        if health.acts_like(&self.health) {
            self.health = health;
            return;
        }
        if !health.same_state(&self.health) {
            self.mark.since = turn.now;
        }
        self.mark.view = turn.view;
        let held_against = health.cause().is_some() || health.failures() > 0;
        self.mark.evidence = evidence
            .filter(|_| held_against)
            .map(|evidence| Box::new(evidence.clone()));
        self.health = health;
        self.changed = turn.view;
    }

    /// Returns the text that identifies this configuration (AIP-154) in a registry.
    pub fn etag(&self, registry_id: &str) -> String {
        self.configured.etag(registry_id)
    }
}
