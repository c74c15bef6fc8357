//! Both streams against a control plane that is a few lines long and does as it is
//! told.

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
    message(term, revision, Update::Bookmark(SnapshotBookmark {}))
}

#[tokio::test]
async fn the_first_control_plane_that_answers_is_followed() {
    let testbed = Testbed::start().await;
    assert_eq!(testbed.link.state().view, Some(view(1, 1)));
    let connected = testbed.link.state().connected.unwrap();
    assert_eq!(
        connected.authority().unwrap().as_str(),
        testbed.address.to_string()
    );
    assert_eq!(testbed.router.table().unwrap().view(), view(1, 1));
    until(|| !testbed.script().reports.lock().unwrap().is_empty()).await;
    let hello = testbed.script().reports.lock().unwrap()[0].clone();
    assert_eq!(hello.proxy.unwrap().id, "p1");
}

#[tokio::test]
async fn an_applied_view_is_told_at_once() {
    let testbed = Testbed::start().await;
    testbed.fake.messages.send_replace(snapshot(1, 2, 1));
    let told = || {
        let reports = testbed.script().reports.lock().unwrap();
        let last = reports.last().and_then(|message| message.batch.clone());
        last.and_then(|batch| batch.applied_view)
    };
    until(|| told() == Some(view(1, 2))).await;
}

#[tokio::test]
async fn every_outcome_is_delivered_in_order() {
    let testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    testbed.attempt(OutcomeClass::Forbidden);
    testbed.attempt(OutcomeClass::StreamBroken);
    testbed.delivered().await;
    use OutcomeClass::{Forbidden, ServerError, StreamBroken};
    assert_eq!(testbed.applied(), [ServerError, Forbidden, StreamBroken]);
    let applied = testbed.script().applied.lock().unwrap();
    assert_eq!(
        (applied[0].endpoint.as_str(), applied[0].generation),
        ("a", 1)
    );
    assert_eq!(applied[0].view, Some(view(1, 1)));
}

#[tokio::test]
async fn successes_are_merged_before_they_leave() {
    let testbed = Testbed::start().await;
    (0..50).for_each(|_| testbed.attempt(OutcomeClass::Success));
    testbed.delivered().await;
    let applied = testbed.script().applied.lock().unwrap();
    let counts: u32 = applied.iter().map(|outcome| outcome.count).sum();
    assert_eq!(counts, 50);
    assert!(applied.len() <= 2, "{}", applied.len());
}

#[tokio::test]
async fn what_was_applied_but_not_acknowledged_is_sent_again_and_counts_once() {
    let testbed = Testbed::start().await;
    testbed.script().answers_to_lose.store(3, Ordering::SeqCst);
    for _ in 0..5 {
        testbed.attempt(OutcomeClass::ServerError);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    testbed.delivered().await;
    assert_eq!(testbed.applied().len(), 5);
}

#[tokio::test]
async fn a_busy_control_plane_is_asked_later_and_the_watch_goes_on() {
    let testbed = Testbed::start().await;
    testbed.script().refusals.store(3, Ordering::SeqCst);
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    assert_eq!(testbed.applied(), [OutcomeClass::ServerError]);
    assert_eq!(testbed.script().watches.lock().unwrap().len(), 1);
    assert!(testbed.link.state().connected.is_some());
}

#[test]
fn a_busy_control_plane_says_how_long_to_wait_within_reason() {
    let busy = |asked| {
        let mut details = ErrorDetails::new();
        details.set_retry_info(asked);
        Status::with_error_details(tonic::Code::ResourceExhausted, "busy", details)
    };
    let asked = |millis| busy(Some(Duration::from_millis(millis)));
    let plain = Status::resource_exhausted("busy");
    for (status, millis) in [
        (plain, 200),
        (busy(None), 200),
        (asked(0), 200),
        (asked(50), 50),
        (asked(3_600_000), 5_000),
    ] {
        let bounds = [0.0, 1.0].map(|random| super::reporter::pause(&status, random).as_millis());
        assert_eq!(bounds, [millis, 2 * millis]);
    }
}

#[tokio::test]
async fn reports_wait_while_the_control_plane_is_away() {
    let mut testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    testbed.stop_server().await;
    testbed.attempt(OutcomeClass::Forbidden); // It still routes by the last view.
    assert_eq!(testbed.outbox.buffer().len(), 1);
    testbed.fake.messages.send_replace(bookmark(1, 1));
    testbed.start_server().await;
    testbed.delivered().await;
    assert_eq!(
        testbed.applied(),
        [OutcomeClass::ServerError, OutcomeClass::Forbidden]
    );
    until(|| testbed.link.state().connected.is_some()).await;
    let watches = testbed.script().watches.lock().unwrap();
    assert_eq!(watches.last().unwrap().resume_from, Some(view(1, 1)));
}

#[tokio::test]
async fn a_gap_in_the_view_leads_to_a_fresh_snapshot() {
    let testbed = Testbed::start().await;
    testbed.fake.messages.send_replace(bookmark(1, 9)); // Something was missed.
    until(|| testbed.script().watches.lock().unwrap().len() >= 2).await;
    assert_eq!(
        testbed.script().watches.lock().unwrap()[1].resume_from,
        None
    );
    testbed.fake.messages.send_replace(snapshot(1, 9, 1));
    until(|| testbed.link.state().view == Some(view(1, 9))).await;
}

#[tokio::test]
async fn a_control_plane_that_lost_its_data_is_accepted_after_asking_twice() {
    let testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::Auth);
    testbed.delivered().await;
    testbed.fake.messages.send_replace(snapshot(3, 7, 1));
    until(|| testbed.link.state().view == Some(view(3, 7))).await;
    assert!(
        testbed
            .router
            .begin()
            .unwrap()
            .unavailable(Instant::now())
            .reasons
            .len()
            == 1
    );

    testbed.script().forget.store(true, Ordering::SeqCst);
    testbed.fake.messages.send_replace(snapshot(1, 2, 1));
    until(|| testbed.link.state().view == Some(view(1, 2))).await;
    testbed.attempt(OutcomeClass::ServerError); // The mark of another registry is void.
    testbed.delivered().await;
    assert_eq!(testbed.applied().last(), Some(&OutcomeClass::ServerError));
}

