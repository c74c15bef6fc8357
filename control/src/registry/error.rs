//! Why a mutation is refused.

use std::fmt;

use super::{ClusterName, EndpointName};

/// A mutation that was refused. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// No such cluster.
    UnknownCluster(ClusterName),
    /// No such endpoint.
    UnknownEndpoint(EndpointName),
    /// The name is taken.
    ClusterExists(ClusterName),
    /// The name is taken.
    EndpointExists(EndpointName),
    /// The resource has changed since it was read.
    EtagMismatch {
        /// The etag now.
        current: String,
    },
    /// The cluster still has endpoints.
    ClusterInUse(ClusterName),
    /// The default cluster cannot be deleted.
    DefaultCluster,
    /// The endpoint is not in the failure queue.
    NotQueued(EndpointName),
    /// A disabled endpoint is not checked.
    Disabled(EndpointName),
    /// The endpoint's check is `none`.
    NothingToCheck(EndpointName),
    /// The base URL changes, so its key must be entered again.
    CredentialNeeded(EndpointName),
    /// An endpoint cannot move to another cluster.
    ClusterImmutable(EndpointName),
    /// The request id was used for another request.
    RequestIdReused,
    /// A limit is reached.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCluster(name) => write!(f, "unknown cluster `{name}`"),
            Self::UnknownEndpoint(name) => write!(f, "unknown endpoint `{name}`"),
            Self::ClusterExists(name) => write!(f, "cluster `{name}` exists already"),
            Self::EndpointExists(name) => write!(f, "endpoint `{name}` exists already"),
            Self::EtagMismatch { current } => {
                write!(
                    f,
                    "it was changed since it was read (the etag is now `{current}`)"
                )
            }
            Self::ClusterInUse(name) => write!(f, "cluster `{name}` still has endpoints"),
            Self::DefaultCluster => f.write_str("cluster `default` cannot be deleted"),
            Self::NotQueued(name) => write!(f, "endpoint `{name}` is not in the failure queue"),
            Self::Disabled(name) => {
                write!(f, "endpoint `{name}` is disabled, so it is not checked")
            }
            Self::NothingToCheck(name) => {
                write!(
                    f,
                    "endpoint `{name}` has check `none`: there is nothing to ask"
                )
            }
            Self::CredentialNeeded(name) => write!(
                f,
                "endpoint `{name}` gets another base URL, so its credential must be entered again"
            ),
            Self::ClusterImmutable(name) => write!(
                f,
                "endpoint `{name}` cannot move to another cluster; delete it and create it there"
            ),
            Self::RequestIdReused => f.write_str("the request id was used for another request"),
            Self::TooMany { what, limit } => write!(f, "there may be at most {limit} {what}"),
        }
    }
}

impl std::error::Error for Error {}
