//! Small files that others write.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::Error;

/// Larger than any honest chain or list of authorities.
const BYTES_MAX: u64 = 4 << 20;

/// Anybody's permission to read or write.
const OTHERS: u32 = 0o006;

/// Reads a file that everybody may know.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    read_regular(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// Reads a file with a key. A group may read it: that is how a service gets at a key that
/// it does not own.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, Error> {
    let bytes = read(path)?;
    let mode = fs::metadata(path).map(|metadata| metadata.permissions().mode() & 0o7777);
    match mode {
        Ok(mode) if mode & OTHERS == 0 => Ok(bytes),
        Ok(mode) => Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        }),
        Err(source) => Err(Error::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// A pipe or a device could block for ever, or never end.
fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("larger than 4 MiB"));
    }
    Ok(bytes)
}
