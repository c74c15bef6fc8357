//! What must hold of the kept view for any bytes; see [`crate::fuzzing::view_file`].

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use prost::Message;
use qcc_proto::v1::{
    AdminState, GetSnapshotRequest, GetSnapshotResponse, HealthState, RoutedEndpoint,
};

use super::{Contents, Error, Kept, Seal, ViewFile, header};
use crate::routing::Table;

const CLUSTER: &str = "default";

/// Longest time that a case may take: pauses run on meanwhile.
const CASE_MS_MAX: u64 = 600_000;

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    api_key: String,
    generation: u64,
    words: (AdminState, HealthState),
    failures: (u32, u32),
    proven: bool,
    preference: (u32, u32),
}

/// As the file, bytes are refused. As what is sealed in it, they are refused, or a view that
/// is written as it was read; with one bit changed the file is refused again.
pub(crate) fn check(data: &[u8]) {
    let file = ViewFile::new("/nowhere/view".into(), None, CLUSTER.into());
    let seal = || Ok::<_, Error>(Seal::new(&[7; 32]));
    let refusal = file.unpack(data, seal).expect_err("nobody has sealed it");
    assert!(refusal.to_string().len() < 300, "a refusal is one line");

    let sealed = seal()
        .and_then(|seal| seal.close(&header(), data))
        .expect("it can be sealed");
    let mut bytes = [&header()[..], &sealed].concat();
    let read = file.unpack(&bytes, seal);
    let flipped = data.iter().fold(data.len(), |sum, byte| {
        sum * 31 % 65_521 + usize::from(*byte)
    });
    let place = flipped % (bytes.len() * 8);
    bytes[place / 8] ^= 1 << (place % 8);
    assert!(file.unpack(&bytes, seal).is_err(), "a changed file is used");

    let Ok(kept) = read else {
        return;
    };
    let given = facts(&snapshot(data));
    let (registry_id, once) = written(kept);
    let once_read = file.unpack(&resealed(&once), seal);
    let (same_id, twice) = written(once_read.expect("what is written can be read"));
    assert_eq!(registry_id, same_id);
    let (once, twice) = (snapshot(&once), snapshot(&twice));
    assert_eq!(facts(&once), given, "a view changes by being read");
    assert_eq!(
        timeless(&once),
        timeless(&twice),
        "a view changes by being kept"
    );
    for (first, second) in once.endpoints.iter().zip(&twice.endpoints) {
        for (first, second) in [
            (first.until_clock_ms, second.until_clock_ms),
            (first.since_clock_ms, second.since_clock_ms),
        ] {
            assert!(
                second <= first && first - second < CASE_MS_MAX,
                "{first}, then {second}"
            );
        }
    }
}

/// What is written of a view that was read.
fn written(kept: Kept) -> (String, Vec<u8>) {
    let endpoints: BTreeMap<_, _> = (kept.endpoints.into_iter())
        .map(|routed| (Arc::clone(&routed.endpoint.name), routed))
        .collect();
    let policy = Arc::new(kept.policy);
    let table = Table::restore(kept.view, 0, policy, endpoints.values(), &kept.rejected)
        .of_registry(kept.registry_id.as_str().into(), kept.has_left_out);
    let contents = Contents::of(CLUSTER, &table, SystemTime::UNIX_EPOCH, Instant::now());
    (kept.registry_id, contents.encode().to_vec())
}

fn resealed(contents: &[u8]) -> Vec<u8> {
    let sealed = Seal::new(&[7; 32]).close(&header(), contents);
    [header(), sealed.expect("it can be sealed")].concat()
}

/// The view in what is sealed.
fn snapshot(contents: &[u8]) -> GetSnapshotResponse {
    let mut rest = contents;
    GetSnapshotRequest::decode_length_delimited(&mut rest).expect("it was read before");
    GetSnapshotResponse::decode(&rest[8..]).expect("it was read before")
}

/// What selection goes by, of each endpoint; of two of one name the last counts.
fn facts(snapshot: &GetSnapshotResponse) -> BTreeMap<String, Facts> {
    let facts = |endpoint: &RoutedEndpoint| Facts {
        api_key: endpoint.api_key.clone(),
        generation: endpoint.generation,
        words: (endpoint.admin_state(), endpoint.state()),
        failures: (endpoint.consecutive_failures, endpoint.max_failures.max(1)),
        proven: endpoint.proven,
        preference: (endpoint.priority, endpoint.weight.max(1)),
    };
    let endpoints = snapshot.endpoints.iter();
    endpoints
        .map(|endpoint| (endpoint.name.clone(), facts(endpoint)))
        .collect()
}

fn timeless(snapshot: &GetSnapshotResponse) -> GetSnapshotResponse {
    let timeless = |endpoint: &RoutedEndpoint| RoutedEndpoint {
        until_clock_ms: 0,
        since_clock_ms: 0,
        ..endpoint.clone()
    };
    GetSnapshotResponse {
        endpoints: snapshot.endpoints.iter().map(timeless).collect(),
        ..snapshot.clone()
    }
}