#[tokio::test]
async fn reports_of_a_registry_that_is_no_more_are_dropped() {
    let mut testbed = Testbed::start().await;
    testbed.stop_server().await;
    testbed.attempt(OutcomeClass::Forbidden);
    testbed.script().deaf.store(true, Ordering::SeqCst);
    testbed.fake.messages.send_replace(snapshot(1, 0, 1));
    testbed.start_server().await;
    until(|| testbed.link.state().view == Some(view(1, 0))).await;
    assert!(testbed.outbox.buffer().is_empty());
    assert_eq!(testbed.outbox.buffer().dropped_total(), 1);
}

#[tokio::test]
async fn another_registry_voids_marks_and_reports_even_if_its_views_go_on() {
    let mut testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::Auth);
    testbed.delivered().await;
    assert_eq!(testbed.registries().last().unwrap(), "r1");
    testbed.stop_server().await;
    assert!(matches!(
        testbed.router.begin().unwrap().next(Instant::now()),
        Next::Unavailable(_)
    ));

    testbed.script().forget.store(true, Ordering::SeqCst);
    let mut other = snapshot(9, 9, 1); // The same generation number, by chance.
    if let Some(Update::Snapshot(chunk)) = &mut other.update {
        chunk.registry_id = "r2".into();
    }
    testbed.fake.messages.send_replace(other);
    testbed.start_server().await;
    until(|| testbed.link.state().view == Some(view(9, 9))).await;
    let watch = testbed.script().watches.lock().unwrap().last().cloned();
    let watch = watch.unwrap();
    assert_eq!(
        (watch.resume_from, watch.registry_id.as_str()),
        (Some(view(1, 1)), "r1")
    );
    testbed.attempt(OutcomeClass::ServerError); // It is there: its key is another one.
    testbed.delivered().await;
    assert_eq!(testbed.registries().last().unwrap(), "r2");
    let changes = testbed
        .registries()
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    assert!(changes <= 2, "{:?}", testbed.registries()); // From none to one, and on.
}

#[tokio::test]
async fn a_gap_in_the_reports_is_closed() {
    let testbed = Testbed::start().await;
    testbed.attempt(OutcomeClass::ServerError);
    testbed.attempt(OutcomeClass::ServerError);
    testbed.delivered().await;
    testbed.script().forget.store(true, Ordering::SeqCst); // In the middle of a stream.
    testbed.attempt(OutcomeClass::Forbidden);
    testbed.delivered().await;
    assert_eq!(testbed.applied().last(), Some(&OutcomeClass::Forbidden));
    assert_eq!(testbed.applied().len(), 3);
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(super::reporter::cut("grün", 3), "gr");
    assert_eq!(super::reporter::cut("grün", 4), "grü");
    assert_eq!(super::reporter::cut("grün", 400), "grün");
}

/// A view that an earlier process kept an hour ago.
fn kept(registry_id: &str, view: View) -> Kept {
    let clocks = Clocks {
        clock_ms: 0,
        received: Instant::now(),
    };
    let endpoint = RoutedEndpoint {
        name: "kept".into(),
        base_url: "http://127.0.0.1:1".into(),
        generation: 1,
        admin_state: AdminState::Enabled.into(),
        state: HealthState::Healthy.into(),
        ..Default::default()
    };
    Kept {
        registry_id: registry_id.into(),
        view,
        policy: crate::routing::Policy::default(),
        endpoints: vec![Arc::new(convert::routed(endpoint, clocks).unwrap())],
        rejected: Vec::new(),
        has_left_out: false,
        age: Duration::from_secs(3600),
    }
}

