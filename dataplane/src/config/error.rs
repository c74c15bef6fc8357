//! What can be wrong with a configuration.

use std::{fmt, io, net::SocketAddr, path::PathBuf};

use qcc_proto::{
    client_keys,
    reload::{Misread, Rejected},
    tls,
};

/// Why there is no [`Config`](super::Config).
#[derive(Debug)]
pub enum Error {
    /// A file cannot be read.
    Read {
        /// The key that names it; empty for the configuration itself.
        key: &'static str,
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
        source: Misread,
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
    Tls {
        /// The key that names it.
        key: &'static str,
        /// Why.
        source: tls::Error,
    },
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
            value: without_user(value),
            rule: rule.into(),
        }
    }

    /// Names file, setting and rule, each as far as it is known. Shows no line of the file:
    /// what stands there by mistake may be a secret.
    pub(crate) fn rejected(&self) -> Rejected {
        let message = self.to_string();
        let (file, field, rule) = match self {
            Self::Read { key, path, .. } => (Some(path), *key, String::new()),
            Self::File { path, source } => return source.rejected(path.as_deref()),
            Self::Value { key, rule, .. } => (None, *key, format!("must be {rule}")),
            Self::HalfPair { missing, present } => {
                let rule = format!("must be given, since {present} is");
                (None, *missing, rule)
            }
            Self::Tls { key, source } => {
                let rule = match source {
                    tls::Error::Content { rule, .. } => format!("must hold {rule}"),
                    tls::Error::Read { .. }
                    | tls::Error::Exposed { .. }
                    | tls::Error::Mismatch(_) => source.to_string(),
                };
                return Rejected {
                    message,
                    file: source.path().display().to_string(),
                    field: (*key).to_owned(),
                    rule,
                };
            }
            Self::ClientKeys { path, source } => {
                (Some(path), "client_keys_file", source.to_string())
            }
            Self::InsecureListen { key, missing, .. } => {
                let rule = format!("must be a loopback address, without {missing}");
                (None, *key, rule)
            }
        };
        Rejected {
            message,
            file: file.map_or_else(String::new, |path| path.display().to_string()),
            field: field.to_owned(),
            rule,
        }
    }
}

/// A value as it is shown: what an address says before its host may be a password.
fn without_user(value: &str) -> String {
    match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://[redacted]@{host}"),
        (_, Some((_, host))) => format!("[redacted]@{host}"),
        (_, None) => value.to_owned(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source, .. } => write!(f, "read `{}`: {source}", path.display()),
            Self::File { path, source } => {
                if let Some(path) = path {
                    write!(f, "parse `{}`: ", path.display())?;
                }
                source.fmt(f)
            }
            Self::Value { key, value, rule } => {
                write!(f, "invalid {key} `{value}`: must be {rule}")
            }
            Self::HalfPair { present, missing } => {
                write!(f, "{present} is given, so {missing} must be too")
            }
            Self::Tls { source, .. } => source.fmt(f),
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
