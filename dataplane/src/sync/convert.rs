//! From the wire to the core. What comes in may be from a newer or a broken control
//! plane: nothing here panics, and what cannot be used is named.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use http::Uri;
use qcc_proto::{
    defaults, duration,
    upstream::{self, credential_header},
    v1,
};

use crate::routing::{
    ATTEMPTS_MAX, Affinity, CoolDowns, Endpoint, Health, Policy, RetryBudget, ReturnPolicy, Routed,
    Strategy, Timeouts, UpstreamProtocol, Verification,
};

/// No wait is longer: the largest value that the contract allows anywhere.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The contract's bound for `RoutedEndpoint.mark_summary`.
const SUMMARY_BYTES_MAX: usize = 400;

/// Why an endpoint of a view cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Error {
    /// It has no name.
    Name,
    /// The base URL is not `http(s)://host[:port][/path]`.
    BaseUrl,
    /// The credential does not fit into a header.
    Credential(upstream::Error),
    /// Where the credential goes is of a kind that this version does not know.
    CredentialScheme(i32),
    /// The operator's wish is missing, or of a kind that this version does not know.
    AdminState(i32),
    /// The health state is missing, or of a kind that this version does not know.
    State(i32),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("it has no name"),
            // The URL itself could hold a password.
            Self::BaseUrl => f.write_str("base_url is not `http(s)://host[:port][/path]`"),
            Self::Credential(error) => write!(f, "{error}"),
            Self::CredentialScheme(value) => write!(f, "unknown credential_scheme {value}"),
            Self::AdminState(value) => write!(f, "unknown admin_state {value}"),
            Self::State(value) => write!(f, "unknown state {value}"),
        }
    }
}

impl std::error::Error for Error {}

/// Ties the control plane's clock to ours: its reading in a message, and when that
/// message came. Deadlines arrive late by the message's travel time, never early.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    /// The control plane's reading, in milliseconds.
    pub clock_ms: u64,
    /// When it was received.
    pub received: Instant,
}

impl Clocks {
    /// Returns a deadline of the control plane on our clock.
    pub(super) fn deadline(self, until_clock_ms: u64) -> Instant {
        let left = Duration::from_millis(until_clock_ms.saturating_sub(self.clock_ms));
        self.received + left.min(DURATION_MAX)
    }

    /// Returns a moment that has passed on the control plane's clock; `None` for 0.
    fn past(self, since_clock_ms: u64) -> Option<Instant> {
        let ago = Duration::from_millis(self.clock_ms.saturating_sub(since_clock_ms));
        let since = self.received.checked_sub(ago); // Longer ago than clocks can tell.
        (since_clock_ms != 0).then(|| since.unwrap_or(self.received))
    }
}

/// Converts an endpoint.
pub(crate) fn routed(endpoint: v1::RoutedEndpoint, clocks: Clocks) -> Result<Routed, Error> {
    if endpoint.name.is_empty() {
        return Err(Error::Name);
    }
    let credential = if endpoint.api_key.is_empty() {
        None
    } else {
        // Sent as another one it would be rejected, which takes it from everybody.
        let scheme = v1::CredentialScheme::try_from(endpoint.credential_scheme)
            .map_err(|_| Error::CredentialScheme(endpoint.credential_scheme))?;
        Some(credential_header(scheme, &endpoint.api_key).map_err(Error::Credential)?)
    };
    let admin = match endpoint.admin_state() {
        v1::AdminState::Unspecified => return Err(Error::AdminState(endpoint.admin_state)),
        known => known,
    };
    let first_byte_timeout = limit(&endpoint.first_byte_timeout, defaults::FIRST_BYTE_TIMEOUT);
    Ok(Routed {
        admin,
        health: health(&endpoint, clocks)?,
        failures: endpoint.consecutive_failures,
        failures_max: endpoint.max_failures.max(1),
        proven: endpoint.proven,
        priority: endpoint.priority,
        weight: endpoint.weight.max(1),
        since: clocks.past(endpoint.since_clock_ms),
        summary: summary(endpoint.mark_summary),
        endpoint: Arc::new(Endpoint {
            base_url: base_url(&endpoint.base_url)?,
            name: endpoint.name.into(),
            credential,
            first_byte_timeout,
            generation: endpoint.generation,
        }),
    })
}

