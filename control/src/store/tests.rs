use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use redb::{Database, TableDefinition};
use tempfile::TempDir;

use super::*;

const CANARY: &[u8] = b"sk-canary-0123456789";

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        Self { directory }
    }

    fn options(&self) -> Options {
        Options::new(self.directory.path().join("state"))
    }

    fn open(&self) -> Result<(Store, Loaded), Error> {
        Store::open(&self.options())
    }

    fn data_file(&self) -> PathBuf {
        self.options().data_dir.join(DATA_FILE)
    }

    fn seal_key_file(&self) -> PathBuf {
        self.options().data_dir.join(SEAL_KEY_FILE)
    }

    /// A store with a few records, closed.
    fn filled() -> Self {
        let place = Self::new();
        let (mut store, _) = place.open().unwrap();
        store.commit(&some_records()).unwrap();
        place
    }
}

fn some_records() -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Meta, "revision", "1");
    batch.put(Table::Clusters, "default", "{}");
    batch.put(Table::Endpoints, "b", CANARY);
    batch.put(Table::Endpoints, "a", CANARY);
    batch.put(Table::Requests, "r", "");
    batch.put(Table::Meta, "revision", "2");
    batch.delete(Table::Requests, "r");
    batch.delete(Table::Proxies, "never there");
    batch
}

fn pairs(loaded: &Loaded) -> Vec<(Table, &str, &[u8])> {
    loaded
        .records
        .iter()
        .map(|record| (record.table, record.key.as_str(), record.value.as_slice()))
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let place = Place::new();
    let (mut store, loaded) = place.open().unwrap();
    assert!(loaded.records.is_empty());
    store.commit(&some_records()).unwrap();
    drop(store);

    let expected: [(Table, &str, &[u8]); 4] = [
        (Table::Meta, "revision", b"2"),
        (Table::Clusters, "default", b"{}"),
        (Table::Endpoints, "a", CANARY),
        (Table::Endpoints, "b", CANARY),
    ];
    for _ in 0..2 {
        let (_, loaded) = place.open().unwrap();
        assert_eq!(pairs(&loaded), expected);
    }
}

#[test]
fn every_opening_is_a_greater_term() {
    let place = Place::new();
    for term in 1..=5 {
        assert_eq!(place.open().unwrap().1.term, term);
    }
}

#[test]
fn files_are_for_their_owner_alone() {
    let place = Place::filled();
    assert_eq!(mode(&place.options().data_dir), 0o700);
    assert_eq!(mode(&place.data_file()), 0o600);
    assert_eq!(mode(&place.seal_key_file()), 0o600);
}

#[test]
fn no_credential_is_on_disk_or_in_debug_output() {
    let place = Place::new();
    let (mut store, _) = place.open().unwrap();
    let batch = some_records();
    store.commit(&batch).unwrap();
    let opened_twice = place.open().unwrap_err();
    let seal_key = fs::read_to_string(place.seal_key_file()).unwrap();
    let secret = seal_key.trim().rsplit(':').next().unwrap().to_owned();
    assert_eq!(secret.len(), 64);
    for debug in [
        format!("{store:?}"),
        format!("{batch:?}"),
        format!("{opened_twice:?}"),
    ] {
        assert!(
            !debug.contains("canary") && !debug.contains(&secret),
            "{debug}"
        );
        // As a list of numbers.
        assert!(!debug.contains("115, 107, 45"), "{debug}");
    }
    drop(store);
    let (_store, loaded) = place.open().unwrap();
    assert!(!format!("{loaded:?}").contains("115, 107, 45"));
    for entry in fs::read_dir(place.options().data_dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let found = bytes.windows(CANARY.len()).any(|window| window == CANARY);
        assert!(!found, "{}", path.display());
    }
}

#[test]
fn a_store_in_use_is_refused_and_can_be_opened_afterwards() {
    let place = Place::new();
    let (store, _) = place.open().unwrap();
    assert!(matches!(place.open(), Err(Error::InUse { .. })));
    drop(store);
    place.open().unwrap();
}

#[test]
fn a_file_that_redb_has_locked_is_in_use() {
    let place = Place::filled();
    let _database = Database::open(place.data_file()).unwrap();
    assert!(matches!(place.open(), Err(Error::InUse { .. })));
}

#[test]
fn a_wrong_or_missing_seal_key_is_named() {
    let place = Place::filled();
    let other = Place::filled();
    let key = fs::read(place.seal_key_file()).unwrap();

    fs::copy(other.seal_key_file(), place.seal_key_file()).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, Error::SealKeyWrong { .. }), "{error}");

    fs::remove_file(place.seal_key_file()).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, Error::SealKeyMissing { .. }), "{error}");
    assert!(!place.seal_key_file().exists());

    for garbage in ["", "qcc-seal-key-1:", "x", &"0".repeat(1 << 20)] {
        fs::write(place.seal_key_file(), garbage).unwrap();
        fs::set_permissions(place.seal_key_file(), fs::Permissions::from_mode(0o600)).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(error, Error::SealKeyInvalid { .. }), "{error}");
    }

    fs::write(place.seal_key_file(), key).unwrap();
    fs::set_permissions(place.seal_key_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, Error::SealKeyExposed { .. }), "{error}");

    fs::set_permissions(place.seal_key_file(), fs::Permissions::from_mode(0o440)).unwrap();
    assert_eq!(place.open().unwrap().1.records.len(), 4);
}

