//! A proxy in this process, scripted upstreams, and a client that sees every byte.

mod client;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Uri;
use qcc_proto::{
    upstream::credential_header,
    v1::{AdminState, CredentialScheme, OutcomeClass, View},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::client::read_message;
pub(super) use self::client::{Answer, Client};
use crate::{
    proxy::{Counters, Curfew, Live, Settings, serve},
    reports::Outbox,
    routing::{Endpoint, Health, Policy, Routed, Router, Update},
    sync::Link,
};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing an upstream does after it has read a request.
#[derive(Clone)]
pub(super) enum Step {
    Send(Vec<u8>),
    /// Wait until the test opens the gate.
    Gate(Gate),
    /// Say nothing until the peer closes.
    Silence,
    /// Close the connection properly.
    Close,
    /// Close it with a reset.
    Reset,
}

pub(super) fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// A whole answer with a length.
pub(super) fn answer(status: u16, fields: &str, body: &str) -> Vec<Step> {
    let length = body.len();
    vec![send(format!(
        "HTTP/1.1 {status} X\r\n{fields}content-length: {length}\r\n\r\n{body}"
    ))]
}

/// The head of a stream of events.
pub(super) const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

pub(super) fn chunk(data: &str) -> String {
    format!("{:x}\r\n{data}\r\n", data.len())
}

/// Closed until it is opened.
#[derive(Clone)]
pub(super) struct Gate(CancellationToken);

impl Gate {
    pub(super) fn new() -> Self {
        Self(CancellationToken::new())
    }

    pub(super) fn open(&self) {
        self.0.cancel();
    }

    pub(super) async fn opened(&self) {
        self.0.cancelled().await;
    }
}

/// An endpoint that does as the test says, for the nth request that it gets.
pub(super) struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<Vec<u8>>>,
    connections: AtomicUsize,
    /// Connections whose peer closed them while we were silent or sending.
    left: AtomicUsize,
}

impl Upstream {
    pub(super) async fn start(script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        let task = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    shared.connections.fetch_add(1, SeqCst);
                    let (shared, script) = (Arc::clone(&shared), Arc::clone(&script));
                    tokio::spawn(connection(stream, shared, script));
                }
            })
        };
        Self {
            address,
            shared,
            task,
        }
    }

    /// Does as it likes with each connection, from its first byte on. What it is sent
    /// waits in a small buffer, so that a peer feels soon that nobody reads.
    pub(super) async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let task = {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    shared.connections.fetch_add(1, SeqCst);
                    tokio::spawn(serve(stream));
                }
            })
        };
        Self {
            address,
            shared,
            task,
        }
    }

    /// Answers as soon as it has the first bytes, and closes without reading the rest:
    /// the peer's kernel is told with a reset.
    pub(super) async fn early(answer: &'static str) -> Self {
        Self::raw(move |mut stream| async move {
            let _ = stream.read(&mut [0; 1000]).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        })
        .await
    }

    pub(super) async fn always(steps: Vec<Step>) -> Self {
        Self::start(move |_| steps.clone()).await
    }

    /// What was asked, byte for byte.
    pub(super) fn requests(&self) -> Vec<Vec<u8>> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }

    /// Stops listening: connections are refused.
    pub(super) async fn stop(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub(super) async fn sees_the_peer_leave(&self) {
        eventually(|| self.shared.left.load(SeqCst) > 0).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(
    mut stream: TcpStream,
    shared: Arc<Shared>,
    script: Arc<impl Fn(usize) -> Vec<Step>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read_message(&mut stream, &mut buffer, true).await.whole() {
        let number = {
            let mut requests = shared.requests.lock().unwrap();
            requests.push(request);
            requests.len() - 1
        };
        for step in script(number) {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        shared.left.fetch_add(1, SeqCst);
                        return;
                    }
                }
                Step::Gate(gate) => gate.0.cancelled().await,
                Step::Silence => {
                    let _ = stream.read(&mut [0; 1]).await;
                    shared.left.fetch_add(1, SeqCst);
                    return;
                }
                Step::Close => return,
                Step::Reset => {
                    stream.set_zero_linger().unwrap();
                    return;
                }
            }
        }
    }
}

/// A proxy in front of endpoints, the first of them preferred.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) router: Router,
    pub(super) counters: Arc<Counters>,
    pub(super) link: Link,
    settings: Live,
    outbox: Arc<Outbox>,
    pub(super) stop: CancellationToken,
    pub(super) serving: JoinHandle<()>,
}

