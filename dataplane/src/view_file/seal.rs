//! The key, and the file as one sealed box: XChaCha20-Poly1305 with a fresh nonce.
//!
//! The key is in a file of its own. That protects copies of the view (a backup, a disk
//! sent in for repair); against somebody who has both files nothing here helps.

use std::{fmt, path::Path};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};
use tracing::info;
use zeroize::Zeroizing;

use super::{Error, disk};

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;

/// Begins the key file, which is one line of text, so that it can be kept wherever
/// passwords are kept. Its own word: a control plane's key is another thing.
const KEY_FILE_PREFIX: &str = "qcc-view-key-1:";

/// A key, and its id.
pub(crate) struct Seal {
    cipher: XChaCha20Poly1305,
    id: [u8; KEY_ID_BYTES],
}

impl Seal {
    /// Reads the key.
    pub(super) fn load(path: &Path) -> Result<Self, Error> {
        let text = disk::read(path)?.ok_or_else(|| Error::NoKey(path.to_owned()))?;
        let text = Zeroizing::new(text);
        let key = parse(&text).ok_or_else(|| Error::Key(path.to_owned()))?;
        Ok(Self::new(&key))
    }

    /// Reads the key, making one if there is none.
    pub(super) fn load_or_make(path: &Path) -> Result<Self, Error> {
        match Self::load(path) {
            Err(Error::NoKey(_)) => {
                make(path)?;
                Self::load(path) // Somebody else may have been quicker.
            }
            loaded => loaded,
        }
    }

    /// Seals with this key.
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        // One-way, so the view file may hold it.
        let digest = Sha256::new()
            .chain_update("qcc view key id")
            .chain_update(key)
            .finalize();
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest[..KEY_ID_BYTES]);
        Self {
            cipher: XChaCha20Poly1305::new(key.into()),
            id,
        }
    }

    /// Returns the key's id, a nonce, and what is sealed under both, bound to a header.
    pub(super) fn close(&self, header: &[u8], contents: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce)
            .map_err(|error| Error::io("seal with", Path::new("getrandom"), error.into()))?;
        let payload = Payload {
            msg: contents,
            aad: &[header, &self.id].concat(),
        };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| Error::Damaged)?; // Longer than 256 GiB.
        Ok([&self.id[..], &nonce, &sealed].concat())
    }

    /// Returns what was sealed.
    pub(super) fn open(&self, header: &[u8], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let split = |bytes: &[u8]| -> Option<([u8; KEY_ID_BYTES], [u8; NONCE_BYTES], Vec<u8>)> {
            let (id, rest) = bytes.split_first_chunk()?;
            let (nonce, sealed) = rest.split_first_chunk()?;
            Some((*id, *nonce, sealed.to_vec()))
        };
        let (id, nonce, sealed) = split(bytes).ok_or(Error::Damaged)?;
        if id != self.id {
            return Err(Error::OtherKey);
        }
        let payload = Payload {
            msg: &sealed,
            aad: &[header, &self.id].concat(),
        };
        let opened = self.cipher.decrypt(&XNonce::from(nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| Error::Damaged)
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(..)")
    }
}

/// Makes a key file, unless there is one.
fn make(path: &Path) -> Result<(), Error> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(|error| Error::io("make a key for", path, error.into()))?;
    let mut text = Zeroizing::new(Vec::with_capacity(128)); // Never moved, so no copies.
    text.extend_from_slice(KEY_FILE_PREFIX.as_bytes());
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in *key {
        text.extend([byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
    }
    text.push(b'\n');
    disk::make_parent(path)?;
    if disk::create(path, &text)? {
        info!(path = %path.display(), "made a key that seals the kept view");
    }
    Ok(())
}

fn parse(text: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let digits = text.strip_prefix(KEY_FILE_PREFIX)?.as_bytes();
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(key)
}