#[test]
fn the_seal_key_may_be_elsewhere() {
    let place = Place::new();
    let options = Options {
        seal_key_file: Some(place.directory.path().join("key")),
        ..place.options()
    };
    let (mut store, _) = Store::open(&options).unwrap();
    store.commit(&some_records()).unwrap();
    drop(store);
    assert!(!place.seal_key_file().exists());
    assert_eq!(Store::open(&options).unwrap().1.records.len(), 4);
}

/// Opens what `damage` made of a filled store's data file, expecting a refusal that
/// leaves the file as it is.
fn refusal(damage: impl FnOnce(&mut Vec<u8>)) -> Error {
    let place = Place::filled();
    let mut bytes = fs::read(place.data_file()).unwrap();
    damage(&mut bytes);
    fs::write(place.data_file(), &bytes).unwrap();
    let error = place.open().unwrap_err();
    assert_eq!(fs::read(place.data_file()).unwrap(), bytes);
    assert!(error.to_string().contains(DATA_FILE), "{error}");
    error
}

#[test]
fn a_truncated_file_is_refused() {
    for keep in [0, 5, 9, 100, 4096, 100_000] {
        let error = refusal(|bytes| bytes.truncate(keep));
        assert!(matches!(error, Error::Damaged { .. }), "{keep}: {error}");
    }
    let error = refusal(|bytes| bytes.truncate(bytes.len() - 4096));
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}

#[test]
fn a_foreign_file_is_refused() {
    let error = refusal(|bytes| *bytes = b"SQLite format 3\0 and so on".to_vec());
    assert!(matches!(error, Error::Foreign { .. }), "{error}");

    let place = Place::filled();
    let other = place.directory.path().join("other.redb");
    let database = Database::create(&other).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<u64, u64>::new("of somebody else");
    transaction.open_table(table).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = refusal(|bytes| *bytes = fs::read(other).unwrap());
    assert!(matches!(error, Error::Foreign { .. }), "{error}");

    fs::remove_file(place.data_file()).unwrap();
    fs::create_dir(place.data_file()).unwrap();
    assert!(matches!(place.open(), Err(Error::Foreign { .. })));
}

#[test]
fn a_newer_format_is_refused() {
    let place = Place::filled();
    let database = Database::open(place.data_file()).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = TableDefinition::<&str, u64>::new("qcc.numbers");
    transaction
        .open_table(table)
        .unwrap()
        .insert("format", 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = place.open().unwrap_err();
    assert!(matches!(error, Error::Newer { format: 2, .. }), "{error}");
}

#[test]
fn a_flipped_bit_is_refused_or_harmless_but_never_believed() {
    let place = Place::filled();
    let bytes = fs::read(place.data_file()).unwrap();
    let sound = engine::examine(bytes.clone()).unwrap();
    // Every bit of the header, and one of every so many bytes of the pages in use.
    let header = (0..320 * 8).map(|bit| (bit / 8, bit % 8));
    let in_use = (320..bytes.len()).filter(|&index| bytes[index] != 0);
    let pages = in_use.step_by(37).map(|index| (index, index % 8));
    let mut refused = 0;
    for (index, bit) in header.chain(pages) {
        let mut flipped = bytes.clone();
        flipped[index] ^= 1 << bit;
        match engine::examine(flipped) {
            Ok(contents) => {
                assert_eq!(contents.records, sound.records, "byte {index} bit {bit}");
                assert_eq!(contents.term, sound.term, "byte {index} bit {bit}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "{refused} refused");
}

#[test]
fn an_interrupted_creation_is_done_again() {
    let place = Place::new();
    fs::create_dir(place.options().data_dir).unwrap();
    for path in [place.data_file(), place.seal_key_file()] {
        let mut name = path.into_os_string();
        name.push(".incomplete");
        fs::write(name, b"half").unwrap();
    }
    let (store, loaded) = place.open().unwrap();
    assert_eq!(loaded.term, 1);
    drop(store);

    // Killed between key and data file.
    let key = fs::read(place.seal_key_file()).unwrap();
    fs::remove_file(place.data_file()).unwrap();
    assert_eq!(place.open().unwrap().1.term, 1);
    assert_eq!(fs::read(place.seal_key_file()).unwrap(), key);
    let names = fs::read_dir(place.options().data_dir).unwrap().count();
    assert_eq!(names, 2);
}
