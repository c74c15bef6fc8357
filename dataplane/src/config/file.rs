//! The configuration file, as written.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use qcc_proto::reload::Misread;
use serde::Deserialize;

use super::Error;

/// Larger than any honest configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration file. Keys are named like the flags.
#[allow(missing_docs)]
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub listen: Option<String>,
    pub admin_listen: Option<String>,
    pub allow_host: Option<OneOrMore>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub admin_tls_cert: Option<PathBuf>,
    pub admin_tls_key: Option<PathBuf>,
    pub client_keys_file: Option<PathBuf>,
    pub insecure_listen: Option<bool>,
    pub control: Option<OneOrMore>,
    pub ca_file: Option<PathBuf>,
    pub upstream_ca_file: Option<PathBuf>,
    pub cluster: Option<String>,
    pub id: Option<String>,
    pub ready_file: Option<PathBuf>,
    pub view_file: Option<PathBuf>,
    pub no_view_file: Option<bool>,
    pub view_key_file: Option<PathBuf>,
    pub drain_timeout: Option<String>,
    pub client_stall_timeout: Option<String>,
    pub client_idle_timeout: Option<String>,
    pub header_read_timeout: Option<String>,
    pub body_idle_timeout: Option<String>,
    pub connections_max: Option<usize>,
    pub connections_per_address_max: Option<usize>,
    pub idle_connections_max: Option<usize>,
    pub requests_max: Option<usize>,
    pub waiting_max: Option<usize>,
    pub replay_max_bytes: Option<usize>,
    pub replay_total_bytes: Option<usize>,
    pub body_max_bytes: Option<u64>,
    pub reports_max: Option<usize>,
    pub log: Option<String>,
    pub log_format: Option<String>,
}

/// A text or a list of texts.
#[allow(missing_docs)]
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(value) => vec![value],
            Self::More(values) => values,
        }
    }
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Fails if it is not a readable file of reasonable size, or not one of ours.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = text(path).map_err(|source| Error::Read {
            key: "",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|error| match error {
            Error::File { source, .. } => Error::File {
                path: Some(path.to_owned()),
                source,
            },
            other => other,
        })
    }

    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let at = error.span().map(|span| span.start);
            Error::File {
                path: None,
                source: Misread::new(text, at, error.message()),
            }
        })
    }
}

/// A pipe or a device could block for ever, or never end.
fn text(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    fs::read_to_string(path)
}
