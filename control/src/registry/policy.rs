//! A cluster's rules, every value in force and in range.
//!
//! Ranges are checked where messages become these types (`grpc::convert`); a
//! `Policy` that exists is valid.

use std::{collections::BTreeMap, time::Duration};

use qcc_proto::defaults;
use serde::{Deserialize, Serialize};

pub use qcc_proto::defaults::{CHECK_MAX_TOKENS, CHECK_TIMEOUT};

/// The rules for a cluster's endpoints. Fields are documented on
/// `qcc.v1.ClusterPolicy`.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // A record of an earlier version lacks what came later.
pub struct Policy {
    pub api: ApiFlavor,
    pub credential_scheme: CredentialScheme,
    pub attempts_max: u32,
    pub max_failures: u32,
    pub unproven_concurrency: u32,
    pub timeouts: Timeouts,
    pub cool_downs: CoolDowns,
    pub check: Check,
    pub verification: VerificationSchedule,
    pub corroboration_window: Duration,
    pub queue_timeout: Duration,
    pub strategy: Strategy,
    pub affinity: Affinity,
    pub slow_start: Duration,
    pub retry_budget: RetryBudget,
    pub hold_timeout: Duration,
    pub max_ejected_percent: u32,
    pub last_resort: bool,
    pub model_override: Option<String>,
    pub model_aliases: BTreeMap<String, String>,
    pub expose_headers: bool,
    pub upstream_protocol: UpstreamProtocol,
}

/// Which API endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFlavor {
    /// Anthropic-compatible.
    Anthropic,
    /// OpenAI-compatible.
    OpenAi,
    /// Any HTTP API.
    Http,
}

/// Where the credential goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialScheme {
    /// `x-api-key: KEY`.
    XApiKey,
    /// `authorization: Bearer KEY`.
    Bearer,
}

/// How one of several selectable endpoints is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
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

/// What proxies speak to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// What the endpoint chooses by ALPN; without TLS HTTP/1.1.
    Auto,
    /// HTTP/2.
    Http2,
}

/// How a session is kept at one endpoint.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    pub enabled: bool,
    pub headers: Vec<String>,
    pub return_policy: ReturnPolicy,
}

/// What becomes of sessions that went elsewhere while their endpoint was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReturnPolicy {
    /// They return once it has succeeded again.
    Return,
    /// They stay where they went.
    Stay,
}

/// How many tries may follow a first one.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryBudget {
    pub percent: u32,
    pub min_per_second: u32,
}

/// Limits on one attempt.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    pub connect: Duration,
    pub first_byte: Duration,
    pub idle: Duration,
    pub total: Duration,
}

/// How long an endpoint is left alone after back-pressure.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoolDowns {
    pub overloaded: Duration,
    pub rate_limited: Duration,
    pub max: Duration,
}

/// When failed endpoints are verified again.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerificationSchedule {
    pub first: Duration,
    pub max: Duration,
    pub auth_max: Duration,
    pub per_hour_max: u32,
}

/// How to find out whether an endpoint works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What to do.
    pub kind: CheckKind,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Asked first; what costs something is asked only if this passes.
    #[serde(default)]
    pub precheck: Option<HttpCheck>,
}

/// The kinds of checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// Ask the model to repeat a fresh code.
    Conversation {
        /// Model to ask; `None` means the flavor's default.
        model: Option<String>,
        /// Limit on the answer, in tokens.
        max_tokens: u32,
    },
    /// Send one HTTP request.
    Http(HttpCheck),
    /// Open a connection.
    Tcp,
    /// Wait, and let a few requests find out.
    None,
}

/// One HTTP request whose status decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// `GET`, `HEAD` or `POST`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Statuses that pass.
    pub expected_statuses: Vec<u16>,
    /// JSON body, for POST.
    pub body: String,
}

impl ApiFlavor {
    /// Returns where this API expects its credential.
    pub fn credential_scheme(self) -> CredentialScheme {
        match self {
            Self::Anthropic => CredentialScheme::XApiKey,
            Self::OpenAi | Self::Http => CredentialScheme::Bearer,
        }
    }

    /// Returns the check that proves most for this API.
    pub fn check(self) -> Check {
        let kind = match self {
            Self::Anthropic | Self::OpenAi => CheckKind::Conversation {
                model: None,
                max_tokens: CHECK_MAX_TOKENS,
            },
            Self::Http => CheckKind::Tcp,
        };
        Check {
            kind,
            timeout: CHECK_TIMEOUT,
            precheck: None,
        }
    }
}

/// A pause longer than this is checked inside, in case the provider relents.
pub(super) const LONG_PAUSE: Duration = Duration::from_secs(60);

impl Policy {
    /// Returns the defaults for an API.
    pub fn of(api: ApiFlavor) -> Self {
        Self {
            api,
            credential_scheme: api.credential_scheme(),
            attempts_max: defaults::ATTEMPTS_MAX,
            max_failures: defaults::MAX_FAILURES,
            unproven_concurrency: defaults::UNPROVEN_CONCURRENCY,
            timeouts: Timeouts {
                connect: defaults::CONNECT_TIMEOUT,
                first_byte: defaults::FIRST_BYTE_TIMEOUT,
                idle: defaults::IDLE_TIMEOUT,
                total: defaults::TOTAL_TIMEOUT,
            },
            cool_downs: CoolDowns {
                overloaded: defaults::OVERLOADED_COOL_DOWN,
                rate_limited: defaults::RATE_LIMITED_COOL_DOWN,
                max: defaults::MAX_COOL_DOWN,
            },
            check: api.check(),
            verification: VerificationSchedule {
                first: defaults::VERIFY_FIRST,
                max: defaults::VERIFY_MAX,
                auth_max: defaults::VERIFY_AUTH_MAX,
                per_hour_max: defaults::VERIFY_PER_HOUR_MAX,
            },
            corroboration_window: defaults::CORROBORATION_WINDOW,
            queue_timeout: defaults::QUEUE_TIMEOUT,
            strategy: Strategy::Priority,
            affinity: Affinity {
                enabled: defaults::AFFINITY,
                headers: Vec::new(),
                return_policy: ReturnPolicy::Return,
            },
            slow_start: defaults::SLOW_START,
            retry_budget: RetryBudget {
                percent: defaults::RETRY_BUDGET_PERCENT,
                min_per_second: defaults::RETRY_BUDGET_MIN_PER_SECOND,
            },
            hold_timeout: defaults::HOLD_TIMEOUT,
            max_ejected_percent: defaults::MAX_EJECTED_PERCENT,
            last_resort: defaults::LAST_RESORT,
            model_override: None,
            model_aliases: BTreeMap::new(),
            expose_headers: defaults::EXPOSE_HEADERS,
            upstream_protocol: UpstreamProtocol::Http1,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::of(ApiFlavor::Anthropic)
    }
}
