//! The rules of a cluster, as the data plane needs them.

use std::time::Duration;

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
    /// How long a request waits while all endpoints are busy.
    pub queue_timeout: Duration,
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

impl Default for Policy {
    /// Returns the defaults that the contract gives, for a cluster that does not
    /// exist yet.
    fn default() -> Self {
        Self {
            api: ApiFlavor::Anthropic,
            attempts_max: 3,
            unproven_concurrency: 4,
            timeouts: Timeouts {
                connect: Duration::from_secs(5),
                idle: Duration::from_secs(240),
                total: Duration::from_secs(600),
            },
            cool_downs: CoolDowns {
                overloaded: Duration::from_secs(10),
                rate_limited: Duration::from_secs(600),
                max: Duration::from_secs(600),
            },
            queue_timeout: Duration::from_secs(2),
        }
    }
}
