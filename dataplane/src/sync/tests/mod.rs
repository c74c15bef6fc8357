//! Both streams against a control plane that is a few lines long and does as it is
//! told.

mod kept;
mod reports;
mod views;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use qcc_proto::v1::{
    self, AdminState, GetSnapshotRequest, GetSnapshotResponse, HealthState, OutcomeClass,
    ReportOutcomesRequest, ReportOutcomesResponse, RoutedEndpoint, SnapshotBookmark, SnapshotChunk,
    StreamReportsRequest, StreamReportsResponse, View, WatchSnapshotsRequest,
    WatchSnapshotsResponse,
    health_sync_service_server::{HealthSyncService, HealthSyncServiceServer},
    watch_snapshots_response::Update,
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    transport::{Server, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::routing::{Next, Outcome};

/// What the fake control plane has seen, and how it behaves.
#[derive(Debug, Default)]
struct Script {
    /// Requests of `WatchSnapshots`.
    watches: Mutex<Vec<WatchSnapshotsRequest>>,
    /// Messages of `StreamReports`.
    reports: Mutex<Vec<StreamReportsRequest>>,
    /// Outcomes by sequence number, each once.
    applied: Mutex<Vec<v1::Outcome>>,
    /// So many batches are applied, and the stream broken instead of answered.
    answers_to_lose: AtomicUsize,
    /// The next message meets a control plane that has lost its data.
    forget: AtomicBool,
    /// So many messages meet a control plane that has too much to do.
    refusals: AtomicUsize,
    /// Reports are not answered.
    deaf: AtomicBool,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Script>,
    /// What every new watch begins with, and every open one goes on with.
    messages: watch::Sender<WatchSnapshotsResponse>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl HealthSyncService for Fake {
    type WatchSnapshotsStream = Answers<WatchSnapshotsResponse>;
    type StreamReportsStream = Answers<StreamReportsResponse>;

    async fn watch_snapshots(
        &self,
        request: Request<WatchSnapshotsRequest>,
    ) -> Result<Response<Self::WatchSnapshotsStream>, Status> {
        self.script
            .watches
            .lock()
            .unwrap()
            .push(request.into_inner());
        let mut messages = self.messages.subscribe();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let message = messages.borrow_and_update().clone();
                if sender.send(Ok(message)).await.is_err() || messages.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stream_reports(
        &self,
        request: Request<Streaming<StreamReportsRequest>>,
    ) -> Result<Response<Self::StreamReportsStream>, Status> {
        let script = Arc::clone(&self.script);
        if script.deaf.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let answers = request
            .into_inner()
            .map(move |message| script.answer(message?));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_snapshot(
        &self,
        _request: Request<GetSnapshotRequest>,
    ) -> Result<Response<GetSnapshotResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn report_outcomes(
        &self,
        _request: Request<ReportOutcomesRequest>,
    ) -> Result<Response<ReportOutcomesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

impl Script {
    fn answer(&self, message: StreamReportsRequest) -> Result<StreamReportsResponse, Status> {
        if take_one(&self.refusals) {
            let mut details = ErrorDetails::new();
            details.set_retry_info(Some(Duration::from_millis(20)));
            let code = tonic::Code::ResourceExhausted;
            return Err(Status::with_error_details(code, "busy", details));
        }
        self.reports.lock().unwrap().push(message.clone());
        let batch = message.batch.unwrap_or_default();
        let mut applied = self.applied.lock().unwrap();
        if self.forget.swap(false, Ordering::SeqCst) {
            applied.clear();
        }
        let next = applied.len() as u64 + 1;
        if batch.first_sequence > next + batch.dropped {
            return Ok(StreamReportsResponse {
                acknowledged_sequence: next - 1,
                view: None,
                sequence_gap: true,
            });
        }
        for _ in next..batch.first_sequence {
            applied.push(v1::Outcome::default()); // Declared lost.
        }
        let known = applied.len() + 1 - batch.first_sequence as usize;
        let sent = batch.outcomes.len();
        applied.extend(batch.outcomes.into_iter().skip(known));
        if sent > 0 && take_one(&self.answers_to_lose) {
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(StreamReportsResponse {
            acknowledged_sequence: applied.len() as u64,
            view: None,
            sequence_gap: false,
        })
    }
}

/// Takes one off a count, unless nothing is left of it.
fn take_one(count: &AtomicUsize) -> bool {
    let fewer = |left: usize| left.checked_sub(1);
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer)
        .is_ok()
}

/// A control plane and a proxy without its HTTP part.
struct Testbed {
    fake: Fake,
    address: SocketAddr,
    /// Its own runtime: shut down, its connections end with it.
    server: Option<Runtime>,
    router: Router,
    outbox: Arc<Outbox>,
    link: Link,
    sync: JoinHandle<()>,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.sync.abort();
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl Testbed {
    async fn start() -> Self {
        Self::with(None).await
    }

    /// Starts with a view that an earlier process kept.
    async fn with(kept: Option<Kept>) -> Self {
        let (messages, _) = watch::channel(snapshot(1, 1, 1));
        let fake = Fake {
            script: Arc::default(),
            messages,
        };
        let (address, server) = serve(fake.clone(), "127.0.0.1:0".parse().unwrap()).await;
        let outbox = Arc::new(Outbox::new(100));
        let router = Router::new(1, Arc::clone(&outbox));
        let link = Link::new();
        let sync = Client {
            control_urls: vec![
                "http://127.0.0.1:1".parse().unwrap(), // Nobody there.
                format!("http://{address}").parse().unwrap(),
            ],
            trust: qcc_proto::tls::Trust::nobody(),
            identity: ProxyIdentity {
                id: "p1".into(),
                incarnation: "i1".into(),
                ..Default::default()
            },
            cluster: "default".into(),
            router: router.clone(),
            outbox: Arc::clone(&outbox),
            link: link.clone(),
            kept,
        };
        let testbed = Self {
            fake,
            address,
            server: Some(server),
            router,
            outbox,
            link,
            sync: tokio::spawn(sync.run()),
        };
        testbed.link.ready().await;
        testbed
    }

    fn script(&self) -> &Script {
        &self.fake.script
    }

    /// Has one attempt come to an outcome.
    fn attempt(&self, class: OutcomeClass) {
        let now = Instant::now();
        let Next::Attempt(attempt) = self.router.begin().unwrap().next(now) else {
            panic!("nothing to attempt");
        };
        attempt.finish(Outcome::of(class), now);
    }

    async fn delivered(&self) {
        tokio::time::timeout(Duration::from_secs(10), self.outbox.flush())
            .await
            .unwrap();
    }

    fn applied(&self) -> Vec<OutcomeClass> {
        let applied = self.script().applied.lock().unwrap();
        applied.iter().map(|outcome| outcome.class()).collect()
    }

    /// The registries that batches were said to belong to.
    fn registries(&self) -> Vec<String> {
        let reports = self.script().reports.lock().unwrap();
        let batches = reports.iter().filter_map(|message| message.batch.clone());
        batches.map(|batch| batch.registry_id).collect()
    }

    async fn stop_server(&mut self) {
        self.server.take().unwrap().shutdown_background();
        until(|| self.link.state().connected.is_none()).await;
    }

    async fn start_server(&mut self) {
        self.server = Some(serve(self.fake.clone(), self.address).await.1);
    }
}

async fn serve(fake: Fake, address: SocketAddr) -> (SocketAddr, Runtime) {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listening = runtime.spawn(async move {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::builder()
            .add_service(HealthSyncServiceServer::new(fake))
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(async { server.await.unwrap() });
        address
    });
    (listening.await.unwrap(), runtime)
}

async fn until(condition: impl Fn() -> bool) {
    let patience = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < patience, "it never came to that");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn view(term: u64, revision: u64) -> View {
    View { term, revision }
}

fn message(term: u64, revision: u64, update: Update) -> WatchSnapshotsResponse {
    WatchSnapshotsResponse {
        view: Some(view(term, revision)),
        clock_ms: 0,
        update: Some(update),
        planned_checks: Vec::new(),
    }
}

fn snapshot(term: u64, revision: u64, generation: u64) -> WatchSnapshotsResponse {
    let endpoint = RoutedEndpoint {
        name: "a".into(),
        base_url: "http://127.0.0.1:1".into(),
        api_key: "sk-canary".into(),
        credential_scheme: v1::CredentialScheme::Bearer.into(),
        generation,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        max_failures: 1000,
        proven: true,
        weight: 1,
        ..Default::default()
    };
    let chunk = SnapshotChunk {
        policy: None,
        endpoints: vec![endpoint],
        first: true,
        last: true,
        registry_id: "r1".into(),
    };
    message(term, revision, Update::Snapshot(chunk))
}

fn bookmark(term: u64, revision: u64) -> WatchSnapshotsResponse {
    message(
        term,
        revision,
        Update::Bookmark(SnapshotBookmark::default()),
    )
}
