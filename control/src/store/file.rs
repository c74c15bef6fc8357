//! Files: created whole or not at all, locked, never overwritten.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::Error;

/// What a file is called until it is complete. Whatever has this name is the rest of
/// an interrupted creation.
const INCOMPLETE: &str = ".incomplete";

/// Creates a directory, and those above it, for its owner alone.
pub(super) fn create_directory(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::io("create directory", path, error))?;
    sync_parent(path)
}

/// Locks a directory for as long as the result lives; also if the process is killed.
pub(super) fn lock_directory(path: &Path) -> Result<File, Error> {
    let directory = File::open(path).map_err(|error| Error::io("open directory", path, error))?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.into() }),
        Err(TryLockError::Error(error)) => Err(Error::io("lock directory", path, error)),
    }
}

/// Whether there is anything of this name, be it a dangling link.
pub(super) fn exists(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("look at", path, error)),
    }
}

/// Reads a whole data file. What is no regular file could block forever.
pub(super) fn read_image(path: &Path) -> Result<Vec<u8>, Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::io("open", path, error))?;
    if !metadata.is_file() {
        return Err(Error::Foreign { path: path.into() });
    }
    fs::read(path).map_err(|error| Error::io("read", path, error))
}

/// Creates a file, for its owner alone, that has its name only once `write` is done
/// and everything is on disk. Whoever calls this knows that the name is free and
/// holds the lock that keeps it so.
pub(super) fn publish(
    path: &Path,
    write: impl FnOnce(File) -> Result<(), redb::Error>,
) -> Result<(), Error> {
    let incomplete = incomplete(path);
    match fs::remove_file(&incomplete) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("remove", &incomplete, error)),
    }
    let create = |error| Error::io("create", &incomplete, error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&incomplete)
        .map_err(create)?;
    let writable = file.try_clone().map_err(create)?;
    write(writable).map_err(|error| Error::write(&incomplete, error))?;
    file.sync_all()
        .and_then(|()| fs::rename(&incomplete, path))
        .map_err(|error| Error::io("complete", path, error))?;
    sync_parent(path)
}

/// Makes the name of a new file or directory durable.
fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(|error: io::Error| Error::io("sync directory", parent, error))
}

fn incomplete(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(INCOMPLETE);
    name.into()
}
