//! The table of faults is about tests that exist.

use std::{collections::BTreeSet, fs, path::Path};

/// Which fault is shown where.
const TABLE: &str = include_str!("FAULTS.md");

/// Where tests are, from this crate.
const SOURCES: [&str; 3] = [".", "../control", "../dataplane"];

/// Adds every function's name below a directory.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory)
        .expect("the sources are there")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source is text");
            let names = text
                .split("fn ")
                .skip(1)
                .filter_map(|rest| rest.split('(').next());
            found.extend(names.map(str::to_owned));
        }
    }
}

pub(crate) fn every_test_in_the_table_exists() {
    let mut found = BTreeSet::new();
    for source in SOURCES {
        functions(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join(source),
            &mut found,
        );
    }
    // Names of tests are sentences; what else is quoted has no underscores, or is shouted.
    let quoted = TABLE.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| name.contains('_') && !name.contains(char::is_uppercase);
    let named: Vec<_> = quoted.filter(is_test).collect();
    let missing: Vec<_> = named
        .iter()
        .filter(|name| !found.contains(**name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(named.len() > 50, "the table has lost its names: {named:?}");
}
