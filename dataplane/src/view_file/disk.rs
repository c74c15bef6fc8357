//! Files that are whole or not there, and that nobody else reads.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
    time::Duration,
};

use super::Error;

/// Larger than the view of any cluster that a proxy takes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// How a file's name ends until it is complete. Before it is what makes it this writing's.
const INCOMPLETE: &str = ".incomplete";

/// No writing takes so long: what is incomplete and older is the rest of an interrupted one.
const WRITING_MAX: Duration = Duration::from_secs(10 * 60);

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
    clean(path);
    write(path, bytes, |incomplete| fs::rename(incomplete, path))
}

/// Puts a file where there is none, and returns whether there was none.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<bool, Error> {
    let mut is_new = true;
    write(path, bytes, |incomplete| {
        // Other than a renaming it takes nothing's place.
        let linked = fs::hard_link(incomplete, path);
        fs::remove_file(incomplete)?;
        match linked {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => is_new = false,
            linked => linked?,
        }
        Ok(())
    })?;
    Ok(is_new)
}

/// Writes a file under a name of its own, and has it put in its place.
fn write(
    path: &Path,
    bytes: &[u8],
    put: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Error> {
    let incomplete = incomplete(path);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&incomplete)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
    let put = match written {
        Ok(()) => put(&incomplete)
            .and_then(|()| File::open(parent(path))?.sync_all())
            .map_err(|error| Error::io("complete", path, error)),
        Err(error) => Err(Error::io("write", &incomplete, error)),
    };
    if put.is_err() {
        let _ = fs::remove_file(&incomplete); // What was wrong before counts.
    }
    put
}

/// Removes the rests of interrupted writings. What is in the way of that is in nobody's
/// way otherwise.
fn clean(path: &Path) {
    let Some(name) = path.file_name().map(OsStr::as_encoded_bytes) else {
        return;
    };
    let Ok(entries) = fs::read_dir(parent(path)) else {
        return;
    };
    for entry in entries.flatten() {
        let other = entry.file_name();
        let rest = other.as_encoded_bytes().strip_prefix(name);
        if !rest.is_some_and(|rest| rest.ends_with(INCOMPLETE.as_bytes())) {
            continue;
        }
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        let age = age.ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age > WRITING_MAX) {
            let _ = fs::remove_file(entry.path());
        }
    }
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
    name.push(format!(".{}-{:016x}", process::id(), rand::random::<u64>()));
    name.push(INCOMPLETE);
    name.into()
}
