//! Power failures: a disk that loses, reorders and tears what was not synced.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use redb::StorageBackend;

use super::{
    Batch, Error, Loaded, Store, Table, batch::Change, engine, engine::Engine, seal::Seal,
};

/// Lives in which power fails.
const CRASHES: u64 = 3_000;

/// Lives after which the disk is replaced by an empty one, so that it stays small.
const CRASHES_PER_DISK: u64 = 100;

/// What a disk writes at once.
const SECTOR_BYTES: usize = 512;

/// A small generator, so that a failing run can be repeated from its number.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

#[derive(Debug, Default)]
struct Platters {
    /// What the process sees.
    current: Vec<u8>,
    /// What is safe.
    synced: Vec<u8>,
    /// What is in between, in order.
    unsynced: Vec<Unsynced>,
    /// Operations until the power fails.
    power_left: Option<u64>,
    /// Whether the next sync fails, once.
    sync_fails: bool,
}

#[derive(Debug)]
enum Unsynced {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Unsynced {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(data);
            }
            Self::SetLen(length) => image.resize(*length, 0),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct LossyDisk(Arc<Mutex<Platters>>);

impl LossyDisk {
    fn containing(image: Vec<u8>) -> Self {
        let platters = Platters {
            current: image.clone(),
            synced: image,
            ..Platters::default()
        };
        Self(Arc::new(Mutex::new(platters)))
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Platters) -> T) -> T {
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn operation<T>(&self, perform: impl FnOnce(&mut Platters) -> T) -> io::Result<T> {
        self.with(|platters| match &mut platters.power_left {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(perform(platters))
            }
            None => Ok(perform(platters)),
        })
    }

    /// What is found after the power failed.
    fn after_crash(&self, dice: &mut Dice) -> Vec<u8> {
        self.with(|platters| {
            let mut image = platters.synced.clone();
            // Sometimes everything or nothing makes it, mostly something between.
            let survival = dice.roll(5);
            for unsynced in &platters.unsynced {
                if dice.roll(4) >= survival {
                    continue;
                }
                match unsynced {
                    Unsynced::Write(offset, data) if dice.roll(4) == 0 => {
                        for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                            if dice.roll(2) == 0 {
                                Unsynced::Write(offset + index * SECTOR_BYTES, sector.to_vec())
                                    .apply(&mut image);
                            }
                        }
                    }
                    whole => whole.apply(&mut image),
                }
            }
            image
        })
    }
}

