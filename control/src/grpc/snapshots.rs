//! Snapshots as bytes, in chunks.
//!
//! Views follow each other while a crowd takes its snapshots, and mostly one endpoint
//! differs. So a chunk is put together of two messages of protobuf, which are one if they
//! stand behind each other: a small one that names the view, and one with the endpoints,
//! whose bytes are taken from the view before if all of them are the same.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use qcc_proto::{
    encoded::encode,
    v1::{SnapshotChunk, WatchSnapshotsResponse, watch_snapshots_response::Update},
};

use super::updates::{
    ENDPOINTS_PER_CHUNK, REUSE, members, message, planned_checks, policy, routed,
};
use crate::registry::{Clock, Cluster, ClusterName, Endpoint, Snapshot, View};

/// A cluster's snapshot.
#[derive(Debug)]
pub(super) struct EncodedSnapshot {
    view: View,
    made: Clock,
    /// What the endpoints' bytes say beside what endpoints are.
    rules: Option<Arc<Cluster>>,
    members: Vec<Arc<Endpoint>>,
    chunks: Vec<Chunk>,
}

/// One message.
#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    /// Those that are the endpoints.
    endpoints: Bytes,
}

impl EncodedSnapshot {
    /// Encodes a cluster's part of a snapshot, with the help of what was encoded before.
    pub(super) fn of(
        snapshot: &Snapshot,
        cluster: &ClusterName,
        now: Clock,
        before: Option<Self>,
    ) -> Self {
        let members: Vec<_> = members(snapshot, cluster).cloned().collect();
        let rules = snapshot.clusters.get(cluster).cloned();
        let before = before.filter(|before| is_same(before.rules.as_ref(), rules.as_ref()));
        let count = members.len().div_ceil(ENDPOINTS_PER_CHUNK).max(1);
        let chunks = (0..count).map(|at| {
            let part = part(&members, at);
            let known = before
                .as_ref()
                .and_then(|before| before.endpoints(at, part));
            let endpoints = known.unwrap_or_else(|| encode_endpoints(part, snapshot));
            let first = at == 0;
            let head = SnapshotChunk {
                policy: first.then(|| policy(snapshot, cluster)).flatten(),
                endpoints: Vec::new(),
                first,
                last: at + 1 == count,
                registry_id: match first {
                    true => snapshot.registry_id.to_string(),
                    false => String::new(),
                },
            };
            let planned = match head.last {
                true => planned_checks(members.iter()),
                false => Vec::new(),
            };
            let head = message(snapshot, now, Update::Snapshot(head), planned);
            Chunk::of(head, &endpoints)
        });
        Self {
            view: snapshot.view,
            made: now,
            rules,
            chunks: chunks.collect(),
            members,
        }
    }

    /// Returns which view it is of.
    pub(super) fn view(&self) -> View {
        self.view
    }

    /// Whether its clock still tells the present time.
    pub(super) fn is_recent(&self, now: Clock) -> bool {
        now.since(self.made) < REUSE
    }

    /// Returns its messages in order.
    pub(super) fn messages(&self) -> Vec<Bytes> {
        self.chunks
            .iter()
            .map(|chunk| chunk.bytes.clone())
            .collect()
    }

    /// Returns the bytes of a chunk's endpoints if they are these.
    fn endpoints(&self, at: usize, part: &[Arc<Endpoint>]) -> Option<Bytes> {
        let chunk = self.chunks.get(at)?;
        let known = self::part(&self.members, at);
        let are_same = known.len() == part.len()
            && (known.iter().zip(part)).all(|(known, is)| Arc::ptr_eq(known, is));
        are_same.then(|| chunk.endpoints.clone())
    }
}

impl Chunk {
    fn of(head: Bytes, endpoints: &Bytes) -> Self {
        let mut bytes = BytesMut::with_capacity(head.len() + endpoints.len());
        bytes.put_slice(&head);
        bytes.put_slice(endpoints);
        let bytes = bytes.freeze();
        Self {
            endpoints: bytes.slice(head.len()..),
            bytes,
        }
    }
}

/// Returns the endpoints of a chunk.
fn part(members: &[Arc<Endpoint>], at: usize) -> &[Arc<Endpoint>] {
    let chunk = members.chunks(ENDPOINTS_PER_CHUNK).nth(at);
    chunk.unwrap_or_default()
}

fn encode_endpoints(part: &[Arc<Endpoint>], snapshot: &Snapshot) -> Bytes {
    let endpoints = part.iter().map(|endpoint| routed(endpoint, snapshot));
    let chunk = SnapshotChunk {
        endpoints: endpoints.collect(),
        ..SnapshotChunk::default()
    };
    encode(&WatchSnapshotsResponse {
        update: Some(Update::Snapshot(chunk)),
        ..WatchSnapshotsResponse::default()
    })
}

