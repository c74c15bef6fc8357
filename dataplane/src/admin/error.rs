//! The one place that makes `tonic::Status`.

use std::{collections::HashMap, fmt};

use qcc_proto::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::reload;

/// What the admin services refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Error {
    /// A field's value is not allowed.
    Invalid {
        /// The field.
        field: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
    /// No service of that name is served here.
    UnknownService(String),
    /// No endpoint of that name is in the view.
    UnknownEndpoint(String),
    /// The configuration was not read again.
    Reload(reload::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, rule } => write!(f, "`{field}` must be {rule}"),
            Self::UnknownService(name) => write!(f, "unknown service `{name}`"),
            Self::UnknownEndpoint(name) => {
                write!(f, "endpoint `{name}` is not in this proxy's view")
            }
            Self::Reload(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let mut details = ErrorDetails::new();
        let (code, reason, metadata) = match error {
            Error::Invalid { field, rule } => {
                details.add_bad_request_violation(field, format!("must be {rule}"));
                (
                    Code::InvalidArgument,
                    "INVALID_FIELD",
                    vec![("field", field.to_owned())],
                )
            }
            Error::UnknownService(name) => {
                let metadata = vec![("service", name)];
                (Code::NotFound, "NOT_FOUND", metadata)
            }
            Error::UnknownEndpoint(name) => (Code::NotFound, "NOT_FOUND", vec![("endpoint", name)]),
            Error::Reload(reload::Error::NoSource) => {
                (Code::FailedPrecondition, "NOT_RELOADABLE", Vec::new())
            }
            Error::Reload(reload::Error::Rejected(reason)) => {
                let metadata = reason.metadata();
                (Code::FailedPrecondition, "CONFIG_REJECTED", metadata)
            }
            Error::Reload(reload::Error::Panicked) => (Code::Internal, "INTERNAL", Vec::new()),
        };
        let owned = |(key, value): (&str, String)| (key.to_owned(), value);
        let metadata: HashMap<_, _> = metadata.into_iter().map(owned).collect();
        details.set_error_info(reason, ERROR_DOMAIN, metadata);
        Status::with_error_details(code, message, details)
    }
}
