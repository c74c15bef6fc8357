//! Who may send requests: those with a key of a file, if there is one.
//!
//! Keys are compared by their digests. Whoever could choose digests at will could break
//! SHA-256, so how long a comparison takes tells nothing.

use std::{
    collections::HashMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use qcc_proto::{
    client_keys::{self, Digest, FILE_BYTES_MAX},
    rarely::Rarely,
};
use tracing::warn;

use crate::{config::Error, proxy::Fields};

/// One record of requests that were refused in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

type Known = HashMap<Digest, String>;

/// The keys in use. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct ClientKeys(Arc<Shared>);

struct Shared {
    path: PathBuf,
    known: ArcSwap<Known>,
    refusals: Rarely,
}

/// Why a request may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It came without a key.
    Missing,
    /// Its key is none of ours.
    Wrong,
}

impl ClientKeys {
    /// Reads a file.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let known = read(path)?;
        Ok(Self(Arc::new(Shared {
            path: path.to_owned(),
            known: ArcSwap::from_pointee(known),
            refusals: Rarely::new(LOG_INTERVAL),
        })))
    }

    /// Returns the keys of a file; these, if they are the same.
    pub(crate) fn reload(&self, path: &Path) -> Result<Self, Error> {
        let new = Self::load(path)?;
        let is_same = self.0.path == path && *self.0.known.load_full() == *new.0.known.load_full();
        Ok(if is_same { self.clone() } else { new })
    }

    /// Whether it is one with another.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes the file's keys, if they are others than those in use.
    pub(crate) fn refresh(&self) -> Result<bool, Error> {
        let known = read(&self.0.path)?;
        let is_new = **self.0.known.load() != known;
        if is_new {
            self.0.known.store(Arc::new(known));
        }
        Ok(is_new)
    }

    /// Looks for one of the keys, wherever official clients put theirs.
    pub(crate) fn admit(&self, fields: &Fields) -> Result<(), Denied> {
        let bearer = fields.get_all("authorization").filter_map(bearer);
        let plain = fields.get_all("x-api-key");
        let mut denied = Denied::Missing;
        let known = self.0.known.load();
        for key in bearer.chain(plain) {
            if known.contains_key(&client_keys::digest(key)) {
                return Ok(());
            }
            denied = Denied::Wrong;
        }
        drop(known);
        if let Some(suppressed) = self.0.refusals.pass(Instant::now()) {
            let reason = denied.to_string();
            warn!(reason, suppressed, "request refused");
        }
        Err(denied)
    }
}

/// The token of `authorization: Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme
        .eq_ignore_ascii_case(SCHEME)
        .then(|| token.trim_ascii())
}

fn read(path: &Path) -> Result<Known, Error> {
    let error = |source| Error::Read {
        key: "client_keys_file",
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(error)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        let rule = "not a regular file of at most 2 MiB";
        return Err(error(io::Error::other(rule)));
    }
    let text = fs::read_to_string(path).map_err(error)?;
    client_keys::parse(&text).map_err(|source| Error::ClientKeys {
        path: path.to_owned(),
        source,
    })
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "it came without a client key",
            Self::Wrong => "its client key is unknown",
        })
    }
}

impl fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientKeys").field(&self.0.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fields_of;

    #[test]
    fn a_key_is_found_wherever_clients_put_it_and_a_revoked_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |key: &[u8]| client_keys::line("a", &client_keys::digest(key));
        fs::write(file.path(), line(b"ours")).unwrap();
        let keys = ClientKeys::load(file.path()).unwrap();
        for fields in [
            &[("x-api-key", "ours")][..],
            &[("authorization", "Bearer ours")],
            &[("authorization", "bearer  ours ")],
            &[("x-api-key", "theirs"), ("authorization", "Bearer ours")],
        ] {
            assert_eq!(keys.admit(&fields_of(fields)), Ok(()), "{fields:?}");
        }
        for (fields, denied) in [
            (&[][..], Denied::Missing),
            (&[("authorization", "Basic ours")], Denied::Missing),
            (&[("x-api-key", "")], Denied::Wrong),
            (&[("x-api-key", "ours2")], Denied::Wrong),
            (&[("authorization", "Bearer")], Denied::Missing),
        ] {
            assert_eq!(keys.admit(&fields_of(fields)), Err(denied), "{fields:?}");
        }
        assert!(!keys.refresh().unwrap());
        fs::write(file.path(), line(b"other")).unwrap();
        assert!(keys.refresh().unwrap());
        assert_eq!(
            keys.admit(&fields_of(&[("x-api-key", "ours")])),
            Err(Denied::Wrong)
        );
        fs::write(file.path(), "nonsense").unwrap();
        let error = keys.refresh().unwrap_err().to_string();
        assert!(error.contains("line 1 must be NAME:SHA256"), "{error}");
        assert_eq!(keys.admit(&fields_of(&[("x-api-key", "other")])), Ok(()));
    }
}
