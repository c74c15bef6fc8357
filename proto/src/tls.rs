//! TLS as all programs of qcc use it: one provider (ring), TLS 1.2 or newer, and files
//! that may change while they are used.
//!
//! - [`Identity`]: the certificate that a listener shows, and its key.
//! - [`Trust`]: the authorities that a client believes.
//! - [`Door`], [`Inbound`]: what a listener makes of an accepted connection.
//! - [`watch`]: takes the new content of files that have changed.
//! - [`connect`], [`Failed`]: a gRPC channel, encrypted if its address says `https`, and
//!   never if it does not.
//!
//! Identity and trust are read again when their files' *content* is another: a link that
//! is turned to a new directory, as mounted secrets are, changes neither name nor time of
//! what it leads to. What cannot be used is refused whole, and what was there stays.

mod files;
mod identity;
mod inbound;
mod outbound;
mod sessions;
#[cfg(test)]
mod tests;
mod trust;
mod watch;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::crypto::{CryptoProvider, ring};

pub use identity::{Identity, Pair, StagedIdentity};
pub use inbound::{Door, Inbound};
pub use outbound::{Failed, connect, explain, is_wanted};
pub use trust::{Roots, StagedTrust, Trust};
pub use watch::{Watched, watch};

/// How often programs look whether files have changed.
const WATCH_INTERVAL: Duration = Duration::from_secs(3);

/// HTTP over TLS, the newer protocol first.
pub const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// gRPC over TLS.
const GRPC: &[&[u8]] = &[b"h2"];

/// What is wrong with files of certificates or keys.
#[derive(Debug)]
pub enum Error {
    /// A file cannot be read.
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Every user of the machine may read or change a file with a key.
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file does not hold what it should.
    Content {
        /// Which.
        path: PathBuf,
        /// What it must hold.
        rule: &'static str,
    },
    /// Certificate and key do not belong together.
    Mismatch(Pair),
}

impl Error {
    /// The file that it is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::Read { path, .. } | Self::Exposed { path, .. } | Self::Content { path, .. } => {
                path
            }
            Self::Mismatch(pair) => &pair.key,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "read `{}`: {source}", path.display()),
            Self::Exposed { path, mode } => write!(
                f,
                "`{}` holds a key, and every user of this machine may read or change it (mode \
                 {mode:04o}): make it 0600 or 0640",
                path.display()
            ),
            Self::Content { path, rule } => write!(f, "`{}` must hold {rule}", path.display()),
            Self::Mismatch(pair) => write!(
                f,
                "the key in `{}` must be that of the first certificate in `{}`",
                pair.key.display(),
                pair.cert.display()
            ),
        }
    }
}

impl std::error::Error for Error {}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn owned(protocols: &[&[u8]]) -> Vec<Vec<u8>> {
    protocols.iter().map(|it| it.to_vec()).collect()
}
