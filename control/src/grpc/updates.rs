//! What data planes are told, as bytes.
//!
//! An update is encoded once and shared by all streams that stand at the same view;
//! those that have fallen behind by several views share one update that spans them.
//!
//! Large snapshots go out to a few data planes at a time: when all come back at once,
//! the first are done early, nobody's buffers pile up, and an operator's call waits for
//! a few chunks, not for a thousand.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use qcc_proto::{encoded::encode, v1};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use super::{convert, reports, snapshots::EncodedSnapshot};
use crate::{
    feed::{Feed, Since},
    registry::{Clock, ClusterName, Endpoint, EndpointName, Publication, Snapshot, View},
    seeded::{Bug, seeded},
};

/// Endpoints in one message: about 300 KiB, well below the 4 MiB that clients take.
pub(super) const ENDPOINTS_PER_CHUNK: usize = 1000;

/// Checks that are told of in one message, the soonest: some 30 KiB.
const CHECKS_MAX: usize = 1000;

/// How long encoded bytes are handed out again, at most: their clock is the age of every
/// pause in them.
pub(super) const REUSE: Duration = Duration::from_millis(500);

/// Deltas that are kept for other streams: those of one burst.
const DELTAS_MAX: usize = 32;

/// Data planes to which snapshots of several chunks go out at the same time.
const PLACES: usize = 8;

/// How long one of them keeps the others waiting, at most, if it takes its chunks slowly.
const PLACE_MAX: Duration = Duration::from_millis(50);

/// Updates for the data planes of all clusters.
#[derive(Debug)]
pub(super) struct Updates {
    feed: Arc<Feed>,
    snapshots: Mutex<BTreeMap<ClusterName, EncodedSnapshot>>,
    /// The newest last.
    deltas: Mutex<VecDeque<EncodedDelta>>,
    bookmarks: Mutex<BTreeMap<ClusterName, EncodedBookmark>>,
    places: Arc<Semaphore>,
}

/// A delta's bytes.
#[derive(Debug)]
struct EncodedDelta {
    from: View,
    to: View,
    cluster: ClusterName,
    made: Clock,
    bytes: Bytes,
}

/// A cluster's bookmark, of which view, and made when.
type EncodedBookmark = (View, Clock, Bytes);

/// Where one stream of updates stands.
#[derive(Debug)]
pub(crate) struct Follower {
    updates: Arc<Updates>,
    cluster: ClusterName,
    position: Option<View>,
}

/// Messages to send one after the other. Mostly it is one, and then there is no list.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    first: Option<Bytes>,
    others: std::vec::IntoIter<Bytes>,
}

/// A place among those to whom snapshots go out; whoever drops it leaves it.
#[derive(Debug)]
pub(super) struct Place {
    _leave: oneshot::Sender<Infallible>,
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
    pub(crate) fn next(&mut self) -> Messages {
        let snapshot = self.updates.feed.newest();
        let messages = self.updates.lead(&snapshot, &self.cluster, self.position);
        self.position = Some(snapshot.view);
        messages
    }

    /// Whether what comes next may be a snapshot of several chunks.
    pub(super) fn needs_chunks(&self) -> bool {
        let snapshot = self.updates.feed.newest();
        let is_far_behind = |from| {
            from != snapshot.view && self.updates.delta(from, &snapshot, &self.cluster).is_none()
        };
        snapshot.endpoints.len() > ENDPOINTS_PER_CHUNK && self.position.is_none_or(is_far_behind)
    }

    /// Whether there is more to say than a bookmark.
    pub(crate) fn is_behind(&self) -> bool {
        self.position != Some(self.updates.feed.view())
    }

    /// Waits for a place among those to whom snapshots go out.
    pub(super) fn place(&self) -> impl Future<Output = Place> + Send + use<> {
        let places = Arc::clone(&self.updates.places);
        async move {
            let place = places.acquire_owned().await;
            let (leave, left) = oneshot::channel();
            tokio::spawn(async move {
                let _place = place;
                // Whether it has left or was too slow: the next one's turn.
                let _ = timeout(PLACE_MAX, left).await;
            });
            Place { _leave: leave }
        }
    }
}

impl Messages {
    fn of(message: Bytes) -> Self {
        Self {
            first: Some(message),
            ..Self::default()
        }
    }
}

impl Iterator for Messages {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.others.next())
    }
}

