//! The database in the data file: redb, and how it is used.

use std::{
    fs::File,
    io, panic,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError,
    backends::{FileBackend, InMemoryBackend},
};
use zeroize::Zeroizing;

use super::{Batch, Error, Record, Table, batch::Change, error::Flaw, seal::Seal};

/// Format of the tables. A file with a greater one is left to newer versions.
pub(super) const FORMAT: u64 = 1;

/// Pages that redb keeps in memory. What is stored is in the registry as well and read
/// from the file once; a commit needs the few pages on the way to its records.
const CACHE_BYTES: usize = 1 << 20;

/// First bytes of every redb file.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// What the file says about itself, by the keys below.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("qcc.numbers");
const NUMBER_FORMAT: &str = "format";
const NUMBER_TERM: &str = "term";

const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("qcc.texts");
const TEXT_SEAL_KEY_ID: &str = "seal_key_id";

const fn definition(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.name())
}

/// Everything in a data file, still sealed.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) term: u64,
    pub(super) seal_key_id: String,
    pub(super) records: Vec<Record>,
}

/// An open database.
#[derive(Debug)]
pub(super) struct Engine {
    database: Database,
}

/// A file that remembers whether anything ever failed: closing a database, redb
/// writes to it and tells nobody how that went.
#[derive(Debug)]
struct Watched {
    file: FileBackend,
    failed: Arc<AtomicBool>,
}

impl Watched {
    fn watch<T>(&self, result: io::Result<T>) -> io::Result<T> {
        self.failed.fetch_or(result.is_err(), Relaxed);
        result
    }
}

/// Without locks: whoever creates a file holds the one on its directory.
impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.watch(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.watch(self.file.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.watch(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watch(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.watch(self.file.write(offset, data))
    }
}

impl Engine {
    /// Makes a database in an empty file and closes it.
    pub(super) fn create(file: File, seal_key_id: &str) -> Result<(), redb::Error> {
        let failed = Arc::<AtomicBool>::default();
        let file = Watched {
            file: FileBackend::new(file)?,
            failed: Arc::clone(&failed),
        };
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(file)?;
        let engine = Self { database };
        engine.initialise(seal_key_id)?;
        drop(engine);
        if failed.load(Relaxed) {
            // A sync that works after one that did not proves nothing.
            return Err(io::Error::other("a write failed as the file was closed").into());
        }
        Ok(())
    }

    /// Opens the database in a file that was examined.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        match Database::builder().set_cache_size(CACHE_BYTES).open(path) {
            Ok(database) => Ok(Self { database }),
            Err(DatabaseError::DatabaseAlreadyOpen) => Err(Error::InUse { path: path.into() }),
            Err(error) => Err(Error::write(path, error.into())),
        }
    }

    /// Opens or makes a database anywhere.
    #[cfg(test)]
    pub(super) fn with_backend(backend: impl StorageBackend) -> Result<Self, redb::Error> {
        let database = Database::builder().create_with_backend(backend)?;
        Ok(Self { database })
    }

    /// Writes what the file says about itself, and creates the tables.
    pub(super) fn initialise(&self, seal_key_id: &str) -> Result<(), redb::Error> {
        self.write(|transaction| {
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert(NUMBER_FORMAT, FORMAT)?;
            numbers.insert(NUMBER_TERM, 0)?;
            transaction
                .open_table(TEXTS)?
                .insert(TEXT_SEAL_KEY_ID, seal_key_id)?;
            for table in Table::ALL {
                transaction.open_table(definition(table))?;
            }
            Ok(())
        })
    }

    /// Makes a term durable.
    pub(super) fn set_term(&self, term: u64) -> Result<(), redb::Error> {
        self.write(|transaction| {
            transaction.open_table(NUMBERS)?.insert(NUMBER_TERM, term)?;
            Ok(())
        })
    }

    /// Makes a batch durable.
    pub(super) fn commit(&self, batch: &Batch, seal: &Seal) -> Result<(), redb::Error> {
        self.write(|transaction| {
            for change in &batch.changes {
                match change {
                    Change::Put(record) => {
                        let mut table = transaction.open_table(definition(record.table))?;
                        let value = seal.seal(record)?;
                        table.insert(record.key.as_str(), value.as_slice())?;
                    }
                    Change::Delete(table, key) => {
                        let mut table = transaction.open_table(definition(*table))?;
                        table.remove(key.as_str())?;
                    }
                }
            }
            Ok(())
        })
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // In one phase redb tells a torn commit by a checksum that is not made against
        // malice, and part of what is stored here comes from the network.
        transaction.set_two_phase_commit(true);
        change(&transaction)?;
        transaction.commit()?;
        Ok(())
    }
}

