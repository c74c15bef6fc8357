//! `HealthSyncService`: what data planes are told, and what they report.
//!
//! An update is encoded once and shared by all streams that stand at the same view;
//! those that have fallen behind by several views share one update that spans them.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use qcc_proto::{
    encoded::{HealthSyncService, HealthSyncServiceServer, encode},
    v1,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Api, convert,
    error::{invalid, status},
    validate,
};
use crate::{
    feed::Since,
    registry::{Clock, ClusterName, Endpoint, ProxyKey, Publication, Receipt, Snapshot, View},
};

/// A data plane that hears nothing for three of these opens a new stream.
const BOOKMARK: Duration = Duration::from_secs(5);

/// Endpoints in one message: about 300 KiB, well below the 4 MiB that clients take.
const ENDPOINTS_PER_CHUNK: usize = 1000;

/// How long an encoded snapshot is handed out again, at most: its clock is the age of
/// every pause in it.
const SNAPSHOT_REUSE: Duration = Duration::from_millis(500);

/// Deltas that are kept for other streams: those of one burst.
const DELTAS_MAX: usize = 32;

/// Returns the service.
pub(super) fn service(api: Api) -> HealthSyncServiceServer<Sync> {
    HealthSyncServiceServer::new(Sync {
        api,
        encoded: Arc::default(),
    })
}

/// The service: what all have, and what is encoded already.
#[derive(Debug, Clone)]
pub(super) struct Sync {
    api: Api,
    encoded: Arc<Encoded>,
}

/// Encoded updates, by cluster.
#[derive(Debug, Default)]
struct Encoded {
    snapshots: Mutex<BTreeMap<ClusterName, EncodedSnapshot>>,
    /// By where they lead to and where they come from.
    deltas: Mutex<BTreeMap<(View, View, ClusterName), Bytes>>,
}

/// The chunks of a cluster's snapshot, of which view, and made when.
type EncodedSnapshot = (View, Instant, Arc<[Bytes]>);

#[tonic::async_trait]
impl HealthSyncService for Sync {
    type WatchSnapshotsStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn watch_snapshots(
        &self,
        request: Request<v1::WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let request = request.into_inner();
        let key = validate::proxy(request.proxy.as_ref())?;
        let cluster = validate::cluster_name("cluster", &request.cluster)?;
        let position = request.resume_from.map(|view| validate::view(Some(view)));
        self.introduce(&key, request.proxy, Some(&cluster));
        let (lease, _, _) = self.api.handle.connect(key.clone()).await?;
        let (messages, stream) = tokio::sync::mpsc::channel(1);
        let sync = self.clone();
        tokio::spawn(async move {
            let _lease = lease;
            let _stream = OpenStream::new(&sync.api, &key);
            sync.send_updates(&cluster, position, &messages).await;
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(stream),
        )))
    }

    async fn get_snapshot(
        &self,
        request: Request<v1::GetSnapshotRequest>,
    ) -> Result<Response<v1::GetSnapshotResponse>, Status> {
        let cluster = validate::cluster_name("cluster", &request.into_inner().cluster)?;
        let snapshot = self.api.feed.snapshot();
        Ok(Response::new(v1::GetSnapshotResponse {
            view: Some(convert::view(snapshot.view)),
            clock_ms: self.api.feed.now().clock.0,
            policy: policy(&snapshot, &cluster),
            endpoints: members(&snapshot, &cluster)
                .map(|endpoint| routed(endpoint, &snapshot))
                .collect(),
        }))
    }

    type StreamReportsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamReportsResponse, Status>> + Send>>;

    async fn stream_reports(
        &self,
        request: Request<Streaming<v1::StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, stream) = tokio::sync::mpsc::channel(1);
        let sync = self.clone();
        tokio::spawn(async move {
            let take = sync.take_reports(&mut requests, &answers);
            let result = tokio::select! {
                result = take => result,
                () = answers.closed() => return,
                () = sync.api.stop.cancelled() => {
                    Err(status(Code::Unavailable, "the control plane is stopping", "STOPPING", &[]))
                }
            };
            if let Err(status) = result {
                // Whoever reported may have gone away meanwhile.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(stream),
        )))
    }

    async fn report_outcomes(
        &self,
        request: Request<v1::ReportOutcomesRequest>,
    ) -> Result<Response<v1::ReportOutcomesResponse>, Status> {
        let request = request.into_inner();
        let key = validate::proxy(request.proxy.as_ref())?;
        let batch = request
            .batch
            .ok_or_else(|| invalid("batch", "must be set"))?;
        self.introduce(&key, request.proxy, None);
        let (receipt, view) = self.apply(&key, batch).await?;
        if receipt.gap {
            let acknowledged = receipt.acknowledged.to_string();
            return Err(status(
                Code::FailedPrecondition,
                format!("outcomes after sequence {acknowledged} are missing"),
                "SEQUENCE_GAP",
                &[("acknowledged_sequence", acknowledged.as_str())],
            ));
        }
        Ok(Response::new(v1::ReportOutcomesResponse {
            acknowledged_sequence: receipt.acknowledged,
            view: Some(convert::view(view)),
        }))
    }
}