/// Converts a policy. Values outside their range are brought into it: a policy in
/// force has none, and a proxy without a policy would be worth less than one with a
/// slightly different one.
pub(crate) fn policy(policy: &v1::ClusterPolicy) -> Policy {
    let timeouts = policy.timeouts.unwrap_or_default();
    let cool_downs = policy.cool_downs.unwrap_or_default();
    let verification = policy.verification.unwrap_or_default();
    let budget = policy.retry_budget.unwrap_or_default();
    let attempts_max = policy.attempts_max.unwrap_or(defaults::ATTEMPTS_MAX);
    let unproven = policy.unproven_concurrency;
    Policy {
        api: match policy.api() {
            v1::ApiFlavor::Unspecified => v1::ApiFlavor::Anthropic,
            known => known,
        },
        attempts_max: attempts_max.clamp(1, ATTEMPTS_MAX as u32),
        unproven_concurrency: unproven.unwrap_or(defaults::UNPROVEN_CONCURRENCY).max(1),
        timeouts: Timeouts {
            connect: limit(&timeouts.connect, defaults::CONNECT_TIMEOUT),
            idle: limit(&timeouts.idle, defaults::IDLE_TIMEOUT),
            total: limit(&timeouts.total, defaults::TOTAL_TIMEOUT),
        },
        cool_downs: CoolDowns {
            overloaded: wait(&cool_downs.overloaded, defaults::OVERLOADED_COOL_DOWN),
            rate_limited: wait(&cool_downs.rate_limited, defaults::RATE_LIMITED_COOL_DOWN),
            max: wait(&cool_downs.max, defaults::MAX_COOL_DOWN),
        },
        verification: Verification {
            max: wait(&verification.max, defaults::VERIFY_MAX),
            auth_max: wait(&verification.auth_max, defaults::VERIFY_AUTH_MAX),
        },
        queue_timeout: wait(&policy.queue_timeout, defaults::QUEUE_TIMEOUT),
        strategy: strategy(policy.strategy()),
        affinity: affinity(&policy.affinity.clone().unwrap_or_default()),
        slow_start: wait(&policy.slow_start, defaults::SLOW_START),
        retry_budget: RetryBudget {
            percent: budget.percent.unwrap_or(defaults::RETRY_BUDGET_PERCENT),
            min_per_second: (budget.min_per_second)
                .unwrap_or(defaults::RETRY_BUDGET_MIN_PER_SECOND),
        },
        hold_timeout: wait(&policy.hold_timeout, defaults::HOLD_TIMEOUT),
        max_ejected_percent: (policy.max_ejected_percent)
            .unwrap_or(defaults::MAX_EJECTED_PERCENT)
            .min(100),
        last_resort: policy.last_resort.unwrap_or(defaults::LAST_RESORT),
        model_override: (!policy.model_override.is_empty())
            .then(|| policy.model_override.as_str().into()),
        model_aliases: (policy.model_aliases.iter())
            .map(|(from, to)| (from.as_str().into(), to.as_str().into()))
            .collect(),
        expose_headers: policy.expose_headers.unwrap_or(defaults::EXPOSE_HEADERS),
        upstream_protocol: match policy.upstream_protocol() {
            v1::UpstreamProtocol::Unspecified | v1::UpstreamProtocol::Http1 => {
                UpstreamProtocol::Http1
            }
            v1::UpstreamProtocol::Auto => UpstreamProtocol::Auto,
            v1::UpstreamProtocol::Http2 => UpstreamProtocol::Http2,
        },
    }
}

impl Default for Policy {
    /// Returns the rules for a cluster of which nothing is said, or that does not exist yet.
    fn default() -> Self {
        policy(&v1::ClusterPolicy::default())
    }
}

fn strategy(strategy: v1::Strategy) -> Strategy {
    match strategy {
        v1::Strategy::Unspecified | v1::Strategy::Priority => Strategy::Priority,
        v1::Strategy::Weighted => Strategy::Weighted,
        v1::Strategy::RoundRobin => Strategy::RoundRobin,
        v1::Strategy::Random => Strategy::Random,
        v1::Strategy::LeastInflight => Strategy::LeastInflight,
        v1::Strategy::PeakEwma => Strategy::PeakEwma,
    }
}

fn affinity(affinity: &v1::Affinity) -> Affinity {
    Affinity {
        enabled: affinity.enabled.unwrap_or(defaults::AFFINITY),
        headers: (affinity.headers.iter())
            .filter_map(|name| name.parse().ok())
            .collect(),
        return_policy: match affinity.return_policy() {
            v1::ReturnPolicy::Unspecified | v1::ReturnPolicy::Return => ReturnPolicy::Return,
            v1::ReturnPolicy::Stay => ReturnPolicy::Stay,
        },
    }
}

fn health(endpoint: &v1::RoutedEndpoint, clocks: Clocks) -> Result<Health, Error> {
    let cause = endpoint.cause();
    Ok(match endpoint.state() {
        v1::HealthState::Unspecified => return Err(Error::State(endpoint.state)),
        v1::HealthState::Unknown => Health::Unknown,
        v1::HealthState::Healthy => Health::Healthy,
        v1::HealthState::Degraded => Health::Degraded {
            cause,
            until: clocks.deadline(endpoint.until_clock_ms),
        },
        v1::HealthState::Unhealthy => Health::Unhealthy { cause },
    })
}

fn summary(mut text: String) -> Option<Arc<str>> {
    text.truncate(text.floor_char_boundary(SUMMARY_BYTES_MAX));
    (!text.is_empty()).then(|| text.into())
}

fn base_url(text: &str) -> Result<Uri, Error> {
    let url: Uri = text.parse().map_err(|_| Error::BaseUrl)?;
    let http = matches!(url.scheme_str(), Some("http" | "https"));
    let host = url.host().is_some_and(|host| !host.is_empty());
    let user = url
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    if http && host && !user && url.query().is_none() {
        Ok(url)
    } else {
        Err(Error::BaseUrl)
    }
}