/// A client of control planes that bring nothing.
fn lonely(control_urls: Vec<Uri>, kept: Kept) -> (Client, Link, Router) {
    let outbox = Arc::new(Outbox::new(100));
    let router = Router::new(1, Arc::clone(&outbox));
    let link = Link::new();
    let client = Client {
        control_urls,
        trust: qcc_proto::tls::Trust::nobody(),
        identity: ProxyIdentity::default(),
        cluster: "default".into(),
        router: router.clone(),
        outbox,
        link: link.clone(),
        kept: Some(kept),
    };
    (client, link, router)
}

const OLD: View = View {
    term: 1,
    revision: 1,
};

#[tokio::test]
async fn a_view_that_was_kept_is_used_when_nobody_answers_and_says_that_it_is_old() {
    let nobody = vec!["http://127.0.0.1:1".parse().unwrap(); 2];
    let (client, link, router) = lonely(nobody, kept("r", OLD));
    let outbox = Arc::clone(&client.outbox);
    let running = tokio::spawn(client.run());
    link.ready().await;
    assert!(router.table().unwrap().find("kept").is_some());
    let (state, now) = (link.state(), Instant::now());
    assert_eq!((state.view, state.connected.clone()), (Some(OLD), None));
    assert!(state.is_stale(now) && link.staleness(now).is_some());
    assert!(state.age(now).unwrap() >= Duration::from_secs(3600));
    assert_eq!(&**outbox.buffer().registry_id(), "r");
    running.abort();
}

#[tokio::test]
async fn a_control_plane_that_hangs_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (client, link, _) = lonely(vec![url.parse().unwrap()], kept("r", OLD));
    let start = Instant::now();
    let running = tokio::spawn(client.run());
    link.ready().await; // The connection is there; nothing ever comes of it.
    assert!(start.elapsed() < link::SILENCE_MAX, "{:?}", start.elapsed());
    assert!(link.state().is_stale(Instant::now()));
    running.abort();
}

#[tokio::test]
async fn the_control_planes_word_goes_before_what_was_kept() {
    let later = View {
        term: 9,
        revision: 9,
    };
    for kept_view in [OLD, later] {
        let testbed = Testbed::with(Some(kept("", kept_view))).await;
        let mut states = testbed.link.subscribe();
        let connected = states.wait_for(|state| state.connected.is_some());
        drop(connected.await.unwrap());
        let (state, table) = (testbed.link.state(), testbed.router.table().unwrap());
        assert_eq!(state.restored, None);
        assert!(!state.is_stale(Instant::now()));
        assert!(table.find("kept").is_none(), "{kept_view}");
    }
}

#[tokio::test]
async fn what_was_kept_is_let_go_of_once_a_control_plane_has_answered() {
    let kept = kept("", OLD);
    let with_a_key = Arc::downgrade(&kept.endpoints[0]);
    let testbed = Testbed::with(Some(kept)).await;
    until(|| with_a_key.upgrade().is_none()).await; // Not only at the end of the session.
    assert!(!testbed.sync.is_finished() && testbed.link.state().connected.is_some());
}

#[tokio::test]
async fn what_was_seen_under_a_kept_view_counts_once_and_for_its_own_registry_only() {
    for (registry, is_known) in [("r1", true), ("r0", false)] {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let url = format!("http://{address}").parse().unwrap();
        let (client, link, router) = lonely(vec![url], kept(registry, OLD));
        let outbox = Arc::clone(&client.outbox);
        let running = tokio::spawn(client.run());
        link.ready().await;
        let now = Instant::now();
        let Next::Attempt(attempt) = router.begin().unwrap().next(now) else {
            panic!("the kept view has an endpoint");
        };
        attempt.finish(Outcome::of(OutcomeClass::Auth), now);

        let (messages, _) = watch::channel(snapshot(2, 2, 1));
        let fake = Fake {
            script: Arc::default(),
            messages,
        };
        let script = Arc::clone(&fake.script);
        let (_, server) = serve(fake, address).await;
        until(|| link.state().restored.is_none() && outbox.buffer().is_empty()).await;
        let asked = script.watches.lock().unwrap()[0].clone();
        assert_eq!(
            (asked.resume_from, &*asked.registry_id),
            (Some(OLD), registry)
        );
        let reports = script.reports.lock().unwrap().clone();
        let batches = reports.into_iter().filter_map(|message| message.batch);
        let (mut sent, dropped) = (0, outbox.buffer().dropped_total());
        for batch in batches.filter(|batch| !batch.outcomes.is_empty()) {
            // A control plane with another registry acknowledges it and does nothing.
            assert_eq!(batch.registry_id, registry);
            assert_eq!(batch.outcomes[0].view, Some(OLD));
            sent += batch.outcomes.len() as u64;
        }
        if is_known {
            assert_eq!((sent, dropped), (1, 0));
        } else {
            // It may have left, and be counted all the same, before the watch told.
            assert!(sent <= 1 && sent + dropped >= 1, "{sent} {dropped}");
        }
        running.abort();
        server.shutdown_background();
    }
}
