//! `HealthSyncService`: views out to data planes, reports in.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::stream::unfold;
use qcc_proto::{
    encoded::{HealthSyncService, HealthSyncServiceServer},
    v1,
};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    Api, convert,
    error::{invalid, status, stopping},
    following::Following,
    reports,
    updates::{Follower, Updates, members, planned_checks, policy, routed},
    validate,
};
use crate::{
    actor::Lease,
    registry::{ClusterName, ProxyKey, Receipt, View},
};

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
        let following = Following::new(
            follower,
            self.api.feed.subscription(),
            self.api.stop.clone(),
            (OpenStream::new(&self.api, &key), lease),
        );
        Ok(Response::new(Box::pin(following)))
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
            planned_checks: planned_checks(members(&snapshot, &cluster)),
        }))
    }

    type StreamReportsStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamReportsResponse, Status>> + Send>>;

    async fn stream_reports(
        &self,
        request: Request<Streaming<v1::StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let reports = Reports {
            conversation: Conversation {
                sync: self.clone(),
                requests: request.into_inner(),
                speaker: None,
            },
            stop: Box::pin(self.api.stop.clone().cancelled_owned()),
        };
        Ok(Response::new(Box::pin(unfold(
            Some(reports),
            Reports::step,
        ))))
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
    /// Gets to know who reports.
    async fn meet(&self, identity: Option<v1::ProxyIdentity>) -> Result<Speaker, Status> {
        let key = reports::proxy(identity.as_ref())?;
        self.introduce(&key, identity, None);
        let (lease, receipt, view) = self.api.handle.connect(key.clone()).await?;
        Ok(Speaker {
            hearing: Hearing::new(receipt, view),
            _stream: OpenStream::new(&self.api, &key),
            _lease: lease,
            key,
        })
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
            session.version = short(identity.version);
            session.http_address = short(identity.http_address);
            session.admin_address = short(identity.admin_address);
            if let Some(cluster) = cluster {
                session.cluster = cluster.to_string();
            }
        });
    }
}

/// A data plane's stream of reports: for each question one answer.
struct Reports {
    conversation: Conversation,
    /// Waited for as long as the stream lives: to begin and end that for each report would
    /// be a detour on its way.
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// What is said on one stream of reports.
struct Conversation {
    sync: Sync,
    requests: Streaming<v1::StreamReportsRequest>,
    /// Known once it has spoken.
    speaker: Option<Speaker>,
}

/// Who reports.
struct Speaker {
    key: ProxyKey,
    hearing: Hearing,
    _stream: OpenStream,
    _lease: Lease,
}

impl Reports {
    /// Returns the next answer, and what comes after it.
    async fn step(
        reports: Option<Self>,
    ) -> Option<(Result<v1::StreamReportsResponse, Status>, Option<Self>)> {
        let mut reports = reports?;
        let answer = tokio::select! {
            biased;
            answer = reports.conversation.next() => answer,
            () = reports.stop.as_mut() => Err(stopping()),
        };
        match answer {
            Ok(None) => None,
            Ok(Some(answer)) => Some((Ok(answer), Some(reports))),
            Err(status) => Some((Err(status), None)),
        }
    }
}

impl Conversation {
    /// Takes the next batch. `None`: the data plane has ended its stream.
    async fn next(&mut self) -> Result<Option<v1::StreamReportsResponse>, Status> {
        let Some(request) = self.requests.next().await else {
            return Ok(None);
        };
        let request = request?;
        let sync = &self.sync;
        let speaker = match &mut self.speaker {
            Some(speaker) => speaker,
            unknown => unknown.insert(sync.meet(request.proxy).await?),
        };
        let Speaker { key, hearing, .. } = speaker;
        if let Some(batch) = request.batch {
            if is_sign_of_life(&batch) {
                let receipt = hearing.sign_of_life(sync.api.feed.snapshot().view);
                sync.heard(key, batch.applied_view, receipt);
            } else {
                let (receipt, view) = sync.apply(key, batch).await?;
                hearing.applied(receipt, view);
            }
        }
        Ok(Some(hearing.answer()))
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
        api.sessions.update(key, |session| {
            session.streams += 1;
            session.settled = false;
        });
        Self {
            api: api.clone(),
            key: key.clone(),
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.api.sessions.stream_ended(&self.key);
    }
}
