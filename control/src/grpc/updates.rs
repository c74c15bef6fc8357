//! What data planes are told, as bytes.
//!
//! An update is encoded once and shared by all streams that stand at the same view;
//! those that have fallen behind by several views share one update that spans them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use qcc_proto::{encoded::encode, v1};

use super::{convert, reports};
use crate::{
    feed::{Feed, Since},
    registry::{Clock, ClusterName, Endpoint, EndpointName, Publication, Snapshot, View},
};

/// Endpoints in one message: about 300 KiB, well below the 4 MiB that clients take.
const ENDPOINTS_PER_CHUNK: usize = 1000;

/// How long encoded bytes are handed out again, at most: their clock is the age of every
/// pause in them.
const REUSE: Duration = Duration::from_millis(500);

/// Deltas that are kept for other streams: those of one burst.
const DELTAS_MAX: usize = 32;

/// Updates for the data planes of all clusters.
#[derive(Debug)]
pub(super) struct Updates {
    feed: Arc<Feed>,
    snapshots: Mutex<BTreeMap<ClusterName, EncodedSnapshot>>,
    deltas: Mutex<BTreeMap<Way, (Clock, Bytes)>>,
}

/// Where a delta leads to and comes from, and of which cluster it is.
type Way = (View, View, ClusterName);

/// The chunks of a cluster's snapshot, of which view, and made when.
type EncodedSnapshot = (View, Clock, Arc<[Bytes]>);

/// Where one stream of updates stands.
#[derive(Debug)]
pub(crate) struct Follower {
    updates: Arc<Updates>,
    cluster: ClusterName,
    position: Option<View>,
}

impl Follower {
    /// Begins a stream: with what is new to a data plane that resumes, else with a
    /// snapshot.
    pub(super) fn new(
        updates: Arc<Updates>,
        request: &v1::WatchSnapshotsRequest,
        cluster: ClusterName,
    ) -> Self {
        let known = updates.feed.snapshot().registry_id.clone();
        let position = request
            .resume_from
            .filter(|_| request.registry_id.is_empty() || *request.registry_id == *known)
            .map(|view| reports::view(Some(view)));
        Self {
            updates,
            cluster,
            position,
        }
    }

    /// Returns the messages that lead to the present state; a bookmark if it is known
    /// already.
    pub(crate) fn next(&mut self) -> Arc<[Bytes]> {
        let snapshot = self.updates.feed.snapshot();
        let messages = self.updates.lead(&snapshot, &self.cluster, self.position);
        self.position = Some(snapshot.view);
        messages
    }

    /// Whether there is more to say than a bookmark.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_behind(&self) -> bool {
        self.position != Some(self.updates.feed.snapshot().view)
    }
}

impl Updates {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self {
            feed,
            snapshots: Mutex::default(),
            deltas: Mutex::default(),
        }
    }

    /// Returns the messages that lead from `position` to `snapshot`.
    fn lead(
        &self,
        snapshot: &Snapshot,
        cluster: &ClusterName,
        position: Option<View>,
    ) -> Arc<[Bytes]> {
        let Some(from) = position else {
            return self.snapshot(snapshot, cluster);
        };
        match self.feed.since(from, snapshot.view) {
            Since::Changed(_) if from == snapshot.view => Arc::new([self.bookmark(snapshot)]),
            Since::Changed(changed) if changed.endpoints.len() <= ENDPOINTS_PER_CHUNK => {
                Arc::new([self.delta(from, snapshot, cluster, &changed)])
            }
            // So much at once goes in chunks, as a snapshot does.
            Since::Changed(_) => self.snapshot(snapshot, cluster),
            // A view of the future belongs to a state that is gone: this one is the truth.
            Since::TooOld | Since::Future => self.snapshot(snapshot, cluster),
        }
    }

    fn snapshot(&self, snapshot: &Snapshot, cluster: &ClusterName) -> Arc<[Bytes]> {
        let mut cache = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        cache.retain(|_, (_, made, _)| now.since(*made) < REUSE);
        if let Some((view, _, chunks)) = cache.get(cluster)
            && *view == snapshot.view
        {
            return chunks.clone();
        }
        let chunks = encode_snapshot(snapshot, cluster, now);
        cache.insert(cluster.clone(), (snapshot.view, now, chunks.clone()));
        chunks
    }

    fn delta(
        &self,
        from: View,
        snapshot: &Snapshot,
        cluster: &ClusterName,
        changed: &Publication,
    ) -> Bytes {
        let key = (snapshot.view, from, cluster.clone());
        let mut cache = self.deltas.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if let Some((made, bytes)) = cache.get(&key)
            && now.since(*made) < REUSE
        {
            return bytes.clone();
        }
        let bytes = encode_delta(from, snapshot, cluster, changed, now);
        while cache.len() >= DELTAS_MAX {
            cache.pop_first();
        }
        cache.insert(key, (now, bytes.clone()));
        bytes
    }

    fn bookmark(&self, snapshot: &Snapshot) -> Bytes {
        let bookmark = v1::SnapshotBookmark {};
        message(
            snapshot,
            self.now(),
            v1::watch_snapshots_response::Update::Bookmark(bookmark),
        )
    }

    fn now(&self) -> Clock {
        self.feed.now().clock
    }
}

