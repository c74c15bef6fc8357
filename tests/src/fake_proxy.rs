//! A data plane that misbehaves on purpose.

use qcc_proto::v1::{
    GetSnapshotRequest, GetSnapshotResponse, Outcome, OutcomeClass, ProxyIdentity, ReportBatch,
    ReportOutcomesRequest, ReportOutcomesResponse, View, WatchSnapshotsRequest,
    WatchSnapshotsResponse, health_sync_service_client::HealthSyncServiceClient,
};
use tonic::{Status, Streaming, transport::Channel};

use crate::control::{ControlPlane, channel};

/// Speaks to the control plane as a proxy does, but sends what the test says.
pub struct FakeProxy {
    identity: ProxyIdentity,
    client: HealthSyncServiceClient<Channel>,
    sent: u64,
}

impl FakeProxy {
    /// Introduces a proxy of this name, in this incarnation.
    pub fn new(control: &ControlPlane, id: &str, incarnation: &str) -> Self {
        Self::over(control.channel(), id, incarnation)
    }

    /// Introduces one that has a connection of its own.
    pub fn apart(control: &ControlPlane, id: &str, incarnation: &str) -> Self {
        Self::over(channel(control.address()), id, incarnation)
    }

    fn over(channel: Channel, id: &str, incarnation: &str) -> Self {
        let identity = ProxyIdentity {
            id: id.to_owned(),
            incarnation: incarnation.to_owned(),
            version: "0.0.0".to_owned(),
            ..Default::default()
        };
        Self {
            identity,
            client: HealthSyncServiceClient::new(channel),
            sent: 0,
        }
    }

    /// Reads a cluster's state, credentials included.
    pub async fn snapshot(&self, cluster: &str) -> GetSnapshotResponse {
        let request = GetSnapshotRequest {
            cluster: cluster.to_owned(),
        };
        let response = self.client.clone().get_snapshot(request).await;
        response.expect("the control plane answers").into_inner()
    }

    /// Opens a watch.
    pub async fn watch(
        &self,
        cluster: &str,
        resume_from: Option<View>,
    ) -> Result<Streaming<WatchSnapshotsResponse>, Status> {
        let request = WatchSnapshotsRequest {
            proxy: Some(self.identity.clone()),
            cluster: cluster.to_owned(),
            resume_from,
            ..Default::default()
        };
        Ok(self
            .client
            .clone()
            .watch_snapshots(request)
            .await?
            .into_inner())
    }

    /// Reports outcomes under the next sequence numbers, as a good proxy does.
    pub async fn report(&mut self, outcomes: Vec<Outcome>) -> ReportOutcomesResponse {
        let first = self.sent + 1;
        self.sent += outcomes.len() as u64;
        self.send(first, outcomes)
            .await
            .expect("the report is taken")
    }

    /// Reports outcomes under any sequence numbers.
    pub async fn send(
        &self,
        first_sequence: u64,
        outcomes: Vec<Outcome>,
    ) -> Result<ReportOutcomesResponse, Status> {
        let batch = ReportBatch {
            first_sequence,
            outcomes,
            ..Default::default()
        };
        let request = ReportOutcomesRequest {
            proxy: Some(self.identity.clone()),
            batch: Some(batch),
        };
        Ok(self
            .client
            .clone()
            .report_outcomes(request)
            .await?
            .into_inner())
    }
}

/// An outcome of one attempt at an endpoint of `snapshot`, chosen under its view.
///
/// # Panics
///
/// If the snapshot has no such endpoint.
pub fn outcome(snapshot: &GetSnapshotResponse, endpoint: &str, class: OutcomeClass) -> Outcome {
    let routed = snapshot
        .endpoints
        .iter()
        .find(|routed| routed.name == endpoint);
    let routed = routed.expect("the endpoint is in the snapshot");
    Outcome {
        endpoint: endpoint.to_owned(),
        generation: routed.generation,
        view: snapshot.view,
        class: class.into(),
        count: 1,
        ..Default::default()
    }
}
