//! The one place where errors become `tonic::Status` (AIP-193): a canonical code, a
//! message for people, and a reason for programs.

use std::{collections::HashMap, time::Duration};

use qcc_proto::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::{actor, registry, reload};

/// How long a caller that was refused for load should wait.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Values in a request that break a rule, by field.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes that `field` breaks a rule.
    pub(super) fn add(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        self.0.push(FieldViolation::new(field, rule));
    }

    /// Returns `value`, unless a rule was broken.
    ///
    /// # Errors
    ///
    /// INVALID_ARGUMENT with every broken rule.
    pub(super) fn none<T>(self, value: T) -> Result<T, Status> {
        if self.0.is_empty() {
            return Ok(value);
        }
        let message = self
            .0
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect::<Vec<_>>()
            .join("; ");
        let mut details = details("INVALID_FIELD", &[]);
        details.set_bad_request(self.0);
        Err(Status::with_error_details(
            Code::InvalidArgument,
            message,
            details,
        ))
    }
}

/// Returns INVALID_ARGUMENT for one field.
pub(super) fn invalid(field: &str, rule: impl Into<String>) -> Status {
    let mut violations = Violations::default();
    violations.add(field, rule);
    violations.none(()).expect_err("there is a violation")
}

/// Returns OUT_OF_RANGE for what a client goes on from, and has read of another registry.
pub(super) fn other_registry() -> Status {
    status(
        Code::OutOfRange,
        "`registry_id` names another registry than that of this control plane",
        "OTHER_REGISTRY",
        &[],
    )
}

/// Returns NOT_FOUND for a resource.
pub(super) fn not_found(kind: &str, name: &str) -> Status {
    status(
        Code::NotFound,
        format!("unknown {kind} `{name}`"),
        "NOT_FOUND",
        &[("name", name)],
    )
}

/// Returns the end of a stream whose server stops.
pub(super) fn stopping() -> Status {
    status(
        Code::Unavailable,
        "the control plane is stopping",
        "STOPPING",
        &[],
    )
}

/// Returns a status with a reason.
pub(super) fn status(
    code: Code,
    message: impl Into<String>,
    reason: &str,
    metadata: &[(&str, &str)],
) -> Status {
    Status::with_error_details(code, message, details(reason, metadata))
}

impl From<actor::Error> for Status {
    fn from(error: actor::Error) -> Self {
        let message = error.to_string();
        match error {
            actor::Error::Refused(error) => refused(&error),
            actor::Error::Full => {
                let mut details = details("OVERLOADED", &[]);
                details.set_retry_info(Some(RETRY_AFTER));
                Self::with_error_details(Code::ResourceExhausted, message, details)
            }
            actor::Error::Stopped => status(Code::Unavailable, message, "STOPPING", &[]),
            actor::Error::OutcomeUnknown => {
                status(Code::Unavailable, message, "OUTCOME_UNKNOWN", &[])
            }
        }
    }
}

impl From<reload::Error> for Status {
    fn from(error: reload::Error) -> Self {
        let message = error.to_string();
        match error {
            reload::Error::NoSource => {
                status(Code::FailedPrecondition, message, "NOT_RELOADABLE", &[])
            }
            reload::Error::Rejected(reason) => {
                let metadata = reason.metadata();
                let metadata: Vec<_> = (metadata.iter())
                    .map(|(key, value)| (*key, value.as_str()))
                    .collect();
                status(
                    Code::FailedPrecondition,
                    message,
                    "CONFIG_REJECTED",
                    &metadata,
                )
            }
            reload::Error::Panicked => status(Code::Internal, message, "INTERNAL", &[]),
        }
    }
}

fn refused(error: &registry::Error) -> Status {
    use registry::Error;
    let message = error.to_string();
    match error {
        Error::UnknownCluster(name) => status(
            Code::NotFound,
            message,
            "NOT_FOUND",
            &[("name", name.as_str())],
        ),
        Error::UnknownEndpoint(name) => status(
            Code::NotFound,
            message,
            "NOT_FOUND",
            &[("name", name.as_str())],
        ),
        Error::NotQueued(name) => status(
            Code::NotFound,
            message,
            "NOT_QUEUED",
            &[("name", name.as_str())],
        ),
        Error::ClusterExists(name) => status(
            Code::AlreadyExists,
            message,
            "ALREADY_EXISTS",
            &[("name", name.as_str())],
        ),
        Error::EndpointExists(name) => status(
            Code::AlreadyExists,
            message,
            "ALREADY_EXISTS",
            &[("name", name.as_str())],
        ),
        Error::EtagMismatch { current } => status(
            Code::Aborted,
            message,
            "ETAG_MISMATCH",
            &[("current_etag", current.as_str())],
        ),
        Error::ClusterInUse(name) => status(
            Code::FailedPrecondition,
            message,
            "CLUSTER_IN_USE",
            &[("name", name.as_str())],
        ),
        Error::DefaultCluster => status(Code::FailedPrecondition, message, "DEFAULT_CLUSTER", &[]),
        Error::Disabled(name) => status(
            Code::FailedPrecondition,
            message,
            "ENDPOINT_DISABLED",
            &[("name", name.as_str())],
        ),
        Error::NothingToCheck(name) => status(
            Code::FailedPrecondition,
            message,
            "NO_CHECK",
            &[("name", name.as_str())],
        ),
        Error::CredentialNeeded(name) => status(
            Code::FailedPrecondition,
            message,
            "CREDENTIAL_NEEDED",
            &[("name", name.as_str())],
        ),
        Error::ClusterImmutable(_) => invalid("endpoint.cluster", message),
        Error::RequestIdReused => invalid("request_id", message),
        Error::TooMany { .. } => status(Code::ResourceExhausted, message, "LIMIT_REACHED", &[]),
    }
}

fn details(reason: &str, metadata: &[(&str, &str)]) -> ErrorDetails {
    let metadata: HashMap<_, _> = metadata
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    ErrorDetails::with_error_info(reason, ERROR_DOMAIN, metadata)
}
