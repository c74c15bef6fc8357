//! Why a store cannot be opened or written, and what to do about it.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// A store cannot be used. Every message names the file and the way out.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another process, or another store of this one, has it open.
    InUse {
        /// The data directory or file.
        path: PathBuf,
    },
    /// The data file is torn, truncated or altered.
    Damaged {
        /// The data file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The data file is not one of ours.
    Foreign {
        /// The file in its place.
        path: PathBuf,
    },
    /// A newer version of the program wrote the data file.
    Newer {
        /// The data file.
        path: PathBuf,
        /// Its format.
        format: u64,
    },
    /// The data file refers to a seal key, but there is no key file.
    SealKeyMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The key file holds another key than the one that sealed the data file.
    SealKeyWrong {
        /// The key file.
        path: PathBuf,
        /// Id of the key that is needed.
        needed: String,
        /// Id of the key that was found.
        found: String,
    },
    /// The key file does not hold a key.
    SealKeyInvalid {
        /// The key file.
        path: PathBuf,
    },
    /// Everybody on this machine may read or write the key file.
    SealKeyExposed {
        /// The key file.
        path: PathBuf,
    },
    /// The operating system refused.
    Io {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A write failed; what it would have changed may or may not be on disk.
    Write {
        /// The data file.
        path: PathBuf,
        /// Why.
        source: redb::Error,
    },
    /// An earlier write failed, so nothing is written any more.
    Poisoned {
        /// The data file.
        path: PathBuf,
    },
}

impl Error {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source,
        }
    }

    pub(super) fn write(path: &Path, source: redb::Error) -> Self {
        Self::Write {
            path: path.into(),
            source,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { path } => write!(
                f,
                "`{}` is in use by another control plane; stop that one, or give this one \
                 a data directory of its own",
                path.display()
            ),
            Self::Damaged { path, reason } => write!(
                f,
                "`{}` is damaged ({reason}); restore it from a backup, or move it away to \
                 start empty; it was not changed",
                path.display()
            ),
            Self::Foreign { path } => write!(
                f,
                "`{}` is not a data file of qcc; give another data directory, or move the \
                 file away; it was not changed",
                path.display()
            ),
            Self::Newer { path, format } => write!(
                f,
                "`{}` has format {format}, but this version knows formats up to {}; start \
                 the newer version that wrote it; it was not changed",
                path.display(),
                super::engine::FORMAT,
            ),
            Self::SealKeyMissing { path } => write!(
                f,
                "there is no seal key file `{}`, but the data file was sealed with one; \
                 restore it from a backup, or say where it is",
                path.display()
            ),
            Self::SealKeyWrong {
                path,
                needed,
                found,
            } => write!(
                f,
                "`{}` holds seal key {found}, but the data file was sealed with key {needed}; \
                 give the file that holds that key",
                path.display()
            ),
            Self::SealKeyInvalid { path } => write!(
                f,
                "`{}` does not hold a seal key; restore it from a backup",
                path.display()
            ),
            Self::SealKeyExposed { path } => write!(
                f,
                "everybody may access seal key file `{0}`; run `chmod 600 '{0}'`, and change \
                 the API keys if others could have read it",
                path.display()
            ),
            Self::Io {
                action,
                path,
                source,
            } => write!(f, "failed to {action} `{}`: {source}", path.display()),
            Self::Write { path, source } => write!(
                f,
                "failed to write `{}`: {source}; it is unknown whether the change is on disk; \
                 check the disk and start again",
                path.display()
            ),
            Self::Poisoned { path } => write!(
                f,
                "`{}` is not written any more because an earlier write failed; start again",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Error {}

/// What is wrong with the contents of a data file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Foreign,
    Newer(u64),
    Damaged(String),
}

impl Flaw {
    pub(super) fn damaged(reason: impl fmt::Display) -> Self {
        Self::Damaged(reason.to_string())
    }

    pub(super) fn in_file(self, path: &Path) -> Error {
        let path = path.into();
        match self {
            Self::Foreign => Error::Foreign { path },
            Self::Newer(format) => Error::Newer { path, format },
            Self::Damaged(reason) => Error::Damaged { path, reason },
        }
    }
}
