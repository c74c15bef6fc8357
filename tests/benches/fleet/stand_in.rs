//! Stand-ins for data planes: they speak as one does, and forward nothing.

use std::net::SocketAddr;

use bytes::Buf;

use qcc_proto::v1::{
    GetSnapshotRequest, GetSnapshotResponse, Outcome, ProxyIdentity, ReportBatch,
    StreamReportsRequest, StreamReportsResponse, View, WatchSnapshotsRequest,
    WatchSnapshotsResponse, health_sync_service_client::HealthSyncServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::{ProstCodec, ProstEncoder};

/// The only cluster.
pub(crate) const CLUSTER: &str = "default";

/// A data plane with a connection of its own.
pub(crate) struct StandIn {
    identity: ProxyIdentity,
    channel: Channel,
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
        let channel = connect(address).await;
        Self {
            identity: ProxyIdentity {
                id: format!("proxy-{number}"),
                incarnation: "bench".into(),
                version: "0.0.0".into(),
                ..ProxyIdentity::default()
            },
            client: HealthSyncServiceClient::new(channel.clone()),
            channel,
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
        let response = self.client.clone().watch_snapshots(self.wish()).await;
        response.expect("the server answers").into_inner()
    }

    /// Watches, and reads of each message only how long it is: what a thousand data
    /// planes have to do is not done by one core.
    pub(crate) async fn watch_lengths(&self) -> Streaming<usize> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("the server listens");
        let path = PathAndQuery::from_static("/qcc.v1.HealthSyncService/WatchSnapshots");
        let request = tonic::Request::new(self.wish());
        let response = client.server_streaming(request, path, Lengths).await;
        response.expect("the server answers").into_inner()
    }

    fn wish(&self) -> WatchSnapshotsRequest {
        WatchSnapshotsRequest {
            proxy: Some(self.identity.clone()),
            cluster: CLUSTER.into(),
            ..WatchSnapshotsRequest::default()
        }
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

/// Reads messages as their lengths.
#[derive(Debug, Clone, Copy)]
struct Lengths;

impl Codec for Lengths {
    type Encode = WatchSnapshotsRequest;
    type Decode = usize;
    type Encoder = ProstEncoder<WatchSnapshotsRequest>;
    type Decoder = Self;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<WatchSnapshotsRequest, ()>::default().encoder()
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Decoder for Lengths {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = message.remaining();
        message.advance(length);
        Ok(Some(length))
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
