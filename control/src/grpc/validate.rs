//! Messages as the registry's types: the one step after which nothing is checked
//! again. Every range stands here and in the contract's comments.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use qcc_proto::{duration, resources::check_key, v1};
use tonic::Status;

use super::{
    base_url,
    error::{Violations, invalid},
};
use crate::registry::{
    AdminState, ApiFlavor, ApiKey, CHECK_MAX_TOKENS, CHECK_TIMEOUT, Check, CheckKind, ClusterName,
    CoolDowns, CredentialScheme, EndpointName, HttpCheck, NAME_RULE, Policy, Spec, Timeouts,
    VerificationSchedule,
};

const MS: Duration = Duration::from_millis(1);
const TEN_MS: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

const LABELS_MAX: usize = 16;

/// Reads an endpoint's name.
pub(super) fn endpoint_name(field: &str, name: &str) -> Result<EndpointName, Status> {
    EndpointName::try_from(name).map_err(|_| invalid(field, NAME_RULE))
}

/// Reads a cluster's name.
pub(super) fn cluster_name(field: &str, name: &str) -> Result<ClusterName, Status> {
    ClusterName::try_from(name).map_err(|_| invalid(field, NAME_RULE))
}

/// Reads a filter by cluster; empty means none.
pub(super) fn cluster_filter(name: &str) -> Result<Option<ClusterName>, Status> {
    if name.is_empty() {
        Ok(None)
    } else {
        cluster_name("cluster", name).map(Some)
    }
}

/// Reads an etag; empty means any.
pub(super) fn etag(etag: &str) -> Option<String> {
    (!etag.is_empty()).then(|| etag.into())
}

/// Reads an endpoint's configuration; unset fields take their defaults.
pub(super) fn spec(
    endpoint: &v1::Endpoint,
    prefix: &str,
    violations: &mut Violations,
) -> Option<Spec> {
    let field = |name: &str| format!("{prefix}{name}");
    let name = EndpointName::try_from(endpoint.name.as_str());
    if name.is_err() {
        violations.add(field("name"), NAME_RULE);
    }
    let cluster = if endpoint.cluster.is_empty() {
        Ok(ClusterName::default_cluster())
    } else {
        ClusterName::try_from(endpoint.cluster.as_str())
    };
    if cluster.is_err() {
        violations.add(field("cluster"), NAME_RULE);
    }
    let base_url = base_url::canonical(&endpoint.base_url, endpoint.allow_plaintext);
    if let Err(rule) = &base_url {
        violations.add(field("base_url"), rule.as_str());
    }
    let api_key = match endpoint
        .credential
        .as_ref()
        .map(|credential| api_key(&credential.api_key))
    {
        None | Some(Ok(None)) => None,
        Some(Ok(key)) => key,
        Some(Err(rule)) => {
            violations.add(field("credential.api_key"), rule);
            None
        }
    };
    let labels_rule = "must be at most 16, keys of 1-63 and values of at most 255 characters";
    if endpoint.labels.len() > LABELS_MAX
        || endpoint.labels.iter().any(|(key, value)| {
            !(1..=63).contains(&key.chars().count())
                || value.chars().count() > 255
                || key.chars().chain(value.chars()).any(char::is_control)
        })
    {
        violations.add(field("labels"), labels_rule);
    }
    let admin_state = match v1::AdminState::try_from(endpoint.admin_state) {
        Ok(v1::AdminState::Unspecified | v1::AdminState::Enabled) => AdminState::Enabled,
        Ok(v1::AdminState::Draining) => AdminState::Draining,
        Ok(v1::AdminState::Disabled) => AdminState::Disabled,
        Err(_) => {
            violations.add(field("admin_state"), "must be a known state");
            AdminState::Enabled
        }
    };
    let mut read = Reader { prefix, violations };
    let priority = read.number("priority", endpoint.priority, 1, 0..=1000);
    let weight = read.number("weight", endpoint.weight, 100, 1..=1000);
    let max_failures = endpoint
        .max_failures
        .map(|n| read.number("max_failures", Some(n), 3, 1..=1000));
    let timeout = endpoint
        .timeout
        .map(|t| read.span("timeout", Some(t), SECOND, MS..=HOUR));
    let check = endpoint
        .check
        .as_ref()
        .map(|check| read.check("check", check));
    Some(Spec {
        name: name.ok()?,
        cluster: cluster.ok()?,
        base_url: base_url.ok()?,
        api_key,
        priority,
        weight,
        max_failures,
        timeout,
        admin_state,
        check,
        labels: endpoint.labels.clone(),
        allow_plaintext: endpoint.allow_plaintext,
    })
}