fn is_same(one: Option<&Arc<Cluster>>, other: Option<&Arc<Cluster>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::registry::{
        AdminState, EndpointName, Moment, Mutation, Policy, Registry, Saved, Seed, Spec,
    };

    const NOW: Moment = Moment {
        clock: Clock(0),
        wall_ms: 0,
    };

    fn registry(endpoints: usize) -> Registry {
        let seed = Seed {
            registry_id: "registry".into(),
            salt: vec![1],
        };
        let mut registry = Registry::new(1, Saved::default(), seed, NOW);
        for number in 0..endpoints {
            let spec = Spec {
                name: name(number),
                cluster: ClusterName::default_cluster(),
                base_url: "https://api.example".into(),
                api_key: None,
                priority: 1,
                weight: 100,
                max_failures: None,
                timeout: None,
                admin_state: AdminState::Enabled,
                check: None,
                labels: Default::default(),
                allow_plaintext: false,
            };
            change(&mut registry, Mutation::CreateEndpoint(spec));
        }
        registry
    }

    fn change(registry: &mut Registry, mutation: Mutation) {
        let changed = registry.mutate(mutation, None, NOW);
        changed.expect("it is valid");
        registry.settle();
    }

    /// In the order of numbers.
    fn name(number: usize) -> EndpointName {
        let name = format!("endpoint-{number:05}");
        EndpointName::try_from(name.as_str()).expect("a valid name")
    }

    fn encoded(registry: &Registry, before: Option<EncodedSnapshot>) -> EncodedSnapshot {
        let cluster = ClusterName::default_cluster();
        EncodedSnapshot::of(&registry.snapshot(), &cluster, Clock(7), before)
    }

    /// Reads chunks as a data plane does.
    fn read(encoded: &EncodedSnapshot) -> Vec<(WatchSnapshotsResponse, SnapshotChunk)> {
        let messages = encoded.messages().into_iter();
        let chunks = messages.map(|bytes| {
            let mut message = WatchSnapshotsResponse::decode(bytes).expect("it is protobuf");
            match message.update.take() {
                Some(Update::Snapshot(chunk)) => (message, chunk),
                other => panic!("{other:?}"),
            }
        });
        chunks.collect()
    }

    #[test]
    fn a_chunk_is_one_message_with_everything_in_it() {
        let registry = registry(ENDPOINTS_PER_CHUNK + 1);
        let read = read(&encoded(&registry, None));
        let sizes: Vec<_> = read.iter().map(|(_, it)| it.endpoints.len()).collect();
        assert_eq!(sizes, [ENDPOINTS_PER_CHUNK, 1]);
        let (message, first) = &read[0];
        assert_eq!(message.clock_ms, 7);
        assert_eq!(
            message.view.map(|view| view.revision),
            Some(registry.view().revision)
        );
        assert!(first.first && !first.last && first.policy.is_some());
        assert_eq!(first.registry_id, "registry");
        let (message, last) = &read[1];
        assert!(message.view.is_some());
        assert!(!last.first && last.last && last.policy.is_none());
    }

    #[test]
    fn an_empty_snapshot_is_one_chunk() {
        let read = read(&encoded(&registry(0), None));
        assert_eq!(read.len(), 1);
        assert!(read[0].1.first && read[0].1.last && read[0].1.endpoints.is_empty());
    }

    #[test]
    fn what_was_encoded_before_makes_no_difference() {
        let mut registry = registry(2 * ENDPOINTS_PER_CHUNK + 1);
        let mut before = encoded(&registry, None);
        let restore = |number| Mutation::Restore { name: name(number) };
        let remove = |number| Mutation::DeleteEndpoint {
            name: name(number),
            etag: None,
            allow_missing: false,
        };
        let policy = Mutation::UpdateCluster {
            name: ClusterName::default_cluster(),
            policy: Policy {
                max_failures: 7,
                ..Policy::default()
            },
            etag: None,
        };
        let last = 2 * ENDPOINTS_PER_CHUNK;
        for mutation in [restore(0), restore(1500), policy, remove(last), remove(3)] {
            change(&mut registry, mutation);
            let anew = read(&encoded(&registry, None));
            before = encoded(&registry, Some(before));
            assert_eq!(read(&before), anew);
        }
    }

    #[test]
    fn endpoints_that_are_the_same_are_not_encoded_again() {
        let mut registry = registry(2 * ENDPOINTS_PER_CHUNK);
        let before = encoded(&registry, None);
        change(&mut registry, Mutation::Restore { name: name(0) });
        let members: Vec<_> = registry.snapshot().endpoints.values().cloned().collect();
        let known = |at| before.endpoints(at, part(&members, at));
        assert!(known(0).is_none());
        assert_eq!(known(1), Some(before.chunks[1].endpoints.clone()));
    }
}
