//! What survives the process: a keyed store in one file, written by one thread.
//!
//! It promises three things and knows nothing else about its records.
//!
//! - **Durable.** A [`Batch`] is on disk, whole, when [`Store::commit`] returns. After
//!   a crash at any instant the store holds a prefix of the batches committed to it,
//!   at least all that were acknowledged.
//! - **Careful.** A file that is damaged, foreign, of a newer format or in use is
//!   refused, with words on what to do, and not touched: it is examined in memory
//!   before it is opened for writing. Nothing is ever overwritten.
//! - **Sealed.** Records that hold credentials are encrypted and bound to their key,
//!   so that a copy of the data file alone gives none away.
//!
//! After a failed write nobody knows what is on disk (the kernel may have dropped the
//! very pages that it failed to write), so a store that failed once refuses all
//! further commits. The process must stop; its next start reads what is true.
//!
//! Each opening is a new `term`, durable before [`Store::open`] returns.

mod batch;
mod engine;
mod error;
mod file;
mod seal;

#[cfg(test)]
mod crash_test;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    path::{Path, PathBuf},
};

#[cfg(any(test, feature = "simulation"))]
pub(crate) use batch::Change;
pub use batch::{Batch, Record, Table};
pub use error::Error;

use engine::Engine;
use seal::Seal;

/// Name of the data file in the data directory.
const DATA_FILE: &str = "state.redb";

/// Name of the seal key file in the data directory, unless it is kept elsewhere.
const SEAL_KEY_FILE: &str = "seal.key";

/// Where a store lives.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the data file; created if it does not exist.
    pub data_dir: PathBuf,
    /// File of the key that seals credentials. `None`: `seal.key` in the data
    /// directory. Kept elsewhere, a stolen data directory holds no usable credential.
    pub seal_key_file: Option<PathBuf>,
}

impl Options {
    /// Keeps everything in one directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            seal_key_file: None,
        }
    }
}

/// What a store held when it was opened.
#[derive(Debug)]
pub struct Loaded {
    /// The life that begins with this opening: greater than every term before.
    pub term: u64,
    /// Every record, in the order of tables and keys.
    pub records: Vec<Record>,
}

/// An open store. While it lives no other process can open it.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    engine: Engine,
    seal: Seal,
    failed: bool,
    /// Holds the lock on the data directory. `None` only in tests without files.
    _lock: Option<File>,
}

impl Store {
    /// Opens a store, creating it at first, and begins a new term.
    pub fn open(options: &Options) -> Result<(Self, Loaded), Error> {
        let directory = &options.data_dir;
        file::create_directory(directory)?;
        let lock = file::lock_directory(directory)?;
        let path = directory.join(DATA_FILE);
        let seal_key = match &options.seal_key_file {
            Some(path) => path.clone(),
            None => directory.join(SEAL_KEY_FILE),
        };
        if !file::exists(&path)? {
            // The key first: a data file must never refer to a key that a crash lost.
            let seal = Seal::load_or_create(&seal_key)?;
            create(&path, &seal)?;
        }
        let image = file::read_image(&path)?;
        let contents = engine::examine(image).map_err(|flaw| flaw.in_file(&path))?;
        let seal = Seal::load(&seal_key, &contents.seal_key_id)?;
        let engine = Engine::open(&path)?;
        Self::start(path, engine, seal, contents, Some(lock))
    }

    /// Unseals what was examined and makes the new term durable.
    fn start(
        path: PathBuf,
        engine: Engine,
        seal: Seal,
        contents: engine::Contents,
        lock: Option<File>,
    ) -> Result<(Self, Loaded), Error> {
        let records = contents
            .records
            .into_iter()
            .map(|record| seal.unseal(record))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|flaw| flaw.in_file(&path))?;
        let term = contents.term + 1;
        engine
            .set_term(term)
            .map_err(|error| Error::write(&path, error))?;
        let store = Self {
            path,
            engine,
            seal,
            failed: false,
            _lock: lock,
        };
        Ok((store, Loaded { term, records }))
    }

    /// Applies a batch, in its order and as a whole, and waits until it is on disk.
    ///
    /// After an error it is unknown whether the batch is on disk; this and every
    /// further commit fails, and the process must stop.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Poisoned {
                path: self.path.clone(),
            });
        }
        let result = self.engine.commit(batch, &self.seal);
        self.failed = result.is_err();
        result.map_err(|error| Error::write(&self.path, error))
    }
}

/// What makes a turn of the writer durable: a [`Store`], or a disk that a simulation
/// makes up.
pub trait Keep: Send {
    /// Applies a batch as a whole, and waits until it is durable; see [`Store::commit`].
    ///
    /// # Errors
    ///
    /// Whether the batch will be there after a restart is unknown then.
    fn commit(&mut self, batch: &Batch) -> Result<(), Error>;
}

impl Keep for Store {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        Self::commit(self, batch)
    }
}

/// Creates an empty data file: whole and on disk before it has its name, since redb
/// killed at its first sync leaves a file that it refuses to open.
fn create(path: &Path, seal: &Seal) -> Result<(), Error> {
    file::publish(path, |file| Engine::create(file, seal.id()))
}
