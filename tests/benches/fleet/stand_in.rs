//! Stand-ins for data planes: they speak as one does, and forward nothing.

use std::net::SocketAddr;

use qcc_proto::v1::{
    GetSnapshotRequest, GetSnapshotResponse, Outcome, ProxyIdentity, ReportBatch,
    StreamReportsRequest, StreamReportsResponse, View, WatchSnapshotsRequest,
    WatchSnapshotsResponse, health_sync_service_client::HealthSyncServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

/// The only cluster.
pub(crate) const CLUSTER: &str = "default";

/// A data plane with a connection of its own.
pub(crate) struct StandIn {
    identity: ProxyIdentity,
    client: HealthSyncServiceClient<Channel>,
}

/// Its stream of reports. One batch at a time is under way.
pub(crate) struct Reports {
    requests: mpsc::Sender<StreamReportsRequest>,
    answers: Streaming<StreamReportsResponse>,
    sent: u64,
    /// The newest view that it was told of.
    pub(crate) view: View,
}

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a valid URL");
    endpoint.connect().await.expect("the server listens")
}

impl StandIn {
    pub(crate) async fn connect(address: SocketAddr, number: usize) -> Self {
        Self {
            identity: ProxyIdentity {
                id: format!("proxy-{number}"),
                incarnation: "bench".into(),
                version: "0.0.0".into(),
                ..ProxyIdentity::default()
            },
            client: HealthSyncServiceClient::new(connect(address).await),
        }
    }

    pub(crate) async fn snapshot(&self) -> GetSnapshotResponse {
        let request = GetSnapshotRequest {
            cluster: CLUSTER.into(),
        };
        let response = self.client.clone().get_snapshot(request).await;
        response.expect("the server answers").into_inner()
    }

    pub(crate) async fn watch(&self) -> Streaming<WatchSnapshotsResponse> {
        let request = WatchSnapshotsRequest {
            proxy: Some(self.identity.clone()),
            cluster: CLUSTER.into(),
            ..WatchSnapshotsRequest::default()
        };
        let response = self.client.clone().watch_snapshots(request).await;
        response.expect("the server answers").into_inner()
    }

    pub(crate) async fn reports(&self) -> Reports {
        let (requests, outgoing) = mpsc::channel(1);
        let hello = StreamReportsRequest {
            proxy: Some(self.identity.clone()),
            batch: None,
        };
        requests.try_send(hello).expect("the channel is empty");
        let stream = ReceiverStream::new(outgoing);
        let response = self.client.clone().stream_reports(stream).await;
        let mut reports = Reports {
            requests,
            answers: response.expect("the server answers").into_inner(),
            sent: 0,
            view: View::default(),
        };
        reports.answer().await;
        reports
    }
}

impl Reports {
    /// Sends outcomes and waits until they are acknowledged. `outcome` makes one from
    /// its sequence number and the view it was chosen under.
    pub(crate) async fn send(&mut self, count: u64, outcome: impl Fn(u64, View) -> Outcome) {
        let first = self.sent + 1;
        self.sent += count;
        let batch = ReportBatch {
            first_sequence: first,
            outcomes: (first..=self.sent)
                .map(|sequence| outcome(sequence, self.view))
                .collect(),
            applied_view: Some(self.view),
            ..ReportBatch::default()
        };
        let request = StreamReportsRequest {
            proxy: None,
            batch: Some(batch),
        };
        let sent = self.requests.send(request).await;
        sent.expect("the stream is open");
        let acknowledged = self.answer().await;
        assert_eq!(acknowledged, self.sent);
    }

    async fn answer(&mut self) -> u64 {
        let answer = self.answers.message().await;
        let answer = answer
            .expect("the server answers")
            .expect("the stream is open");
        self.view = answer.view.expect("an answer names a view");
        answer.acknowledged_sequence
    }
}
