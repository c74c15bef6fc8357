//! `HealthSyncService`: views out to data planes, reports in.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use qcc_proto::{
    encoded::{HealthSyncService, HealthSyncServiceServer},
    v1,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Api, convert,
    error::{invalid, status},
    reports,
    updates::{Follower, Updates, members, policy, routed},
    validate,
};
use crate::registry::{ClusterName, ProxyKey, Receipt, View};

/// A data plane that hears nothing for three of these opens a new stream.
const BOOKMARK: Duration = Duration::from_secs(5);

/// Returns the service.
pub(super) fn service(api: Api) -> HealthSyncServiceServer<Sync> {
    HealthSyncServiceServer::new(Sync {
        updates: Arc::new(Updates::new(api.feed.clone())),
        api,
    })
}

/// The service: what all have, and what is encoded already.
#[derive(Debug, Clone)]
pub(super) struct Sync {
    api: Api,
    updates: Arc<Updates>,
}

#[tonic::async_trait]
impl HealthSyncService for Sync {
    type WatchSnapshotsStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn watch_snapshots(
        &self,
        request: Request<v1::WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let request = request.into_inner();
        let key = reports::proxy(request.proxy.as_ref())?;
        let cluster = validate::cluster_name("cluster", &request.cluster)?;
        let follower = Follower::new(self.updates.clone(), &request, cluster.clone());
        self.introduce(&key, request.proxy, Some(&cluster));
        let (lease, _, _) = self.api.handle.connect(key.clone()).await?;
        let (messages, stream) = tokio::sync::mpsc::channel(1);
        let sync = self.clone();
        tokio::spawn(async move {
            let _lease = lease;
            let _stream = OpenStream::new(&sync.api, &key);
            sync.send_updates(follower, &messages).await;
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
            registry_id: snapshot.registry_id.to_string(),
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
        let key = reports::proxy(request.proxy.as_ref())?;
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
        mut follower: Follower,
        messages: &tokio::sync::mpsc::Sender<Result<Bytes, Status>>,
    ) {
        let mut newest = self.api.feed.subscribe();
        loop {
            newest.mark_unchanged();
            for message in follower.next().iter() {
                if messages.send(Ok(message.clone())).await.is_err() {
                    return;
                }
            }
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
        let key = reports::proxy(first.proxy.as_ref())?;
        self.introduce(&key, first.proxy, None);
        let (_lease, receipt, view) = self.api.handle.connect(key.clone()).await?;
        let mut hearing = Hearing::new(receipt, view);
        let _stream = OpenStream::new(&self.api, &key);
        let mut batch = first.batch;
        loop {
            if let Some(batch) = batch {
                if is_sign_of_life(&batch) {
                    let receipt = hearing.sign_of_life(self.api.feed.snapshot().view);
                    self.heard(&key, batch.applied_view, receipt);
                } else {
                    let (receipt, view) = self.apply(&key, batch).await?;
                    hearing.applied(receipt, view);
                }
            }
            if answers.send(Ok(hearing.answer())).await.is_err() {
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
        let applied = batch.applied_view;
        let batch = reports::batch(batch)?;
        let (receipt, view) = self.api.handle.report(key.clone(), batch).await?;
        self.heard(key, applied, receipt);
        Ok((receipt, view))
    }

    fn heard(&self, key: &ProxyKey, applied: Option<v1::View>, receipt: Receipt) {
        let applied = applied.map(|view| reports::view(Some(view)));
        self.api.sessions.update(key, |session| {
            if let (Some(applied), Some(before)) = (applied, session.applied)
                && applied > before
                && session.settled
            {
                self.api.sessions.observe(self.api.feed.behind(before));
            }
            session.settled |=
                applied.is_some_and(|applied| self.api.feed.behind(applied).is_zero());
            session.applied = applied.or(session.applied);
            session.acknowledged = session.acknowledged.max(receipt.acknowledged);
            session.dropped = session.dropped.saturating_add(receipt.dropped);
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
            session.settled = false;
            session.version = short(identity.version);
            session.http_address = short(identity.http_address);
            session.admin_address = short(identity.admin_address);
            if let Some(cluster) = cluster {
                session.cluster = cluster.to_string();
            }
        });
    }
}

/// What a data plane has been told, or is about to be, of its reports.
#[derive(Debug)]
pub(crate) struct Hearing {
    receipt: Receipt,
    view: View,
}

impl Hearing {
    /// Begins with what was applied before.
    pub(crate) fn new(receipt: Receipt, view: View) -> Self {
        Self { receipt, view }
    }

    /// Takes note of a batch that the writer has applied.
    pub(crate) fn applied(&mut self, receipt: Receipt, view: View) {
        (self.receipt, self.view) = (receipt, view);
    }

    /// Takes note of a batch for which the writer has nothing to do.
    pub(crate) fn sign_of_life(&mut self, view: View) -> Receipt {
        self.view = view;
        self.receipt.dropped = 0;
        self.receipt
    }

    /// Returns the answer to the last question.
    pub(crate) fn answer(&mut self) -> v1::StreamReportsResponse {
        v1::StreamReportsResponse {
            acknowledged_sequence: self.receipt.acknowledged,
            view: Some(convert::view(self.view)),
            // It is said once.
            sequence_gap: std::mem::take(&mut self.receipt.gap),
        }
    }
}

/// Whether a batch only says what was applied.
pub(crate) fn is_sign_of_life(batch: &v1::ReportBatch) -> bool {
    batch.outcomes.is_empty() && batch.dropped == 0
}

/// Updates, shared by all streams of a simulation.
#[cfg(feature = "simulation")]
pub(crate) struct SharedUpdates(Arc<Updates>);

#[cfg(feature = "simulation")]
impl SharedUpdates {
    pub(crate) fn new(feed: Arc<crate::feed::Feed>) -> Self {
        Self(Arc::new(Updates::new(feed)))
    }

    pub(crate) fn follow(&self, request: &v1::WatchSnapshotsRequest) -> Result<Follower, Status> {
        let cluster = validate::cluster_name("cluster", &request.cluster)?;
        Ok(Follower::new(self.0.clone(), request, cluster))
    }
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
