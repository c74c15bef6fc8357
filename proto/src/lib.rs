//! The wire contract of qcc, package `qcc.v1`.
//!
//! - [`v1`]: generated messages, clients and servers.
//! - [`encoded`]: a server for `HealthSyncService` whose updates are encoded once.
//! - [`exposition`], [`plain`]: metrics and probes over plain HTTP, beside gRPC.
//! - [`client_keys`]: the file of those who may send requests through a proxy.
//! - [`listen`]: how daemons do.
//! - [`tls`]: certificates and authorities that may change while they are used, and
//!   connections with them. [`rarely`]: log records about what strangers do.
//! - [`reload`]: a configuration that is read again while its program runs.
//! - [`resources`]: the file in which people declare clusters and endpoints.
//! - [`defaults`]: what a cluster's policy is unless somebody says otherwise.
//! - [`duration`]: durations as people write them.
//! - [`upstream`]: requests to endpoints and the meaning of their answers.
//! - [`FILE_DESCRIPTOR_SET`]: the same contract as data, for reflection and JSON.

pub mod client_keys;
pub mod defaults;
pub mod duration;
pub mod encoded;
pub mod exposition;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod listen;
pub mod plain;
pub mod rarely;
pub mod reload;
pub mod resources;
pub mod tls;
pub mod upstream;

use std::fmt;

/// Messages, clients and servers of package `qcc.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("qcc.v1");
}

/// Encoded `google.protobuf.FileDescriptorSet` of package `qcc.v1`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/qcc.v1.bin"));

/// Domain of the `google.rpc.ErrorInfo` that every error carries (AIP-193).
pub const ERROR_DOMAIN: &str = "qcc";

/// What a secret prints as.
const REDACTED: &str = "[redacted]";

impl fmt::Debug for v1::Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("api_key", &REDACTED)
            .field("fingerprint", &self.fingerprint)
            .finish()
    }
}

impl fmt::Debug for v1::RoutedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutedEndpoint")
            .field("name", &self.name)
            .field("base_url", &self.base_url)
            .field("api_key", &REDACTED)
            .field("generation", &self.generation)
            .field("admin_state", &self.admin_state())
            .field("state", &self.state())
            .field("cause", &self.cause())
            .finish_non_exhaustive()
    }
}

// Order of views: term first.
impl Ord for v1::View {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.term, self.revision).cmp(&(other.term, other.revision))
    }
}

impl PartialOrd for v1::View {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for v1::View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.revision)
    }
}