/// What a test changes about a proxy before it starts.
pub(super) struct Options {
    pub(super) policy: Policy,
    pub(super) settings: Settings,
    pub(super) first_byte_timeout: Duration,
    pub(super) proven: bool,
    pub(super) scheme: &'static str,
    pub(super) base_path: &'static str,
}

impl Proxy {
    pub(super) async fn start(upstreams: &[&Upstream]) -> Self {
        Self::with(upstreams, |_| ()).await
    }

    pub(super) async fn with(upstreams: &[&Upstream], change: impl FnOnce(&mut Options)) -> Self {
        let addresses: Vec<_> = upstreams.iter().map(|it| it.address).collect();
        let mut options = Options {
            policy: Policy::default(),
            settings: Settings::default(),
            first_byte_timeout: Duration::from_secs(5),
            proven: true,
            scheme: "http",
            base_path: "",
        };
        change(&mut options);
        let proxy = Self::without_a_view(options.settings.clone()).await;
        proxy.publish(&addresses, &options);
        proxy
    }

    pub(super) async fn without_a_view(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let outbox = Arc::new(Outbox::new(1000));
        let router = Router::new(1, Arc::clone(&outbox));
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let link = Link::new();
        let settings = Live::from(settings);
        let serving = serve(
            listener,
            router.clone(),
            settings.clone(),
            Arc::clone(&counters),
            link.clone(),
            stop.clone(),
            Curfew::default(),
        );
        Self {
            address,
            router,
            counters,
            link,
            settings,
            outbox,
            stop,
            serving: tokio::spawn(serving),
        }
    }

    fn publish(&self, addresses: &[SocketAddr], options: &Options) {
        let endpoints = addresses.iter().enumerate().map(|(index, address)| {
            let name = format!("e{index}");
            let base_url = format!("{}://{address}{}", options.scheme, options.base_path);
            let key = format!("sk-{name}");
            let credential = credential_header(CredentialScheme::XApiKey, &key).unwrap();
            Arc::new(Routed {
                endpoint: Arc::new(Endpoint {
                    name: Arc::from(name),
                    base_url: Uri::try_from(base_url).unwrap(),
                    credential: Some(credential),
                    first_byte_timeout: options.first_byte_timeout,
                    generation: 1,
                }),
                admin: AdminState::Enabled,
                health: if options.proven {
                    Health::Healthy
                } else {
                    Health::Unknown
                },
                failures: 0,
                failures_max: 3,
                proven: options.proven,
                priority: index as u32,
                weight: 100,
                since: None,
                summary: None,
            })
        });
        let view = View {
            term: 3,
            revision: 14,
        };
        let policy = Arc::new(options.policy.clone());
        self.router
            .publish(Update::whole(view, policy, endpoints, false));
    }

    /// Sets limits anew.
    pub(super) fn set(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = Settings::clone(&self.settings.load());
        change(&mut settings);
        self.settings.store(settings);
    }

    /// Sends one request on a connection of its own.
    pub(super) async fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut client = self.connect().await;
        client.write(request).await;
        client.answer().await
    }

    /// `POST /v1/messages` with a small body.
    pub(super) async fn post(&self) -> Answer {
        self.send(POST).await
    }

    pub(super) async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.unwrap(),
            buffer: Vec::new(),
        }
    }

    /// All that has been reported so far: endpoint and class.
    pub(super) fn reports(&self) -> Vec<(String, OutcomeClass)> {
        let mut buffer = self.outbox.buffer();
        let reports = buffer.next_batch().map(|batch| batch.reports.clone());
        let reports = reports.unwrap_or_default().into_iter();
        reports
            .map(|it| (it.endpoint.to_string(), it.outcome.class))
            .collect()
    }

    /// Waits until so many attempts have been reported.
    pub(super) async fn reported(&self, count: usize) -> Vec<(String, OutcomeClass)> {
        eventually(|| self.outbox.buffer().len() >= count).await;
        self.reports()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(super) const POST: &str = "POST /v1/messages HTTP/1.1\r\nhost: proxy\r\n\
    authorization: Bearer client\r\ncontent-length: 4\r\n\r\n{ok}";

/// Waits for something that must happen.
pub(super) async fn soon<T>(happening: impl Future<Output = T>) -> T {
    let happened = timeout(PATIENCE, happening).await;
    happened.expect("it to happen in time")
}

pub(super) async fn eventually(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, waiting)
        .await
        .expect("it to happen in time");
}