impl Updates {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self {
            feed,
            snapshots: Mutex::default(),
            deltas: Mutex::default(),
            bookmarks: Mutex::default(),
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// Returns the messages that lead from `position` to `snapshot`.
    fn lead(&self, snapshot: &Snapshot, cluster: &ClusterName, position: Option<View>) -> Messages {
        let one = match position {
            Some(from) if from == snapshot.view => Some(self.bookmark(snapshot, cluster)),
            Some(from) => self.delta(from, snapshot, cluster),
            None => None,
        };
        match one {
            Some(message) => Messages::of(message),
            None => Messages {
                first: None,
                others: self.snapshot(snapshot, cluster).into_iter(),
            },
        }
    }

    /// Returns what has changed between two views; nothing if only a snapshot can tell.
    fn changes(&self, from: View, to: View) -> Option<Publication> {
        match self.feed.since(from, to) {
            // So much at once goes in chunks, as a snapshot does.
            Since::Changed(changed) => {
                Some(changed).filter(|changed| changed.endpoints.len() <= ENDPOINTS_PER_CHUNK)
            }
            // A view of the future belongs to a state that is gone: this one is the truth.
            Since::TooOld | Since::Future => None,
        }
    }

    fn snapshot(&self, snapshot: &Snapshot, cluster: &ClusterName) -> Vec<Bytes> {
        let mut cache = self
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let known = cache.remove(cluster);
        cache.retain(|_, encoded| encoded.is_recent(now));
        let encoded = match known {
            Some(it) if it.is_recent(now) && it.view() == snapshot.view => it,
            known => EncodedSnapshot::of(snapshot, cluster, now, known),
        };
        let messages = encoded.messages();
        cache.insert(cluster.clone(), encoded);
        messages
    }

    fn delta(&self, from: View, snapshot: &Snapshot, cluster: &ClusterName) -> Option<Bytes> {
        let to = snapshot.view;
        let mut cache = self.deltas.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let known = cache.iter().rev().find(|delta| {
            (delta.to, delta.from) == (to, from)
                && delta.cluster == *cluster
                && now.since(delta.made) < REUSE
        });
        if let Some(delta) = known {
            return Some(delta.bytes.clone());
        }
        let changed = self.changes(from, to)?;
        let bytes = encode_delta(from, snapshot, cluster, &changed, now);
        while cache.len() >= DELTAS_MAX {
            cache.pop_front();
        }
        cache.push_back(EncodedDelta {
            from,
            to,
            cluster: cluster.clone(),
            made: now,
            bytes: bytes.clone(),
        });
        Some(bytes)
    }

    /// Shared as well: to find the planned checks means to look at each endpoint.
    fn bookmark(&self, snapshot: &Snapshot, cluster: &ClusterName) -> Bytes {
        let mut cache = self
            .bookmarks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        cache.retain(|_, (_, made, _)| now.since(*made) < REUSE);
        if let Some((view, _, bytes)) = cache.get(cluster)
            && *view == snapshot.view
        {
            return bytes.clone();
        }
        let bytes = message(
            snapshot,
            now,
            v1::watch_snapshots_response::Update::Bookmark(v1::SnapshotBookmark {
                registry_id: snapshot.registry_id.to_string(),
            }),
            planned_checks(members(snapshot, cluster)),
        );
        cache.insert(cluster.clone(), (snapshot.view, now, bytes.clone()));
        bytes
    }

    fn now(&self) -> Clock {
        self.feed.clock()
    }
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
        .filter_map(|name| snapshot.endpoints.get(name))
        .filter(|endpoint| endpoint.spec.cluster == *cluster);
    let policy = if changed.clusters.contains(cluster) && !seeded(Bug::PolicyUntold) {
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
                .clone()
                .map(|endpoint| routed(endpoint, snapshot))
                .collect(),
            removed_endpoints: gone(changed, snapshot, Some(cluster)),
            registry_id: snapshot.registry_id.to_string(),
        }),
        planned_checks(present),
    )
}

pub(super) fn message(
    snapshot: &Snapshot,
    now: Clock,
    update: v1::watch_snapshots_response::Update,
    planned_checks: Vec<v1::PlannedCheck>,
) -> Bytes {
    encode(&v1::WatchSnapshotsResponse {
        view: Some(convert::view(snapshot.view)),
        clock_ms: now.0,
        update: Some(update),
        planned_checks,
    })
}

/// Tells when endpoints are checked next, the soonest first.
pub(super) fn planned_checks<'a>(
    endpoints: impl Iterator<Item = &'a Arc<Endpoint>>,
) -> Vec<v1::PlannedCheck> {
    let mut planned: Vec<_> = endpoints
        .filter_map(|endpoint| convert::planned_check(endpoint))
        .collect();
    planned.sort_by_key(|check| check.due_clock_ms);
    planned.truncate(CHECKS_MAX);
    planned
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
