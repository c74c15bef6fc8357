//! Programs of other versions: newer ones say what today's do not know, older ones leave
//! out what today's always say.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prost::Message;
use qcc_proto::{
    encoded::{HealthSyncService, HealthSyncServiceServer, encode},
    v1::{
        AdminState, Cause, ClusterPolicy, CredentialScheme, GetSnapshotRequest,
        GetSnapshotResponse, HealthState, Outcome, OutcomeClass, ProxyIdentity, ReportBatch,
        ReportOutcomesRequest, ReportOutcomesResponse, RoutedEndpoint, SnapshotChunk,
        SnapshotDelta, StreamReportsRequest, StreamReportsResponse, View, WatchSnapshotsRequest,
        WatchSnapshotsResponse, watch_snapshots_response::Update,
    },
};
use qcc_tests::{FakeProxy, Testbed, eventually, outcome};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedSender, unbounded_channel},
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

/// A value that no enum has.
const ODD: i32 = 77;

/// Makes an endpoint odd.
type Change = fn(&mut RoutedEndpoint);

/// Numbers of fields and members that no message has.
const UNKNOWN: u32 = 900;

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_control_plane_is_followed_as_far_as_it_is_understood() {
    let mut testbed = Testbed::start().await;
    let control = FakeControl::start().await;
    let odd: [(&str, Change); 5] = [
        ("odd-admin", |it| it.admin_state = ODD),
        ("odd-state", |it| it.state = ODD),
        ("odd-scheme", |it| it.credential_scheme = ODD),
        ("odd-fall", |it| {
            it.state = HealthState::Unhealthy.into();
            it.cause = ODD;
        }),
        ("odd-pause", |it| {
            it.state = HealthState::Degraded.into();
            it.cause = ODD;
            it.until_clock_ms = u64::MAX;
        }),
    ];
    let mut endpoints = Vec::new();
    for (name, change) in odd {
        let mut endpoint = routed(name, &testbed.add_upstream(name).await.url());
        change(&mut endpoint);
        endpoints.push(endpoint);
    }
    let mut good = routed("good", &testbed.add_upstream("good").await.url());
    good.priority = 9; // Whoever else may be selected comes first.
    endpoints.push(good.clone());
    control.publish(&endpoints);
    let path = testbed.dir().join("view").display().to_string();
    let flags = ["--view-file", &path];
    let first = testbed.add_proxy_with(&[&control.url()], &flags).await;
    for _ in 0..5 {
        let answer = testbed.proxy(first).message().await;
        assert_eq!(answer.expect_status(200).served_by(), "good");
    }

    // Known before, and then not understood any more: it is shut.
    good.state = ODD;
    control.change(&good);
    eventually("nobody is left", async || {
        let answer = testbed.proxy(first).message().await;
        (answer.status.as_u16() == 503)
            .then_some(())
            .ok_or(answer.text())
    })
    .await;
    good.state = HealthState::Healthy.into();
    control.change(&good);
    eventually("it is back", async || {
        let answer = testbed.proxy(first).message().await;
        (answer.status.as_u16() == 200)
            .then_some(())
            .ok_or(answer.text())
    })
    .await;

    // Something else than a snapshot, a change or a bookmark: it asks for the whole again.
    let opened = control.opened().len();
    control.say_something_new();
    eventually("it asks again", async || {
        let again = control.opened();
        (again.len() > opened).then_some(()).ok_or(again.len())
    })
    .await;
    testbed.proxy(first).message().await.expect_status(200);
    for (name, _) in odd {
        assert_eq!(testbed.upstream(name).client_requests(), 0, "{name}");
    }
    // The three that cannot be used, and the one that could not be for a while: once each.
    let told = testbed.logs().find("endpoint left out");
    assert_eq!(told.len(), 4, "{told:?}");
    let reported = control.reports();
    assert!(
        reported.iter().all(|it| it.endpoint == "good"),
        "{reported:?}"
    );

    // Whoever starts from what was kept may be newer: it asks for all of it.
    assert!(testbed.proxy(first).stop().await.success());
    let opened = control.opened().len();
    testbed.add_proxy_with(&[&control.url()], &flags).await;
    let request = &control.opened()[opened];
    assert_eq!(request.resume_from, None, "{request:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_control_plane_is_followed_by_the_defaults() {
    let mut testbed = Testbed::start().await;
    let control = FakeControl::start().await;
    let url = testbed.add_upstream("plain").await.url();
    let plain = RoutedEndpoint {
        name: "plain".to_owned(),
        base_url: url.clone(),
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Unknown.into(),
        ..Default::default()
    };
    let unsaid = RoutedEndpoint {
        name: "unsaid".to_owned(),
        base_url: url,
        ..Default::default()
    };
    let chunk = SnapshotChunk {
        endpoints: vec![plain, unsaid],
        first: true,
        last: true,
        ..Default::default()
    };
    control.open_with(encode(&WatchSnapshotsResponse {
        view: Some(View::default()),
        clock_ms: 0,
        update: Some(Update::Snapshot(chunk)),
        planned_checks: Vec::new(),
    }));
    let proxy = testbed.add_proxy_of(&[&control.url()]).await;
    for _ in 0..5 {
        let answer = testbed.proxy(proxy).message().await;
        assert_eq!(answer.expect_status(200).served_by(), "plain");
    }
    let told = testbed.logs().find("endpoint left out");
    assert!(told.len() == 1 && told[0].contains("unsaid"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_proxy_is_heard_as_far_as_it_is_understood() {
    let testbed = Testbed::start()
        .patient_checks()
        .endpoints(["a", "b"])
        .await;
    let control = testbed.control();
    let snapshot = FakeProxy::new(control, "newer", "1")
        .snapshot("default")
        .await;
    let odd = Outcome {
        class: ODD,
        ..outcome(&snapshot, "a", OutcomeClass::Auth)
    };
    let known = outcome(&snapshot, "b", OutcomeClass::Auth);
    let outcomes = [odd.clone(), known].map(|it| with_unknown(it.encode_to_vec()));
    let batch = [
        ReportBatch {
            first_sequence: 1,
            ..Default::default()
        }
        .encode_to_vec(),
        outcomes.iter().flat_map(|it| field(3, it)).collect(),
    ];
    let identity = ProxyIdentity {
        id: "newer".to_owned(),
        incarnation: "1".to_owned(),
        ..Default::default()
    };
    let message = [
        field(1, &with_unknown(identity.encode_to_vec())),
        field(2, &with_unknown(batch.concat())),
    ];
    // What it sends goes over the wire as it would be read there.
    let request = ReportOutcomesRequest::decode(&with_unknown(message.concat())[..]);
    let batch = request.expect("it is readable").batch.unwrap_or_default();
    let fake = FakeProxy::new(control, "newer", "1");
    let answer = fake.send(1, batch.outcomes).await.expect("it is taken");
    assert_eq!(answer.acknowledged_sequence, 2);
    control.eventually_is("b", HealthState::Unhealthy).await;
    let a = control.endpoint("a").await.health.unwrap_or_default();
    assert_eq!(a.state(), HealthState::Healthy, "{a:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_proxy_is_heard_and_served() {
    let testbed = Testbed::start().patient_checks().endpoints(["a"]).await;
    let control = testbed.control();
    let mut fake = FakeProxy::new(control, "older", "1");
    let snapshot = fake.snapshot("default").await;
    let mut updates = fake.watch("default", None).await.expect("it may watch");
    let update = updates.message().await.expect("it is told something");
    assert!(update.is_some_and(|it| matches!(it.update, Some(Update::Snapshot(_)))));
    // No view, no count, no age.
    let known = outcome(&snapshot, "a", OutcomeClass::Auth);
    let bare = Outcome {
        endpoint: known.endpoint,
        generation: known.generation,
        class: known.class,
        ..Default::default()
    };
    assert_eq!(fake.report(vec![bare]).await.acknowledged_sequence, 1);
    control.eventually_is("a", HealthState::Unhealthy).await;
    assert_eq!(control.queue_stats().await.total_failed, 1);
}

/// A control plane that says what the test says, and does nothing else.
struct FakeControl {
    address: SocketAddr,
    shared: Shared,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    revision: u64,
    opening: Option<Bytes>,
    /// The newest word on each endpoint.
    endpoints: Vec<RoutedEndpoint>,
    opened: Vec<WatchSnapshotsRequest>,
    watchers: Vec<UnboundedSender<Bytes>>,
    reports: Vec<Outcome>,
}

impl FakeControl {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Shared::default();
        let service = HealthSyncServiceServer::new(shared.clone());
        let serve = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serve);
        Self { address, shared }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn open_with(&self, opening: Bytes) {
        self.shared.state().opening = Some(opening);
    }

    /// Shows these endpoints to whoever begins to watch.
    fn publish(&self, endpoints: &[RoutedEndpoint]) {
        self.shared.state().endpoints = endpoints.to_vec();
        self.shared.state().reopen();
    }

    /// Tells of a change, and of all that is odd once more.
    fn change(&self, endpoint: &RoutedEndpoint) {
        let mut state = self.shared.state();
        let known = state.endpoints.iter_mut();
        let mut known = known.filter(|known| known.name == endpoint.name);
        *known.next().expect("it was published") = endpoint.clone();
        let from = state.view();
        state.revision += 1;
        let delta = SnapshotDelta {
            from_view: Some(from),
            ..Default::default()
        };
        let members = state.members(3);
        state.send(4, &[delta.encode_to_vec(), members].concat());
        state.reopen();
    }

    /// Sends an update of a kind that nobody knows.
    fn say_something_new(&self) {
        self.shared.state().send(UNKNOWN, b"news");
    }

    fn opened(&self) -> Vec<WatchSnapshotsRequest> {
        self.shared.state().opened.clone()
    }

    fn reports(&self) -> Vec<Outcome> {
        self.shared.state().reports.clone()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn view(&self) -> View {
        View {
            term: 1,
            revision: self.revision,
        }
    }

    /// Returns all endpoints as members of a message, unknown fields in each.
    fn members(&self, number: u32) -> Vec<u8> {
        let members = self.endpoints.iter().map(Message::encode_to_vec);
        members
            .flat_map(|endpoint| field(number, &with_unknown(endpoint)))
            .collect()
    }

    fn message(&self, number: u32, update: &[u8]) -> Bytes {
        let head = WatchSnapshotsResponse {
            view: Some(self.view()),
            clock_ms: 1,
            update: None,
            planned_checks: Vec::new(),
        };
        let update = field(number, &with_unknown(update.to_vec()));
        with_unknown([head.encode_to_vec(), update].concat()).into()
    }

    fn send(&mut self, number: u32, update: &[u8]) {
        let message = self.message(number, update);
        self.watchers
            .retain(|watcher| watcher.send(message.clone()).is_ok());
    }

    fn reopen(&mut self) {
        let policy = ClusterPolicy {
            api: ODD,
            ..Default::default()
        };
        let chunk = SnapshotChunk {
            first: true,
            last: true,
            registry_id: "newer".to_owned(),
            ..Default::default()
        };
        let parts = [
            chunk.encode_to_vec(),
            field(1, &with_unknown(policy.encode_to_vec())),
            self.members(2),
        ];
        self.opening = Some(self.message(3, &parts.concat()));
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl HealthSyncService for Shared {
    type WatchSnapshotsStream = Replies<Bytes>;
    type StreamReportsStream = Replies<StreamReportsResponse>;

    async fn watch_snapshots(
        &self,
        request: Request<WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        let (watcher, updates) = unbounded_channel();
        let mut state = self.state();
        // Whoever begins to watch is still there.
        let _ = watcher.send(state.opening.clone().unwrap_or_default());
        state.opened.push(request.into_inner());
        state.watchers.push(watcher);
        let updates = UnboundedReceiverStream::new(updates).map(Ok);
        Ok(Response::new(Box::pin(updates)))
    }

    async fn stream_reports(
        &self,
        request: Request<Streaming<StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let shared = self.clone();
        let mut acknowledged = 0;
        let answers = request.into_inner().map(move |request| {
            let batch = request?.batch.unwrap_or_default();
            let last = batch.first_sequence + batch.outcomes.len() as u64;
            acknowledged = acknowledged.max(last.saturating_sub(1));
            let mut state = shared.state();
            state.reports.extend(batch.outcomes);
            Ok(StreamReportsResponse {
                acknowledged_sequence: acknowledged,
                view: Some(state.view()),
                sequence_gap: false,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_snapshot(
        &self,
        _: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        Err(Status::unimplemented("proxies watch"))
    }

    async fn report_outcomes(
        &self,
        _: Request<ReportOutcomesRequest>,
    ) -> Result<Response<ReportOutcomesResponse>, Status> {
        Err(Status::unimplemented("proxies stream"))
    }
}

/// A healthy, proven endpoint as the control plane tells of it.
fn routed(name: &str, url: &str) -> RoutedEndpoint {
    RoutedEndpoint {
        name: name.to_owned(),
        base_url: url.to_owned(),
        api_key: "key".to_owned(),
        credential_scheme: CredentialScheme::XApiKey.into(),
        generation: 1,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        cause: Cause::Unspecified.into(),
        max_failures: 3,
        proven: true,
        priority: 1,
        weight: 100,
        ..Default::default()
    }
}

/// Encodes a field that is a message or bytes.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// Adds a field to a message that no version knows yet.
fn with_unknown(message: Vec<u8>) -> Vec<u8> {
    [message, field(UNKNOWN + 1, b"from the future")].concat()
}
