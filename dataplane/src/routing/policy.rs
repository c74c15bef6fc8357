//! The rules of a cluster, as the data plane needs them.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderName;
use qcc_proto::v1::ApiFlavor;

/// Most attempts that any policy allows for one client request.
pub(crate) const ATTEMPTS_MAX: usize = 10;

/// How a cluster's endpoints are used. All values are in force as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Which API the endpoints speak: decides the shape of our own errors.
    pub api: ApiFlavor,
    /// Tries per client request, the first one included. 1 to [`ATTEMPTS_MAX`].
    pub attempts_max: u32,
    /// Attempts at a time at an endpoint that has not yet succeeded. At least 1.
    pub unproven_concurrency: u32,
    /// Limits on attempts.
    pub timeouts: Timeouts,
    /// Pauses after back-pressure.
    pub cool_downs: CoolDowns,
    /// Longest waits between two checks of an endpoint that is out for failing.
    pub verification: Verification,
    /// How long a request waits while all endpoints are busy.
    pub queue_timeout: Duration,
    /// How one of several endpoints is chosen.
    pub strategy: Strategy,
    /// How a session is kept at one endpoint.
    pub affinity: Affinity,
    /// How long the share of an endpoint grows after it has proven itself. 0: not at all.
    pub slow_start: Duration,
    /// How many tries may follow a first one.
    pub retry_budget: RetryBudget,
    /// How long the head of an event stream is held back. 0: not at all.
    pub hold_timeout: Duration,
    /// Most endpoints, in percent, that are left alone for failing. 0: no limit.
    pub max_ejected_percent: u32,
    /// Whether the least bad endpoint is used when none is selectable.
    pub last_resort: bool,
    /// Model for every request whose own has no alias.
    pub model_override: Option<Box<str>>,
    /// Models by the names that requests have for them.
    pub model_aliases: BTreeMap<Box<str>, Box<str>>,
    /// Whether answers carry the `x-qcc-…` headers.
    pub expose_headers: bool,
    /// What is spoken to the endpoints.
    pub upstream_protocol: UpstreamProtocol,
}

/// What is spoken to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// What the endpoint chooses by ALPN; without TLS HTTP/1.1.
    Auto,
    /// HTTP/2.
    Http2,
}

/// How one of several selectable endpoints is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The lowest priority; among equals by weight.
    Priority,
    /// By weight.
    Weighted,
    /// One after the other.
    RoundRobin,
    /// Each as likely as the other.
    Random,
    /// Of two the less busy one.
    LeastInflight,
    /// Of two the one that answers sooner.
    PeakEwma,
}

/// How a session is kept at one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Affinity {
    /// Whether it is.
    pub enabled: bool,
    /// Headers that name a session, beside those that always do.
    pub headers: Vec<HeaderName>,
    /// What becomes of sessions whose endpoint comes back.
    pub return_policy: ReturnPolicy,
}

/// What becomes of sessions that went elsewhere while their endpoint was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReturnPolicy {
    /// They return.
    Return,
    /// They stay where they went.
    Stay,
}

/// How many tries may follow a first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryBudget {
    /// In percent of client requests.
    pub percent: u32,
    /// A second, however few requests there are.
    pub min_per_second: u32,
}

/// Limits on attempts. The wait for a response head belongs to the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// To connect, TLS included.
    pub connect: Duration,
    /// Between two pieces of a response body.
    pub idle: Duration,
    /// For the whole client request, retries and body included.
    pub total: Duration,
}

/// Pauses after back-pressure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoolDowns {
    /// After an overload that names no time.
    pub overloaded: Duration,
    /// After a 429 that names no time.
    pub rate_limited: Duration,
    /// The longest wait that a provider may ask for.
    pub max: Duration,
}

/// Longest waits between two checks, as the control plane makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verification {
    /// Of an endpoint that is out for failing.
    pub max: Duration,
    /// Of one whose credential is rejected.
    pub auth_max: Duration,
}