/// Reads a limit, which cannot be zero.
fn limit(value: &Option<prost_types::Duration>, default: Duration) -> Duration {
    wait(value, default).max(Duration::from_millis(1))
}

/// Reads a wait, which can be zero.
fn wait(value: &Option<prost_types::Duration>, default: Duration) -> Duration {
    let read = value.as_ref().and_then(duration::from_proto);
    read.unwrap_or(default).min(DURATION_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> v1::RoutedEndpoint {
        v1::RoutedEndpoint {
            name: "a".into(),
            base_url: "https://api.example/base".into(),
            api_key: "sk-canary".into(),
            credential_scheme: v1::CredentialScheme::XApiKey.into(),
            generation: 7,
            admin_state: v1::AdminState::Enabled.into(),
            state: v1::HealthState::Healthy.into(),
            max_failures: 3,
            priority: 1,
            weight: 100,
            ..Default::default()
        }
    }

    fn clocks() -> Clocks {
        Clocks {
            clock_ms: 50_000,
            received: Instant::now(),
        }
    }

    fn error(change: impl FnOnce(&mut v1::RoutedEndpoint)) -> Error {
        let mut broken = endpoint();
        change(&mut broken);
        routed(broken, clocks()).unwrap_err()
    }

    #[test]
    fn an_endpoint_arrives_whole_and_never_prints_its_key() {
        let routed = routed(endpoint(), clocks()).unwrap();
        assert_eq!(routed.endpoint.base_url.path(), "/base");
        assert_eq!(
            routed.endpoint.first_byte_timeout,
            defaults::FIRST_BYTE_TIMEOUT
        );
        assert!(!format!("{routed:?}").contains("canary"));
    }

    #[test]
    fn a_deadline_moves_to_our_clock() {
        let clocks = clocks();
        let mut degraded = endpoint();
        degraded.state = v1::HealthState::Degraded.into();
        degraded.cause = v1::Cause::Overloaded.into();
        for (until_clock_ms, left) in [(53_500, 3_500), (49_000, 0), (u64::MAX, 86_400_000)] {
            degraded.until_clock_ms = until_clock_ms;
            let expected = Health::Degraded {
                cause: v1::Cause::Overloaded,
                until: clocks.received + Duration::from_millis(left),
            };
            assert_eq!(routed(degraded.clone(), clocks).unwrap().health, expected);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        assert_eq!(error(|e| e.name.clear()), Error::Name);
        for url in [
            "",
            "api.example",
            "ftp://a",
            "http://",
            "http://u:p@a",
            "http://a/?q",
            "http://a b",
        ] {
            assert_eq!(error(|e| e.base_url = url.into()), Error::BaseUrl, "{url}");
        }
        assert!(matches!(
            error(|e| e.api_key = "a\nb".into()),
            Error::Credential(_)
        ));
        assert_eq!(
            error(|e| e.credential_scheme = 9),
            Error::CredentialScheme(9)
        );
        assert_eq!(error(|e| e.admin_state = 9), Error::AdminState(9));
        assert_eq!(error(|e| e.state = 0), Error::State(0));
    }

    #[test]
    fn a_policy_is_brought_into_its_range() {
        let odd = policy(&v1::ClusterPolicy {
            attempts_max: Some(99),
            unproven_concurrency: Some(0),
            timeouts: Some(v1::Timeouts {
                connect: Some(prost_types::Duration {
                    seconds: -1,
                    nanos: 0,
                }),
                idle: Some(prost_types::Duration {
                    seconds: 0,
                    nanos: 0,
                }),
                total: Some(prost_types::Duration {
                    seconds: i64::MAX,
                    nanos: 0,
                }),
                first_byte: None,
            }),
            queue_timeout: Some(prost_types::Duration {
                seconds: 0,
                nanos: 0,
            }),
            strategy: 99,
            affinity: Some(v1::Affinity {
                headers: vec!["no header".into(), "X-Session".into()],
                return_policy: 99,
                ..Default::default()
            }),
            max_ejected_percent: Some(200),
            upstream_protocol: 99,
            ..Default::default()
        });
        assert_eq!(odd.strategy, Strategy::Priority);
        assert_eq!(odd.affinity.headers, ["x-session"]);
        assert_eq!(odd.affinity.return_policy, ReturnPolicy::Return);
        assert!(odd.affinity.enabled);
        assert_eq!(odd.max_ejected_percent, 100);
        assert_eq!(odd.upstream_protocol, UpstreamProtocol::Http1);
        assert_eq!(odd.attempts_max, 10);
        assert_eq!(odd.unproven_concurrency, 1);
        assert_eq!(odd.timeouts.connect, Duration::from_secs(5));
        assert_eq!(odd.timeouts.idle, Duration::from_millis(1));
        assert!(odd.timeouts.total <= Duration::from_secs(86_400));
        assert_eq!(odd.queue_timeout, Duration::ZERO);
    }
}
