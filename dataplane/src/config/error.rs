//! What can be wrong with a configuration.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use qcc_proto::{client_keys, tls};

/// Why there is no [`Config`](super::Config).
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Read {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not one of ours.
    File {
        /// Where it is, if it came from a path.
        path: Option<PathBuf>,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A value breaks its rule.
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// A certificate needs its key, and a key its certificate.
    HalfPair {
        /// What there is.
        present: &'static str,
        /// What there is not.
        missing: &'static str,
    },
    /// A file of certificates or keys cannot be used.
    Tls(tls::Error),
    /// A file of client keys has a wrong line.
    ClientKeys {
        /// Where it is.
        path: PathBuf,
        /// The line and its rule.
        source: client_keys::Error,
    },
    /// Nobody but this machine may be listened to unless there is TLS, and those who ask
    /// prove who they are.
    InsecureListen {
        /// The key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What there is not.
        missing: &'static str,
        /// What would bring it.
        remedy: &'static str,
    },
}

impl Error {
    pub(super) fn value(key: &'static str, value: &str, rule: impl Into<String>) -> Self {
        Self::Value {
            key,
            value: value.to_owned(),
            rule: rule.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "read `{}`: {source}", path.display()),
            Self::File { path, source } => {
                if let Some(path) = path {
                    write!(f, "parse `{}`: ", path.display())?;
                }
                write!(f, "{}", source.to_string().trim_end())
            }
            Self::Value { key, value, rule } => {
                write!(f, "invalid {key} `{value}`: must be {rule}")
            }
            Self::HalfPair { present, missing } => {
                write!(f, "{present} is given, so {missing} must be too")
            }
            Self::Tls(error) => error.fmt(f),
            Self::ClientKeys { path, source } => {
                write!(f, "client keys `{}`: {source}", path.display())
            }
            Self::InsecureListen {
                key,
                address,
                missing,
                remedy,
            } => write!(
                f,
                "invalid {key} `{address}`: other machines could connect, without {missing}; \
                 use a loopback address, {remedy}or allow it with --insecure-listen"
            ),
        }
    }
}

impl std::error::Error for Error {}
