//! Replays the corpus of the fuzz targets, each file as it is and with seeded changes,
//! through the same functions: what `cargo fuzz` would find quickly, without it.
//!
//! A file belongs to the target that its directory in `fuzz/corpus` is named for.

mod change;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use change::Changes;

/// Changed cases of each target. All of them take a few seconds in an unoptimised build.
const CASES: usize = 8_000;

/// Longest file. What shows something is small.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// One fuzz target: its name and what it calls.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 11] = [
    ("answer", qcc_dataplane::fuzzing::answer),
    ("base_url", qcc_control::fuzzing::base_url),
    ("duration", qcc_proto::fuzzing::duration),
    ("model", qcc_dataplane::fuzzing::model),
    ("reports", qcc_control::fuzzing::reports),
    ("request", qcc_dataplane::fuzzing::request),
    ("resources", qcc_proto::fuzzing::resources),
    ("retry_after", qcc_proto::fuzzing::retry_after),
    ("sse", qcc_dataplane::fuzzing::sse),
    ("target", qcc_proto::fuzzing::target),
    ("view_file", qcc_dataplane::fuzzing::view_file),
];

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut names: Vec<_> = entries(&root().join("corpus"))
        .iter()
        .map(|path| name(path))
        .collect();
    names.sort();
    assert_eq!(names, TARGETS.map(|(name, _)| name));
    let mut binaries: Vec<_> = entries(&root().join("fuzz_targets"))
        .iter()
        .map(|path| name(path))
        .collect();
    binaries.sort();
    assert_eq!(binaries, TARGETS.map(|(name, _)| format!("{name}.rs")));
}

#[test]
fn answers_keep_their_promises() {
    replay("answer");
}

#[test]
fn base_urls_keep_their_promises() {
    replay("base_url");
}

#[test]
fn durations_keep_their_promises() {
    replay("duration");
}

#[test]
fn models_keep_their_promises() {
    replay("model");
}

#[test]
fn reports_keep_their_promises() {
    replay("reports");
}

#[test]
fn requests_keep_their_promises() {
    replay("request");
}

#[test]
fn resources_files_keep_their_promises() {
    replay("resources");
}

#[test]
fn waits_keep_their_promises() {
    replay("retry_after");
}

#[test]
fn event_streams_keep_their_promises() {
    replay("sse");
}

#[test]
fn joined_urls_keep_their_promises() {
    replay("target");
}

#[test]
fn kept_views_keep_their_promises() {
    replay("view_file");
}

/// Runs a target on every file of its corpus, then on as many changed ones as [`CASES`].
fn replay(target: &str) {
    let (_, check) = TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("it is a target");
    let files = entries(&root().join("corpus").join(target));
    assert!(
        files.len() >= 5,
        "{target}: a corpus of {} files",
        files.len()
    );
    let mut corpus = Vec::new();
    for path in &files {
        let size = fs::metadata(path).expect("it was listed").len();
        assert!(size <= FILE_BYTES_MAX, "{} is too large", path.display());
        let bytes = fs::read(path).expect("it was listed");
        run(*check, &bytes, &path.display().to_string());
        corpus.push(bytes);
    }
    let mut changes = Changes::new(1);
    for case in 0..CASES {
        let bytes = changes.next(&corpus);
        run(*check, &bytes, &format!("{target}: changed case {case}"));
    }
}

/// Runs one case; if a promise is broken, says which case it was and with which bytes.
fn run(check: fn(&[u8]), bytes: &[u8], case: &str) {
    if catch_unwind(AssertUnwindSafe(|| check(bytes))).is_err() {
        panic!("{case}: b\"{}\"", bytes.escape_ascii());
    }
}

/// The files of a directory, in the order of names.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory is there");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    let name = path.file_name().expect("it is in a directory");
    name.to_string_lossy().into_owned()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}