/// Reads a key; empty means none.
pub(super) fn api_key(key: &str) -> Result<Option<ApiKey>, String> {
    if key.is_empty() {
        return Ok(None);
    }
    check_key(key).map(|key| Some(ApiKey::new(key)))
}

/// Reads a policy; unset fields take their defaults.
pub(super) fn policy(
    policy: &v1::ClusterPolicy,
    prefix: &str,
    violations: &mut Violations,
) -> Policy {
    let api = match v1::ApiFlavor::try_from(policy.api) {
        Ok(v1::ApiFlavor::Unspecified | v1::ApiFlavor::Anthropic) => ApiFlavor::Anthropic,
        Ok(v1::ApiFlavor::Openai) => ApiFlavor::OpenAi,
        Ok(v1::ApiFlavor::Http) => ApiFlavor::Http,
        Err(_) => {
            violations.add(format!("{prefix}api"), "must be a known API");
            ApiFlavor::Anthropic
        }
    };
    let credential_scheme = match v1::CredentialScheme::try_from(policy.credential_scheme) {
        Ok(v1::CredentialScheme::Unspecified) => api.credential_scheme(),
        Ok(v1::CredentialScheme::XApiKey) => CredentialScheme::XApiKey,
        Ok(v1::CredentialScheme::Bearer) => CredentialScheme::Bearer,
        Err(_) => {
            violations.add(
                format!("{prefix}credential_scheme"),
                "must be a known scheme",
            );
            api.credential_scheme()
        }
    };
    let of = Policy::of(api);
    let mut read = Reader { prefix, violations };
    let timeouts = policy.timeouts.unwrap_or_default();
    let cool_downs = policy.cool_downs.unwrap_or_default();
    let schedule = policy.verification.unwrap_or_default();
    let check = match &policy.check {
        Some(check) => read.check("check", check),
        None => of.check,
    };
    if api == ApiFlavor::Http && matches!(check.kind, CheckKind::Conversation { .. }) {
        read.refuse(
            "check",
            "`conversation` needs the API `anthropic` or `openai`",
        );
    }
    Policy {
        api,
        credential_scheme,
        attempts_max: read.number("attempts_max", policy.attempts_max, of.attempts_max, 1..=10),
        max_failures: read.number(
            "max_failures",
            policy.max_failures,
            of.max_failures,
            1..=1000,
        ),
        unproven_concurrency: read.number(
            "unproven_concurrency",
            policy.unproven_concurrency,
            of.unproven_concurrency,
            1..=1000,
        ),
        timeouts: Timeouts {
            connect: read.span(
                "timeouts.connect",
                timeouts.connect,
                of.timeouts.connect,
                MS..=10 * MINUTE,
            ),
            first_byte: read.span(
                "timeouts.first_byte",
                timeouts.first_byte,
                of.timeouts.first_byte,
                MS..=HOUR,
            ),
            idle: read.span("timeouts.idle", timeouts.idle, of.timeouts.idle, MS..=HOUR),
            total: read.span(
                "timeouts.total",
                timeouts.total,
                of.timeouts.total,
                MS..=DAY,
            ),
        },
        cool_downs: CoolDowns {
            overloaded: read.span(
                "cool_downs.overloaded",
                cool_downs.overloaded,
                of.cool_downs.overloaded,
                Duration::ZERO..=DAY,
            ),
            rate_limited: read.span(
                "cool_downs.rate_limited",
                cool_downs.rate_limited,
                of.cool_downs.rate_limited,
                Duration::ZERO..=DAY,
            ),
            max: read.span(
                "cool_downs.max",
                cool_downs.max,
                of.cool_downs.max,
                Duration::ZERO..=DAY,
            ),
        },
        check,
        verification: VerificationSchedule {
            first: read.span(
                "verification.first",
                schedule.first,
                of.verification.first,
                TEN_MS..=HOUR,
            ),
            max: read.span(
                "verification.max",
                schedule.max,
                of.verification.max,
                TEN_MS..=DAY,
            ),
            auth_max: read.span(
                "verification.auth_max",
                schedule.auth_max,
                of.verification.auth_max,
                TEN_MS..=DAY,
            ),
            per_hour_max: read.number(
                "verification.per_hour_max",
                schedule.per_hour_max,
                of.verification.per_hour_max,
                1..=100_000,
            ),
        },
        corroboration_window: read.span(
            "corroboration_window",
            policy.corroboration_window,
            of.corroboration_window,
            SECOND..=HOUR,
        ),
        queue_timeout: read.span(
            "queue_timeout",
            policy.queue_timeout,
            of.queue_timeout,
            Duration::ZERO..=MINUTE,
        ),
    }
}

