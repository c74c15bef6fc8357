//! Encryption of records that hold credentials.
//!
//! XChaCha20-Poly1305 with a random nonce per record, bound to the record's table and
//! key, so that no record can be passed off as another. The key is in a file of its
//! own. That protects copies of the data file (backups, snapshots, a disk sent in for
//! repair); against somebody who has both files nothing here helps.

use std::{
    fmt,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Error, Record, Table, error::Flaw, file};

/// First byte of a sealed value; changes with the way of sealing.
const SEALING: u8 = 1;

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// Begins the key file, which is one line of text, so that it can be kept wherever
/// passwords are kept.
const KEY_FILE_PREFIX: &str = "qcc-seal-key-1:";

/// Most bytes that are read of a key file. Generous, so that a wrong file is seen to
/// be wrong rather than cut to size.
const KEY_FILE_BYTES_MAX: u64 = 1024;

/// A key that seals records, and its id.
pub(super) struct Seal {
    cipher: XChaCha20Poly1305,
    id: String,
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Seal {
    pub(super) fn new(key: &[u8; KEY_BYTES]) -> Self {
        // One-way, so the data file may hold it.
        let digest = Sha256::new()
            .chain_update("qcc seal key id")
            .chain_update(key)
            .finalize();
        Self {
            cipher: XChaCha20Poly1305::new(key.into()),
            id: hex(&digest[..8]).to_string(),
        }
    }

    /// Makes a key that is in no file.
    #[cfg(test)]
    pub(super) fn random() -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *key).unwrap();
        Self::new(&key)
    }

    /// Loads the key for a new data file, making one if there is none.
    pub(super) fn load_or_create(path: &Path) -> Result<Self, Error> {
        if !file::exists(path)? {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            getrandom::fill(&mut *key)
                .map_err(|error| Error::io("make a key for", path, error.into()))?;
            let text = hex(&*key);
            file::publish(path, |mut file| {
                file.write_all(KEY_FILE_PREFIX.as_bytes())
                    .and_then(|()| file.write_all(text.as_bytes()))
                    .and_then(|()| file.write_all(b"\n"))
                    .map_err(redb::Error::Io)
            })?;
        }
        Self::read(path)
    }

    /// Loads the key with which a data file was sealed.
    pub(super) fn load(path: &Path, needed: &str) -> Result<Self, Error> {
        if !file::exists(path)? {
            return Err(Error::SealKeyMissing { path: path.into() });
        }
        let seal = Self::read(path)?;
        if seal.id == needed {
            return Ok(seal);
        }
        Err(Error::SealKeyWrong {
            path: path.into(),
            needed: needed.into(),
            found: seal.id,
        })
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let open = |error| Error::io("open", path, error);
        let invalid = || Error::SealKeyInvalid { path: path.into() };
        // Asked before opening: a FIFO would block.
        let metadata = fs::metadata(path).map_err(open)?;
        if !metadata.is_file() {
            return Err(invalid());
        }
        if metadata.permissions().mode() & 0o007 != 0 {
            return Err(Error::SealKeyExposed { path: path.into() });
        }
        // Its size is known, so that it is never moved, leaving copies behind.
        let mut text = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize + 1));
        File::open(path)
            .and_then(|file| file.take(KEY_FILE_BYTES_MAX).read_to_end(&mut text))
            .map_err(open)?;
        let digits = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().strip_prefix(KEY_FILE_PREFIX))
            .ok_or_else(invalid)?;
        let key = unhex(digits).ok_or_else(invalid)?;
        Ok(Self::new(&key))
    }

    /// Names the key without giving it away.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns a value as it goes into the file.
    pub(super) fn seal(&self, record: &Record) -> Result<Vec<u8>, redb::Error> {
        if !record.table.sealed() {
            return Ok(record.value.to_vec());
        }
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| redb::Error::Io(error.into()))?;
        let payload = Payload {
            msg: &record.value,
            aad: &associated_data(record.table, &record.key),
        };
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| redb::Error::Io(std::io::Error::other("value too long to be sealed")))?;
        Ok([&[SEALING], &nonce[..], &sealed].concat())
    }

    /// Returns a record as it was before it was sealed.
    pub(super) fn unseal(&self, record: Record) -> Result<Record, Flaw> {
        if !record.table.sealed() {
            return Ok(record);
        }
        let flaw = || {
            let table = record.table.name();
            Flaw::damaged(format_args!(
                "record `{}` of {table} cannot be unsealed",
                record.key
            ))
        };
        let (nonce, sealed) = record
            .value
            .strip_prefix(&[SEALING])
            .and_then(|rest| rest.split_first_chunk::<NONCE_BYTES>())
            .ok_or_else(flaw)?;
        let payload = Payload {
            msg: sealed,
            aad: &associated_data(record.table, &record.key),
        };
        let value = self
            .cipher
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| flaw())?;
        Ok(Record {
            value: Zeroizing::new(value),
            ..record
        })
    }
}

/// What a sealed value is bound to. Table names hold no NUL, so this is unambiguous.
fn associated_data(table: Table, key: &str) -> Vec<u8> {
    [&[SEALING], table.name().as_bytes(), &[0], key.as_bytes()].concat()
}

fn hex(bytes: &[u8]) -> Zeroizing<String> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| DIGITS[usize::from(digit)] as char);
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    text.extend(digits);
    text
}

fn unhex(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = (digit(digits[0])? << 4 | digit(digits[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(key: &str, value: &[u8]) -> Record {
        Record {
            table: Table::Endpoints,
            key: key.into(),
            value: Zeroizing::new(value.into()),
        }
    }

    #[test]
    fn a_sealed_record_opens_only_as_itself_and_unaltered() {
        let seal = Seal::random();
        let record = endpoint("a", b"sk-1");
        let sealed = seal.seal(&record).unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"sk-1"));
        assert_ne!(sealed, seal.seal(&record).unwrap(), "nonces are fresh");
        assert_eq!(seal.unseal(endpoint("a", &sealed)), Ok(record));

        assert!(seal.unseal(endpoint("b", &sealed)).is_err());
        assert!(Seal::random().unseal(endpoint("a", &sealed)).is_err());
        for index in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[index] ^= 1;
            assert!(
                seal.unseal(endpoint("a", &altered)).is_err(),
                "byte {index}"
            );
            assert!(seal.unseal(endpoint("a", &sealed[..index])).is_err());
        }
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        let bytes = std::array::from_fn(|index| index as u8 * 8);
        assert_eq!(*unhex(&hex(&bytes)).unwrap(), bytes);
        assert!(unhex(&"g".repeat(64)).is_none());
        assert!(unhex("00").is_none());
    }
}
