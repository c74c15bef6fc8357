//! The one place that makes `tonic::Status`.

use std::{collections::HashMap, fmt};

use qcc_proto::ERROR_DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

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
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, rule } => write!(f, "`{field}` must be {rule}"),
            Self::UnknownService(name) => write!(f, "unknown service `{name}`"),
            Self::UnknownEndpoint(name) => {
                write!(f, "endpoint `{name}` is not in this proxy's view")
            }
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
                    "INVALID_ARGUMENT",
                    ("field", field.to_owned()),
                )
            }
            Error::UnknownService(name) => (Code::NotFound, "UNKNOWN_SERVICE", ("service", name)),
            Error::UnknownEndpoint(name) => (Code::NotFound, "NOT_FOUND", ("endpoint", name)),
        };
        let metadata = HashMap::from([(metadata.0.to_owned(), metadata.1)]);
        details.set_error_info(reason, ERROR_DOMAIN, metadata);
        Status::with_error_details(code, message, details)
    }
}
