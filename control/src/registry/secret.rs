//! Credentials, held so that they do not leak by accident.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// An endpoint's key. Prints as `[redacted]`, is wiped when the last owner drops
/// it, and has no serde form: only `records` writes it, into a sealed value.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(Arc<Zeroizing<String>>);

impl ApiKey {
    /// Takes a key.
    pub fn new(key: String) -> Self {
        Self(Arc::new(Zeroizing::new(key)))
    }

    /// Returns the place of a key that is read from elsewhere.
    pub(super) fn nothing() -> Self {
        Self::new(String::new())
    }

    /// Returns the key itself. Every caller is a place to look at.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns 8 hex digits that tell keys apart. `salt` is the registry's own, so
    /// that nobody can look a fingerprint up in a table of known keys.
    pub fn fingerprint(&self, salt: &[u8]) -> String {
        let mut hash = Sha256::new();
        hash.update((salt.len() as u64).to_be_bytes());
        hash.update(salt);
        hash.update(self.0.as_bytes());
        hash.finalize()[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
