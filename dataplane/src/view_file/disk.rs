//! Files that are whole or not there, and that nobody else reads.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::Error;

/// Larger than the view of any cluster that a proxy takes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// What a file is called until it is complete. Whatever has this name is the rest of an
/// interrupted writing.
const INCOMPLETE: &str = ".incomplete";

/// Reads a file that is its owner's alone; `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    // Asked before opening: a FIFO would block.
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("look at", path, error)),
    };
    if !metadata.is_file() {
        return Err(Error::Foreign(path.to_owned()));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::Exposed(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    (file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::TooLarge(path.to_owned()));
    }
    Ok(Some(bytes))
}

/// Puts a file in the place of what is there. Whoever looks, also after a crash, finds
/// the old or the new one, whole.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let incomplete = incomplete(path);
    match fs::remove_file(&incomplete) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::io("remove", &incomplete, error));
        }
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&incomplete)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    written.map_err(|error| Error::io("write", &incomplete, error))?;
    fs::rename(&incomplete, path)
        .and_then(|()| File::open(parent(path))?.sync_all())
        .map_err(|error| Error::io("complete", path, error))
}

/// Makes the directory of a file, for its owner alone.
pub(super) fn make_parent(path: &Path) -> Result<(), Error> {
    let parent = parent(path);
    if parent.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|error| Error::io("create directory", parent, error))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn incomplete(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(INCOMPLETE);
    name.into()
}