impl Sync {
    /// Sends the state and every change of it until the stream ends.
    async fn send_updates(
        &self,
        cluster: &ClusterName,
        mut position: Option<View>,
        messages: &tokio::sync::mpsc::Sender<Result<Bytes, Status>>,
    ) {
        let mut newest = self.api.feed.subscribe();
        loop {
            newest.mark_unchanged();
            let snapshot = self.api.feed.snapshot();
            for message in self.step(&snapshot, cluster, position).iter() {
                if messages.send(Ok(message.clone())).await.is_err() {
                    return;
                }
            }
            position = Some(snapshot.view);
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(BOOKMARK) => {}
                () = messages.closed() => return,
                () = self.api.stop.cancelled() => {
                    let status =
                        status(Code::Unavailable, "the control plane is stopping", "STOPPING", &[]);
                    let _ = messages.send(Err(status)).await;
                    return;
                }
            }
        }
    }

    /// Returns the messages that lead from `position` to `snapshot`.
    fn step(
        &self,
        snapshot: &Snapshot,
        cluster: &ClusterName,
        position: Option<View>,
    ) -> Arc<[Bytes]> {
        let Some(from) = position else {
            return self.snapshot(snapshot, cluster);
        };
        match self.api.feed.since(from, snapshot.view) {
            Since::Changed(_) if from == snapshot.view => Arc::new([self.bookmark(snapshot)]),
            Since::Changed(changed) => Arc::new([self.delta(from, snapshot, cluster, &changed)]),
            // A view of the future belongs to a state that is gone: this one is the truth.
            Since::TooOld | Since::Future => self.snapshot(snapshot, cluster),
        }
    }

    /// Takes batches until the data plane ends its stream.
    async fn take_reports(
        &self,
        requests: &mut Streaming<v1::StreamReportsRequest>,
        answers: &tokio::sync::mpsc::Sender<Result<v1::StreamReportsResponse, Status>>,
    ) -> Result<(), Status> {
        let Some(first) = requests.next().await else {
            return Ok(());
        };
        let first = first?;
        let key = validate::proxy(first.proxy.as_ref())?;
        self.introduce(&key, first.proxy, None);
        let (_lease, mut receipt, mut view) = self.api.handle.connect(key.clone()).await?;
        let _stream = OpenStream::new(&self.api, &key);
        let mut batch = first.batch;
        loop {
            if let Some(batch) = batch {
                if batch.outcomes.is_empty() && batch.dropped == 0 {
                    // It only says what was applied: nothing for the writer to do.
                    self.heard(&key, &batch, receipt);
                    view = self.api.feed.snapshot().view;
                } else {
                    (receipt, view) = self.apply(&key, batch).await?;
                }
            }
            let answer = v1::StreamReportsResponse {
                acknowledged_sequence: receipt.acknowledged,
                view: Some(convert::view(view)),
                sequence_gap: receipt.gap,
            };
            if answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
            match requests.next().await {
                Some(request) => batch = request?.batch,
                None => return Ok(()),
            }
        }
    }

    async fn apply(
        &self,
        key: &ProxyKey,
        batch: v1::ReportBatch,
    ) -> Result<(Receipt, View), Status> {
        let heard = v1::ReportBatch {
            outcomes: Vec::new(),
            ..batch
        };
        let batch = validate::report_batch(batch)?;
        let (receipt, view) = self.api.handle.report(key.clone(), batch).await?;
        self.heard(key, &heard, receipt);
        Ok((receipt, view))
    }

    fn heard(&self, key: &ProxyKey, batch: &v1::ReportBatch, receipt: Receipt) {
        let applied = batch.applied_view.map(|view| validate::view(Some(view)));
        self.api.sessions.update(key, |session| {
            session.applied = applied.or(session.applied);
            session.acknowledged = session.acknowledged.max(receipt.acknowledged);
            session.dropped = session.dropped.saturating_add(batch.dropped);
        });
    }

    fn introduce(
        &self,
        key: &ProxyKey,
        identity: Option<v1::ProxyIdentity>,
        cluster: Option<&ClusterName>,
    ) {
        let identity = identity.unwrap_or_default();
        self.api.sessions.update(key, |session| {
            session.version = short(identity.version);
            session.http_address = short(identity.http_address);
            session.admin_address = short(identity.admin_address);
            if let Some(cluster) = cluster {
                session.cluster = cluster.to_string();
            }
        });
    }
}