fn encode_snapshot(snapshot: &Snapshot, cluster: &ClusterName, now: Clock) -> Arc<[Bytes]> {
    let endpoints: Vec<_> = members(snapshot, cluster).collect();
    let chunks = endpoints.len().div_ceil(ENDPOINTS_PER_CHUNK).max(1);
    (0..chunks)
        .map(|at| {
            let first = at == 0;
            let chunk = endpoints
                .iter()
                .skip(at * ENDPOINTS_PER_CHUNK)
                .take(ENDPOINTS_PER_CHUNK);
            message(
                snapshot,
                now,
                v1::watch_snapshots_response::Update::Snapshot(v1::SnapshotChunk {
                    policy: if first {
                        policy(snapshot, cluster)
                    } else {
                        None
                    },
                    endpoints: chunk.map(|endpoint| routed(endpoint, snapshot)).collect(),
                    first,
                    last: at + 1 == chunks,
                    registry_id: if first {
                        snapshot.registry_id.to_string()
                    } else {
                        String::new()
                    },
                }),
            )
        })
        .collect()
}

fn encode_delta(
    from: View,
    snapshot: &Snapshot,
    cluster: &ClusterName,
    changed: &Publication,
    now: Clock,
) -> Bytes {
    let present = changed
        .endpoints
        .iter()
        .filter_map(|name| snapshot.endpoints.get(name));
    let policy = if changed.clusters.contains(cluster) {
        policy(snapshot, cluster)
    } else {
        None
    };
    message(
        snapshot,
        now,
        v1::watch_snapshots_response::Update::Delta(v1::SnapshotDelta {
            from_view: Some(convert::view(from)),
            policy,
            endpoints: present
                .filter(|endpoint| endpoint.spec.cluster == *cluster)
                .map(|endpoint| routed(endpoint, snapshot))
                .collect(),
            removed_endpoints: gone(changed, snapshot, Some(cluster)),
        }),
    )
}

fn message(snapshot: &Snapshot, now: Clock, update: v1::watch_snapshots_response::Update) -> Bytes {
    encode(&v1::WatchSnapshotsResponse {
        view: Some(convert::view(snapshot.view)),
        clock_ms: now.0,
        update: Some(update),
    })
}

pub(super) fn members<'a>(
    snapshot: &'a Snapshot,
    cluster: &'a ClusterName,
) -> impl Iterator<Item = &'a Arc<Endpoint>> {
    snapshot
        .endpoints
        .values()
        .filter(|endpoint| endpoint.spec.cluster == *cluster)
}

pub(super) fn routed(endpoint: &Endpoint, snapshot: &Snapshot) -> v1::RoutedEndpoint {
    let cluster = snapshot.clusters.get(&endpoint.spec.cluster);
    let policy = cluster.map(|cluster| &cluster.policy);
    convert::routed_endpoint(
        endpoint,
        policy.expect("a cluster with endpoints is not deleted"),
    )
}

pub(super) fn policy(snapshot: &Snapshot, cluster: &ClusterName) -> Option<v1::ClusterPolicy> {
    snapshot
        .clusters
        .get(cluster)
        .map(|cluster| convert::policy(&cluster.policy))
}

/// Returns the changed names that are not in `cluster` (any longer). One that was
/// deleted here and created in another cluster is among them; one that was never here
/// does no harm.
pub(super) fn gone(
    changed: &Publication,
    snapshot: &Snapshot,
    cluster: Option<&ClusterName>,
) -> Vec<String> {
    let here = |name: &&EndpointName| {
        let endpoint = snapshot.endpoints.get(*name);
        endpoint.is_some_and(|e| cluster.is_none_or(|cluster| e.spec.cluster == *cluster))
    };
    let gone = changed.endpoints.iter().filter(|name| !here(name));
    gone.map(ToString::to_string).collect()
}