/// Reads a data file's image, verifying every page, without touching the file.
///
/// What a crash left half done is repaired in the image as it will be in the file.
/// redb would also repair real damage, by going back to an older commit; here that is
/// a flaw, because acknowledged changes would be gone without a word.
pub(super) fn examine(image: Vec<u8>) -> Result<Contents, Flaw> {
    if image.is_empty() {
        return Err(Flaw::damaged("it is empty"));
    }
    let length = image.len().min(MAGIC.len());
    if image[..length] != MAGIC[..length] {
        return Err(Flaw::Foreign);
    }
    // redb trusts a file's structure in places and panics where it is wrong.
    panic::catch_unwind(|| verify_and_read(image))
        .unwrap_or_else(|_| Err(Flaw::damaged("its structure is broken")))
}

fn verify_and_read(image: Vec<u8>) -> Result<Contents, Flaw> {
    let backend = InMemoryBackend::new();
    backend
        .set_len(image.len() as u64)
        .and_then(|()| backend.write(0, &image))
        .map_err(Flaw::damaged)?;
    drop(image);
    let mut database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend)
        .map_err(Flaw::damaged)?;
    if !database.check_integrity().map_err(Flaw::damaged)? {
        return Err(Flaw::damaged("checksums do not match"));
    }
    read(&database)
}

fn read(database: &Database) -> Result<Contents, Flaw> {
    let transaction = database.begin_read().map_err(Flaw::damaged)?;
    let numbers = match transaction.open_table(NUMBERS) {
        Ok(numbers) => numbers,
        Err(TableError::Storage(error)) => return Err(Flaw::damaged(error)),
        Err(_) => return Err(Flaw::Foreign),
    };
    let number = |key| match numbers.get(key) {
        Ok(Some(number)) => Ok(number.value()),
        Ok(None) => Err(Flaw::damaged(format_args!("it has no {key}"))),
        Err(error) => Err(Flaw::damaged(error)),
    };
    // Before anything else: a newer format may have other tables.
    match number(NUMBER_FORMAT)? {
        FORMAT => {}
        format => return Err(Flaw::Newer(format)),
    }
    let texts = transaction.open_table(TEXTS).map_err(Flaw::damaged)?;
    let seal_key_id = match texts.get(TEXT_SEAL_KEY_ID).map_err(Flaw::damaged)? {
        Some(id) => id.value().to_owned(),
        None => return Err(Flaw::damaged("it names no seal key")),
    };
    let mut records = Vec::new();
    for table in Table::ALL {
        let stored = match transaction.open_table(definition(table)) {
            Ok(stored) => stored,
            // Made by a version that had no such records yet.
            Err(TableError::TableDoesNotExist(_)) => continue,
            Err(error) => return Err(Flaw::damaged(error)),
        };
        for entry in stored.iter().map_err(Flaw::damaged)? {
            let (key, value) = entry.map_err(Flaw::damaged)?;
            records.push(Record {
                table,
                key: key.value().to_owned(),
                value: Zeroizing::new(value.value().to_vec()),
            });
        }
    }
    Ok(Contents {
        term: number(NUMBER_TERM)?,
        seal_key_id,
        records,
    })
}
