//! One durable commit: what stands between an outcome and its acknowledgement.
//!
//! The floor is one page written and synced, once; a store that keeps several records
//! apart and survives a torn write does more.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    time::Instant,
};

use qcc_control::store::{Batch, Options, Store, Table};

use crate::{
    figure::{Figure, compare, percentile},
    machine::{Cores, SCRATCH},
};

/// Commits in one measurement.
const COMMITS: usize = 100;

/// What the floor writes.
const PAGE: [u8; 4096] = [7; 4096];

pub(crate) fn figures(_: Cores) -> Vec<Figure> {
    let writable = "the build's directory can be written";
    let data = tempfile::tempdir_in(SCRATCH).expect(writable);
    let (mut store, _) = Store::open(&Options::new(data.path())).expect(writable);
    let mut file: File = tempfile::tempfile_in(SCRATCH).expect(writable);
    let [samples] = compare(
        || [middle(|| store.commit(&batch()).expect(writable))],
        || {
            [middle(|| {
                file.seek(SeekFrom::Start(0)).expect(writable);
                file.write_all(&PAGE).expect(writable);
                file.sync_data().expect(writable);
            })]
        },
    );
    let name = "store: commit of one report's effects";
    vec![Figure::cost(name, "us", "one synced page", samples)]
}

/// What a report that ejects an endpoint changes, in about the size that it has.
fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Meta, "registry", vec![b' '; 200]);
    batch.put(Table::Endpoints, "endpoint-0", vec![b' '; 1200]);
    batch.put(Table::Proxies, "proxy-0/bench", vec![b' '; 30]);
    batch
}

/// Returns the middle of the times that it takes, in microseconds.
fn middle(mut commit: impl FnMut()) -> f64 {
    let mut took: Vec<f64> = (0..COMMITS)
        .map(|_| {
            let start = Instant::now();
            commit();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    percentile(&mut took, 50)
}