impl StorageBackend for LossyDisk {
    fn len(&self) -> io::Result<u64> {
        self.with(|platters| Ok(platters.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        self.with(
            |platters| match platters.current.get(start..start + out.len()) {
                Some(data) => {
                    out.copy_from_slice(data);
                    Ok(())
                }
                None => Err(io::ErrorKind::UnexpectedEof.into()),
            },
        )
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operation(|platters| {
            let change = Unsynced::SetLen(len as usize);
            change.apply(&mut platters.current);
            platters.unsynced.push(change);
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.with(|platters| std::mem::take(&mut platters.sync_fails)) {
            return Err(io::Error::other("injected"));
        }
        self.operation(|platters| {
            for change in platters.unsynced.drain(..) {
                change.apply(&mut platters.synced);
            }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operation(|platters| {
            let change = Unsynced::Write(offset as usize, data.to_vec());
            change.apply(&mut platters.current);
            platters.unsynced.push(change);
        })
    }
}

fn new_disk(seal_key_id: &str) -> Vec<u8> {
    let disk = LossyDisk::default();
    let engine = Engine::with_backend(disk.clone()).unwrap();
    engine.initialise(seal_key_id).unwrap();
    drop(engine);
    disk.with(|platters| platters.current.clone())
}

fn start(disk: &LossyDisk, key: &[u8; 32]) -> Result<(Store, Loaded), Error> {
    let image = disk.with(|platters| platters.current.clone());
    let path = "lossy disk".into();
    let contents = engine::examine(image).map_err(|flaw| flaw.in_file("lossy disk".as_ref()))?;
    let engine = Engine::with_backend(disk.clone())
        .map_err(|error| Error::write("lossy disk".as_ref(), error))?;
    Store::start(path, engine, Seal::new(key), contents, None)
}

type Model = BTreeMap<(Table, String), Vec<u8>>;

fn model_of(loaded: &Loaded) -> Model {
    loaded
        .records
        .iter()
        .map(|record| ((record.table, record.key.clone()), record.value.to_vec()))
        .collect()
}

fn apply(batch: &Batch, model: &mut Model) {
    for change in &batch.changes {
        match change {
            Change::Put(record) => {
                let key = (record.table, record.key.clone());
                model.insert(key, record.value.to_vec());
            }
            Change::Delete(table, key) => {
                model.remove(&(*table, key.clone()));
            }
        }
    }
}

fn random_batch(dice: &mut Dice) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..1 + dice.roll(4) {
        let table = Table::ALL[dice.roll(5) as usize];
        let key = format!("key-{}", dice.roll(10));
        if dice.roll(4) == 0 {
            batch.delete(table, key);
        } else {
            let length = [10, 100, 300, 2_000][dice.roll(4) as usize];
            batch.put(table, key, vec![dice.roll(256) as u8; length]);
        }
    }
    batch
}

#[test]
fn a_power_failure_leaves_a_prefix_with_all_that_was_acknowledged() {
    let key = [7; 32];
    let empty = new_disk(Seal::new(&key).id());
    let mut dice = Dice(1);
    let mut image = empty.clone();
    // States that the image may hold: after the last acknowledged batch, or one more.
    let mut possible = vec![Model::new()];
    let mut term = 0;
    let (mut acknowledged, mut unacknowledged_found) = (0, 0);
    for crash in 0..CRASHES {
        if crash % CRASHES_PER_DISK == 0 {
            image.clone_from(&empty);
            possible = vec![Model::new()];
            term = 0;
        }
        let disk = LossyDisk::containing(image);
        // Early enough that about every second power failure hits the opening itself.
        let power = dice.roll(80);
        disk.with(|platters| platters.power_left = Some(power));
        match start(&disk, &key) {
            Err(Error::Write { .. }) => {}
            Err(error) => panic!("crash {crash}: {error}"),
            Ok((mut store, loaded)) => {
                let mut model = model_of(&loaded);
                let found = possible.iter().position(|state| *state == model);
                assert!(found.is_some(), "crash {crash}: neither old nor new");
                unacknowledged_found += found.unwrap();
                assert!(loaded.term > term, "crash {crash}: term fell");
                term = loaded.term;
                possible = vec![model.clone()];
                // Every commit takes at least one operation of those left.
                for _ in 0..=power {
                    let batch = random_batch(&mut dice);
                    apply(&batch, &mut model);
                    if store.commit(&batch).is_err() {
                        possible.push(model);
                        break;
                    }
                    acknowledged += 1;
                    possible = vec![model.clone()];
                }
            }
        }
        image = disk.after_crash(&mut dice);
    }
    // The test is worth something only if it saw both kinds of crash.
    assert!(acknowledged > CRASHES / 4, "{acknowledged} acknowledged");
    assert!(unacknowledged_found > 10, "{unacknowledged_found} found");
}

#[test]
fn a_store_that_failed_to_sync_refuses_to_go_on() {
    let key = [7; 32];
    let disk = LossyDisk::containing(new_disk(Seal::new(&key).id()));
    let (mut store, _) = start(&disk, &key).unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Meta, "a", "1");
    store.commit(&batch).unwrap();

    disk.with(|platters| platters.sync_fails = true);
    batch.put(Table::Meta, "a", "2");
    assert!(matches!(store.commit(&batch), Err(Error::Write { .. })));
    // The disk works again, but what it dropped is unknown.
    assert!(matches!(store.commit(&batch), Err(Error::Poisoned { .. })));
    assert!(matches!(
        store.commit(&Batch::new()),
        Err(Error::Poisoned { .. })
    ));
}
