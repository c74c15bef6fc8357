//! Messages as the registry's types: the one step after which nothing is checked
//! again. Every range stands here and in the contract's comments.

mod policy;
mod reader;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use qcc_proto::{resources::check_key, v1};
use tonic::Status;

pub(super) use policy::policy;

use super::{
    base_url,
    error::{Violations, invalid},
};
use crate::registry::{AdminState, ApiKey, ClusterName, EndpointName, NAME_RULE, Spec};
use reader::Reader;

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
        .map(|check| Box::new(read.check("check", check)));
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

#[cfg(test)]
mod tests {
    use super::*;

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
