//! Why we answer instead of an endpoint, and what that alone decides of the answer.

use std::time::Duration;

use http::StatusCode;

/// Why we answer instead of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Kind {
    /// The head breaks a rule of HTTP or of ours.
    Malformed,
    /// The head is longer than is taken.
    HeadTooLarge,
    /// Its target alone is.
    TargetTooLong,
    /// The body broke off or is badly framed.
    BodyBroken,
    /// The client stopped sending its body.
    BodyTimeout,
    /// The body is longer than is taken.
    BodyTooLarge,
    /// CONNECT or TRACE.
    Method,
    /// A path under our own prefix that does not exist.
    NotFound,
    /// The client has no key, where one is asked for.
    KeyRequired,
    /// It has none of ours.
    KeyRejected,
    /// An `expect` that we cannot meet.
    Expectation,
    /// There is no view yet.
    NoView,
    /// We are stopping.
    Draining,
    /// There are too many requests at a time.
    Overloaded,
    /// No endpoint is selectable.
    NoEndpoint,
    /// Every selectable endpoint is busy.
    Busy,
    /// Every try was refused for its credential.
    CredentialsRejected,
    /// Every try failed before an answer.
    Unreachable,
    /// No answer came in time.
    Timeout,
}

/// What is fixed for each kind: status, our name for it, Anthropic's name for it.
pub(super) struct Facts(
    pub(super) StatusCode,
    pub(super) &'static str,
    pub(super) &'static str,
);

impl Kind {
    pub(super) fn facts(self) -> Facts {
        const INVALID: &str = "invalid_request_error";
        // Not `overloaded_error`: for that one Claude Code shows a fixed text instead of ours.
        const API: &str = "api_error";
        const AUTH: &str = "authentication_error";
        use StatusCode as Status;
        match self {
            Self::Malformed => Facts(Status::BAD_REQUEST, "malformed_request", INVALID),
            Self::HeadTooLarge => {
                let status = Status::REQUEST_HEADER_FIELDS_TOO_LARGE;
                Facts(status, "head_too_large", INVALID)
            }
            Self::TargetTooLong => Facts(Status::URI_TOO_LONG, "target_too_long", INVALID),
            Self::BodyBroken => Facts(Status::BAD_REQUEST, "malformed_body", INVALID),
            Self::BodyTimeout => Facts(Status::REQUEST_TIMEOUT, "body_timeout", "timeout_error"),
            Self::BodyTooLarge => {
                let name = "body_too_large";
                Facts(Status::PAYLOAD_TOO_LARGE, name, "request_too_large")
            }
            Self::Method => Facts(Status::METHOD_NOT_ALLOWED, "method_not_allowed", INVALID),
            Self::NotFound => Facts(Status::NOT_FOUND, "not_found", "not_found_error"),
            Self::KeyRequired => Facts(Status::UNAUTHORIZED, "client_key_required", AUTH),
            Self::KeyRejected => Facts(Status::UNAUTHORIZED, "client_key_rejected", AUTH),
            Self::Expectation => Facts(Status::EXPECTATION_FAILED, "expectation_failed", INVALID),
            Self::NoView => Facts(Status::SERVICE_UNAVAILABLE, "no_view", API),
            Self::Draining => Facts(Status::SERVICE_UNAVAILABLE, "draining", API),
            Self::Overloaded => {
                let status = Status::SERVICE_UNAVAILABLE;
                Facts(status, "overloaded", "overloaded_error")
            }
            Self::NoEndpoint => Facts(Status::SERVICE_UNAVAILABLE, "no_endpoint_available", API),
            Self::Busy => Facts(Status::SERVICE_UNAVAILABLE, "endpoints_busy", API),
            Self::CredentialsRejected => Facts(Status::BAD_GATEWAY, "credentials_rejected", API),
            Self::Unreachable => Facts(Status::BAD_GATEWAY, "endpoints_unreachable", API),
            Self::Timeout => Facts(
                Status::GATEWAY_TIMEOUT,
                "endpoints_timed_out",
                "timeout_error",
            ),
        }
    }

    /// Whether the connection is in a state, or the client of a kind, that ends it.
    pub(super) fn closes(self) -> bool {
        match self {
            Self::Malformed
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyBroken
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::Method
            | Self::Expectation
            | Self::Draining => true,
            Self::NotFound
            | Self::KeyRequired
            | Self::KeyRejected
            | Self::NoView
            | Self::Overloaded
            | Self::NoEndpoint
            | Self::Busy
            | Self::CredentialsRejected
            | Self::Unreachable
            | Self::Timeout => false,
        }
    }

    /// Whether it is about the client's key.
    pub(super) fn is_about_the_key(self) -> bool {
        matches!(self, Self::KeyRequired | Self::KeyRejected)
    }

    /// The shortest sensible pause before another try, where another may help.
    pub(super) fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NoView | Self::Draining | Self::Overloaded | Self::NoEndpoint | Self::Busy => {
                Some(Duration::from_secs(1))
            }
            Self::Malformed
            | Self::HeadTooLarge
            | Self::TargetTooLong
            | Self::BodyBroken
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::Method
            | Self::NotFound
            | Self::KeyRequired
            | Self::KeyRejected
            | Self::Expectation
            | Self::CredentialsRejected
            | Self::Unreachable
            | Self::Timeout => None,
        }
    }
}
