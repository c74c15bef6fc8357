//! An endpoint as the view describes it: immutable, shared by all attempts.

use std::{sync::Arc, time::Duration, time::Instant};

use http::Uri;
use qcc_proto::{
    upstream::Credential,
    v1::{AdminState, Cause},
};

/// What the HTTP path needs to know of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its name.
    pub name: Arc<str>,
    /// Where requests go; scheme and host are present.
    pub base_url: Uri,
    /// Its credential, ready to be put into requests.
    pub credential: Option<Credential>,
    /// Longest wait for a response head.
    pub first_byte_timeout: Duration,
    /// The generation that reports name.
    pub generation: u64,
}

/// An endpoint with all that the view says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routed {
    /// The endpoint itself.
    pub endpoint: Arc<Endpoint>,
    /// The operator's wish. Never unspecified.
    pub admin: AdminState,
    /// Observed health.
    pub health: Health,
    /// Failures in a row that the view knows of.
    pub failures: u32,
    /// Failures in a row that eject it. At least 1.
    pub failures_max: u32,
    /// Whether a proxied request has succeeded in this generation.
    pub proven: bool,
    /// Lower is preferred.
    pub priority: u32,
    /// Share among endpoints of the same priority. At least 1.
    pub weight: u32,
    /// Since when its health is what it is; `None` if nothing is held against it.
    pub since: Option<Instant>,
    /// On whose word it is so, for people; `None` if nothing is held against it.
    pub summary: Option<Arc<str>>,
}

/// Observed health, from the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    /// Nothing is known yet.
    Unknown,
    /// It works as far as anybody knows.
    Healthy,
    /// It asked for a pause.
    Degraded {
        /// Why.
        cause: Cause,
        /// End of the pause, on this process's clock.
        until: Instant,
    },
    /// It failed and waits for verification.
    Unhealthy {
        /// Why.
        cause: Cause,
    },
}

impl Routed {
    /// Returns whether the view holds nothing that a success would change.
    pub(crate) fn is_clean(&self) -> bool {
        self.health == Health::Healthy && self.failures == 0 && self.proven
    }
}