/// Reads a span with its own range and default.
pub(super) fn span(
    field: &str,
    value: Option<prost_types::Duration>,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration, Status> {
    let mut violations = Violations::default();
    let span = Reader {
        prefix: "",
        violations: &mut violations,
    }
    .span(field, value, default, range);
    violations.none(span)
}

/// Reads a request id; empty means none. `digest` says what was asked.
pub(super) fn request(id: &str, digest: u64) -> Result<Option<crate::registry::Request>, Status> {
    if id.is_empty() {
        return Ok(None);
    }
    if id.len() > 64 || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(invalid(
            "request_id",
            "must be 1-64 printable ASCII characters",
        ));
    }
    Ok(Some(crate::registry::Request {
        id: Arc::from(id),
        digest,
    }))
}

/// Reads values with ranges, noting those outside.
struct Reader<'a> {
    prefix: &'a str,
    violations: &'a mut Violations,
}

impl Reader<'_> {
    fn number(
        &mut self,
        field: &str,
        value: Option<u32>,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> u32 {
        let value = value.unwrap_or(default);
        if !range.contains(&value) {
            self.refuse(field, format!("must be {}-{}", range.start(), range.end()));
        }
        value
    }

    fn span(
        &mut self,
        field: &str,
        value: Option<prost_types::Duration>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = value else { return default };
        match duration::from_proto(&value) {
            Some(span) if range.contains(&span) => span,
            _ => {
                let (from, to) = (
                    duration::format(*range.start()),
                    duration::format(*range.end()),
                );
                self.refuse(field, format!("must be {from} to {to}"));
                default
            }
        }
    }

    fn check(&mut self, field: &str, check: &v1::Check) -> Check {
        use v1::check::Kind;
        let kind = match &check.kind {
            Some(Kind::Conversation(conversation)) => {
                let model = &conversation.model;
                if model.len() > 256 || model.chars().any(char::is_control) {
                    self.refuse(
                        &format!("{field}.conversation.model"),
                        "must be at most 256 characters",
                    );
                }
                CheckKind::Conversation {
                    model: (!model.is_empty()).then(|| model.clone()),
                    max_tokens: self.number(
                        &format!("{field}.conversation.max_tokens"),
                        conversation.max_tokens,
                        CHECK_MAX_TOKENS,
                        1..=100_000,
                    ),
                }
            }
            Some(Kind::Http(http)) => {
                CheckKind::Http(self.http_check(&format!("{field}.http"), http))
            }
            Some(Kind::Tcp(_)) => CheckKind::Tcp,
            Some(Kind::None(_)) => CheckKind::None,
            None => {
                self.refuse(field, "must name a kind: conversation, http, tcp or none");
                CheckKind::None
            }
        };
        let precheck = check.precheck.as_ref().map(|precheck| {
            if !matches!(kind, CheckKind::Conversation { .. }) {
                self.refuse(
                    &format!("{field}.precheck"),
                    "must only be given together with conversation",
                );
            }
            self.http_check(&format!("{field}.precheck"), precheck)
        });
        let timeout = format!("{field}.timeout");
        Check {
            kind,
            precheck,
            timeout: self.span(&timeout, check.timeout, CHECK_TIMEOUT, TEN_MS..=10 * MINUTE),
        }
    }

    fn http_check(&mut self, field: &str, http: &v1::HttpCheck) -> HttpCheck {
        let method = if http.method.is_empty() {
            "GET"
        } else {
            http.method.as_str()
        };
        if !["GET", "HEAD", "POST"].contains(&method) {
            self.refuse(&format!("{field}.method"), "must be GET, HEAD or POST");
        }
        let path = if http.path.is_empty() {
            "/v1/models"
        } else {
            http.path.as_str()
        };
        if !path.starts_with('/')
            || path.len() > base_url::URL_BYTES_MAX
            || base_url::has_dot_segments(path)
            || path.contains('#')
            || path.parse::<http::uri::PathAndQuery>().is_err()
        {
            self.refuse(
                &format!("{field}.path"),
                "must be a path that begins with `/`, without dot segments or fragment",
            );
        }
        let statuses: Vec<u16> = http
            .expected_statuses
            .iter()
            .filter_map(|status| u16::try_from(*status).ok())
            .filter(|status| (200..=599).contains(status))
            .collect();
        if statuses.len() != http.expected_statuses.len() || statuses.len() > 16 {
            self.refuse(
                &format!("{field}.expected_statuses"),
                "must be at most 16 statuses of 200-599",
            );
        }
        if !http.body.is_empty() && (method != "POST" || http.body.len() > 64 * 1024) {
            self.refuse(
                &format!("{field}.body"),
                "must be at most 64 KiB, and for POST only",
            );
        }
        HttpCheck {
            method: method.into(),
            path: path.into(),
            expected_statuses: if statuses.is_empty() {
                vec![200]
            } else {
                statuses
            },
            body: http.body.clone(),
        }
    }

    fn refuse(&mut self, field: &str, rule: impl Into<String>) {
        self.violations.add(format!("{}{field}", self.prefix), rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_of_nothing_is_the_default_policy() {
        let mut violations = Violations::default();
        let read = policy(&v1::ClusterPolicy::default(), "", &mut violations);
        assert!(violations.none(()).is_ok());
        assert_eq!(read, Policy::default());
        let mut violations = Violations::default();
        let written = super::super::convert::policy(&read);
        assert_eq!(
            policy(&written, "", &mut violations),
            read,
            "it reads back as it was written"
        );
    }

    #[test]
    fn every_broken_rule_is_named() {
        let message = v1::Endpoint {
            name: "No".into(),
            base_url: "ftp://x".into(),
            weight: Some(0),
            timeout: Some(prost_types::Duration {
                seconds: -1,
                nanos: 0,
            }),
            check: Some(v1::Check::default()),
            ..v1::Endpoint::default()
        };
        let mut violations = Violations::default();
        spec(&message, "endpoint.", &mut violations);
        let status = violations.none(()).expect_err("it is full of errors");
        for field in ["name", "base_url", "weight", "timeout", "check"] {
            assert!(
                status
                    .message()
                    .contains(&format!("endpoint.{field}: must")),
                "{status}"
            );
        }
    }
}
