//! The last view on disk: what a proxy starts from when no control plane answers.
//!
//! - [`disk`]: files that are whole or not there, and nobody else's.
//! - [`seal`]: the key, and the file as one sealed box.
//! - [`contents`]: a view as bytes, and back.
//! - [`saver`]: when it is written.
//!
//! ```text
//!   "qcc-view\n"  format  key's id  nonce  sealed: cluster, time, view, policy, endpoints
//!   9 bytes       1       8         24     the rest; its tag covers all before it
//! ```
//!
//! All of it is sealed, since endpoints carry keys; the seal is the checksum as well.
//! A file that is damaged, of another format, sealed with another key, of another
//! cluster or open to other users is not used and says so; one that is not ours is never
//! written over. Of local marks only rejections of a credential are kept, which are about
//! the credential: the others are about connections of a process that is gone.

mod contents;
mod disk;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod saver;
mod seal;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use qcc_proto::v1::View;

use crate::routing::{Generation, Policy, Routed, Table};
use contents::Contents;
pub(crate) use saver::Saver;
pub(crate) use seal::Seal;

/// Begins the file.
const MAGIC: &[u8] = b"qcc-view\n";
/// Follows it; changes with the layout of what is sealed.
const FORMAT: u8 = 1;
/// What is added to the view file's name if the key file has none of its own.
const KEY_SUFFIX: &str = ".key";

/// Where the view is kept.
#[derive(Debug)]
pub(crate) struct ViewFile {
    path: PathBuf,
    key_path: PathBuf,
    cluster: String,
}

/// A view that an earlier process kept.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The registry that it belongs to; empty if that is not known by name.
    pub registry_id: String,
    /// The view.
    pub view: View,
    /// The cluster's policy.
    pub policy: Policy,
    /// Its endpoints.
    pub endpoints: Vec<Arc<Routed>>,
    /// Generations whose credential that process saw rejected.
    pub rejected: Vec<Generation>,
    /// Whether endpoints are shut or missing because that process could not use what the
    /// control plane said of them. Another version may.
    pub has_left_out: bool,
    /// Time since a control plane confirmed it, at most, by the wall clock: for people.
    pub age: Duration,
}

/// Why a view cannot be read or kept.
#[derive(Debug)]
pub(crate) enum Error {
    /// The file system refused.
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Other users may read it.
    Exposed(PathBuf),
    /// It is something else than a view, or than a file.
    Foreign(PathBuf),
    /// It is larger than any view.
    TooLarge(PathBuf),
    /// It is of another version of this program.
    Format(u8),
    /// It is sealed with another key.
    OtherKey,
    /// It is torn or altered.
    Damaged,
    /// It is of another cluster.
    OtherCluster(String),
    /// The key file holds no key.
    Key(PathBuf),
    /// There is no key file.
    NoKey(PathBuf),
}

impl Error {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                doing,
                path,
                source,
            } => write!(f, "{doing} `{}`: {source}", path.display()),
            Self::Exposed(path) => {
                let path = path.display();
                write!(f, "`{path}` is open to other users; `chmod 600` it")
            }
            Self::Foreign(path) => write!(f, "`{}` is not a kept view", path.display()),
            Self::TooLarge(path) => write!(f, "`{}` is too large for a view", path.display()),
            Self::Format(format) => write!(f, "it has format {format}, not {FORMAT}"),
            Self::OtherKey => f.write_str("it is sealed with another key"),
            Self::Damaged => f.write_str("it is damaged"),
            Self::OtherCluster(cluster) => write!(f, "it is of cluster `{cluster}`"),
            Self::NoKey(path) => write!(f, "its key `{}` is not there", path.display()),
            Self::Key(path) => write!(f, "`{}` holds no key", path.display()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(feature = "simulation")]
impl Kept {
    /// Returns a table as it is kept, without seal and file.
    pub(crate) fn bytes(table: &Table, now: Instant) -> Vec<u8> {
        let contents = Contents::of("default", table, SystemTime::UNIX_EPOCH, now);
        contents.encode().to_vec()
    }

    /// Reads it back.
    pub(crate) fn read(bytes: &[u8], now: Instant) -> Result<Self, Error> {
        Contents::decode(bytes)?.into_kept(now)
    }
}

impl ViewFile {
    /// Names the file, its key (by default beside it), and the cluster it is about.
    pub(crate) fn new(path: PathBuf, key_path: Option<PathBuf>, cluster: String) -> Self {
        let beside = || {
            let mut name = path.clone().into_os_string();
            name.push(KEY_SUFFIX);
            name.into()
        };
        Self {
            key_path: key_path.unwrap_or_else(beside),
            path,
            cluster,
        }
    }

    /// Returns where the view is kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether a view may be written after reading has failed like this: not over
    /// something that is not ours, and not with a key that others know.
    pub(crate) fn may_be_replaced_after(&self, error: &Error) -> bool {
        match error {
            Error::Foreign(_) | Error::TooLarge(_) | Error::Key(_) => false,
            Error::Exposed(path) => *path != self.key_path,
            Error::Io { .. }
            | Error::Format(_)
            | Error::OtherKey
            | Error::NoKey(_)
            | Error::Damaged
            | Error::OtherCluster(_) => true,
        }
    }

    /// Reads the view; `None` if there is none. Changes nothing. Blocks.
    pub(crate) fn load(&self) -> Result<Option<Kept>, Error> {
        let Some(bytes) = disk::read(&self.path)? else {
            return Ok(None);
        };
        self.unpack(&bytes, || Seal::load(&self.key_path)).map(Some)
    }

    /// Reads the view in the bytes of the file.
    fn unpack(
        &self,
        bytes: &[u8],
        seal: impl FnOnce() -> Result<Seal, Error>,
    ) -> Result<Kept, Error> {
        // Shorter than its beginning: torn, if so far it is right.
        let Some(sealed) = bytes.strip_prefix(MAGIC) else {
            return Err(match MAGIC.starts_with(bytes) {
                true => Error::Damaged,
                false => Error::Foreign(self.path.clone()),
            });
        };
        let (&format, sealed) = sealed.split_first().ok_or(Error::Damaged)?;
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let contents = Contents::decode(&seal()?.open(&header(), sealed)?)?;
        if contents.cluster != self.cluster {
            return Err(Error::OtherCluster(contents.cluster));
        }
        contents.into_kept(Instant::now())
    }

    /// Reads the key that views are sealed with, making one if there is none. Blocks.
    pub(crate) fn seal(&self) -> Result<Seal, Error> {
        disk::make_parent(&self.key_path)?;
        Seal::load_or_make(&self.key_path)
    }

    /// Writes the view of a table. Blocks. `confirmed`: when a control plane last said
    /// that it is current.
    pub(crate) fn save(
        &self,
        seal: &Seal,
        table: &Table,
        confirmed: SystemTime,
    ) -> Result<(), Error> {
        let contents = Contents::of(&self.cluster, table, confirmed, Instant::now());
        disk::make_parent(&self.path)?;
        let header = header();
        let sealed = seal.close(&header, &contents.encode())?;
        disk::replace(&self.path, &[&header[..], &sealed].concat())
    }
}

fn header() -> Vec<u8> {
    [MAGIC, &[FORMAT]].concat()
}

#[cfg(test)]
mod tests;
