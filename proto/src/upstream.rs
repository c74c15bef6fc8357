//! What a request to an endpoint looks like, and what its answer means.
//!
//! The data plane sends clients' requests to endpoints; the control plane sends
//! checks. A check proves something only if it is built as a proxied request is
//! built, and its answer read as a proxied answer is read. So both use this module:
//!
//! - [`target`], [`path_of`]: an endpoint's base URL and a request's path, joined byte for byte.
//! - [`credential_header`], [`is_client_credential`], [`set_credential`]: the client's
//!   credentials out, ours in.
//! - [`may_connect`]: the addresses that no endpoint may have.
//! - [`classify`], [`class_of_error_type`], [`retry_after`]: who is to blame, and
//!   how long to wait.
//!
//! No function here does I/O or reads a clock.

mod address;
mod request;
mod verdict;

pub use address::may_connect;
pub use request::{
    Credential, credential_header, default_scheme, is_client_credential, path_of, set_credential,
    target,
};
pub use verdict::{RETRY_AFTER_MAX, Verdict, class_of_error_type, classify, retry_after};

use std::fmt;

/// Why a request cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The base URL has no scheme or no host.
    RelativeBase,
    /// The path does not begin with `/`, or holds bytes that no path may hold.
    Path,
    /// Base URL and path together are longer than a URL may be (64 KiB).
    TooLong,
    /// The credential is empty, or holds bytes that no header value may hold.
    Credential,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the path nor the credential is repeated: errors are logged.
        f.write_str(match self {
            Self::RelativeBase => "the base URL has no scheme or no host",
            Self::Path => "the path does not begin with `/` or has invalid bytes",
            Self::TooLong => "the URL is longer than 65534 bytes",
            Self::Credential => "the credential is empty or has invalid bytes",
        })
    }
}

impl std::error::Error for Error {}