impl Sync {
    fn snapshot(&self, snapshot: &Snapshot, cluster: &ClusterName) -> Arc<[Bytes]> {
        let mut cache = self
            .encoded
            .snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cache.retain(|_, (_, made, _)| made.elapsed() < SNAPSHOT_REUSE);
        if let Some((view, _, chunks)) = cache.get(cluster)
            && *view == snapshot.view
        {
            return chunks.clone();
        }
        let chunks = encode_snapshot(snapshot, cluster, self.now());
        cache.insert(
            cluster.clone(),
            (snapshot.view, Instant::now(), chunks.clone()),
        );
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
        let mut cache = self
            .encoded
            .deltas
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = cache.get(&key) {
            return bytes.clone();
        }
        let bytes = encode_delta(from, snapshot, cluster, changed, self.now());
        while cache.len() >= DELTAS_MAX {
            cache.pop_first();
        }
        cache.insert(key, bytes.clone());
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
        self.api.feed.now().clock
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
    let removed = changed
        .endpoints
        .iter()
        .filter(|name| !snapshot.endpoints.contains_key(*name));
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
            // A name that was deleted in one cluster and created in another is removed
            // here; one that was never here does no harm.
            removed_endpoints: removed
                .chain(changed.endpoints.iter().filter(|name| {
                    snapshot
                        .endpoints
                        .get(*name)
                        .is_some_and(|e| e.spec.cluster != *cluster)
                }))
                .map(ToString::to_string)
                .collect(),
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

fn members<'a>(
    snapshot: &'a Snapshot,
    cluster: &'a ClusterName,
) -> impl Iterator<Item = &'a Arc<Endpoint>> {
    snapshot
        .endpoints
        .values()
        .filter(|endpoint| endpoint.spec.cluster == *cluster)
}

fn routed(endpoint: &Endpoint, snapshot: &Snapshot) -> v1::RoutedEndpoint {
    let cluster = snapshot.clusters.get(&endpoint.spec.cluster);
    let policy = cluster.map(|cluster| &cluster.policy);
    convert::routed_endpoint(
        endpoint,
        policy.expect("a cluster with endpoints is not deleted"),
    )
}

fn policy(snapshot: &Snapshot, cluster: &ClusterName) -> Option<v1::ClusterPolicy> {
    snapshot
        .clusters
        .get(cluster)
        .map(|cluster| convert::policy(&cluster.policy))
}

/// Cuts what a data plane says of itself to what a table has room for.
fn short(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(128));
    text.retain(|c| !c.is_control());
    text
}

/// Counts one open stream of a data plane while it lives.
struct OpenStream {
    api: Api,
    key: ProxyKey,
}

impl OpenStream {
    fn new(api: &Api, key: &ProxyKey) -> Self {
        api.sessions.update(key, |session| session.streams += 1);
        Self {
            api: api.clone(),
            key: key.clone(),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.api.sessions.update(&self.key, |session| {
            session.streams = session.streams.saturating_sub(1);
        });
    }
}
