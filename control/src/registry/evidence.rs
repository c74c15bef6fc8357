//! What attempts and checks come to, and who is to blame.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Generation, Moment, ProxyId, View};

/// What one attempt came to, by who is to blame for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeClass {
    /// It worked.
    Success,
    /// 401.
    Auth,
    /// 402, 403.
    Forbidden,
    /// 429.
    RateLimited,
    /// 529, 503 with `retry-after`, in-band `overloaded_error`.
    Overloaded,
    /// Other 5xx.
    ServerError,
    /// No response head in time.
    Timeout,
    /// No connection.
    Connect,
    /// Cut or silent after the head.
    StreamBroken,
    /// The request's own fault.
    Request,
    /// The client went away.
    Cancelled,
}

/// Why an endpoint is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The credential was rejected.
    Auth,
    /// Access was denied.
    Forbidden,
    /// Rate limited.
    RateLimited,
    /// The provider is overloaded.
    Overloaded,
    /// Server errors.
    ServerError,
    /// No answer in time.
    Timeout,
    /// No connection.
    Connect,
    /// Responses were cut off.
    StreamBroken,
    /// A check was answered, but not correctly.
    CheckFailed,
    /// An operator said so.
    Operator,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 10] = [
        Self::Auth,
        Self::Forbidden,
        Self::RateLimited,
        Self::Overloaded,
        Self::ServerError,
        Self::Timeout,
        Self::Connect,
        Self::StreamBroken,
        Self::CheckFailed,
        Self::Operator,
    ];
}

/// How far a piece of evidence reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Nobody, and it worked.
    Success,
    /// The credential: at once, for everybody.
    Credential(Cause),
    /// The reporter first: for everybody only when somebody agrees.
    Reporter(Cause),
    /// The endpoint, if it happens several times in a row.
    Endpoint(Cause),
    /// The provider, for a time. Not a failure.
    Pause(Cause),
    /// Nobody.
    Nobody,
}

impl OutcomeClass {
    /// Returns who is to blame: the one table that every rule about health starts
    /// from.
    pub fn blame(self) -> Blame {
        match self {
            Self::Success => Blame::Success,
            Self::Auth => Blame::Credential(Cause::Auth),
            Self::Forbidden => Blame::Endpoint(Cause::Forbidden),
            Self::RateLimited => Blame::Pause(Cause::RateLimited),
            Self::Overloaded => Blame::Pause(Cause::Overloaded),
            Self::ServerError => Blame::Endpoint(Cause::ServerError),
            Self::Timeout => Blame::Reporter(Cause::Timeout),
            Self::Connect => Blame::Reporter(Cause::Connect),
            Self::StreamBroken => Blame::Endpoint(Cause::StreamBroken),
            Self::Request | Self::Cancelled => Blame::Nobody,
        }
    }
}

/// The facts of an answer, or of its absence. Texts are short and carry neither
/// credentials nor request content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What it came to.
    pub outcome: OutcomeClass,
    /// HTTP status; 0 if there was none.
    pub http_status: u16,
    /// The provider's error type; empty if there was none.
    pub error_type: String,
    /// What the provider asked for, uncapped.
    pub retry_after: Option<Duration>,
    /// A technical description.
    pub detail: String,
    /// The provider's request id.
    pub upstream_request_id: String,
}

/// The facts behind a mark and whose word they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The facts.
    pub facts: Facts,
    /// Who saw them.
    pub witness: Witness,
    /// The view under which the attempt chose the endpoint.
    pub view: View,
    /// The generation it used.
    pub generation: Generation,
    /// When the registry learned of it.
    pub observed: Moment,
}

/// Who saw something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// A proxy.
    Proxy(ProxyId),
    /// The control plane's own check.
    Check,
    /// An operator.
    Operator,
}

/// Longest texts that are kept; longer ones are cut.
const ERROR_TYPE_BYTES_MAX: usize = 64;
const DETAIL_BYTES_MAX: usize = 200;
const REQUEST_ID_BYTES_MAX: usize = 128;

impl Facts {
    /// Returns facts that consist of an outcome alone.
    pub fn of(outcome: OutcomeClass) -> Self {
        Self {
            outcome,
            http_status: 0,
            error_type: String::new(),
            retry_after: None,
            detail: String::new(),
            upstream_request_id: String::new(),
        }
    }

    /// Cuts texts to what is kept and drops control characters, since they came
    /// over a network and will be shown on a terminal.
    pub fn bounded(mut self) -> Self {
        bound(&mut self.error_type, ERROR_TYPE_BYTES_MAX);
        bound(&mut self.detail, DETAIL_BYTES_MAX);
        bound(&mut self.upstream_request_id, REQUEST_ID_BYTES_MAX);
        self
    }
}

fn bound(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
    }
    if text.contains(char::is_control) {
        text.retain(|c| !c.is_control());
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auth => "auth",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::StreamBroken => "stream_broken",
            Self::CheckFailed => "check_failed",
            Self::Operator => "operator",
        })
    }
}
