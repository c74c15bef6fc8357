//! The connections to one endpoint, over HTTP/1.1.
//!
//! A connection is driven by the request that uses it, and not by a task of its own: what
//! an endpoint sends wakes up whoever passes it on, and nobody in between. That is where
//! most of the time of relaying a small event would go. hyper's parts tell each other what
//! there is to do by wakers; within one poll such a wake-up means to go round once more,
//! and only one that comes from outside reaches the task ([`Signal`]).

use std::{
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::HOST,
    uri::{self, Scheme},
};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower_service::Service as _;

use super::{
    connector::{Connector, Past, Wire},
    inbound::Inbound,
    upload::{Progress, State, Upload},
    upstream::Failed,
};

/// Idle time after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Idle connections that are kept.
const IDLE_MAX: usize = 1024;

/// Time for the rest of a request whose answer is over: an endpoint may still be reading,
/// but one that never does would keep body and connection for good. nginx lingers as long.
const SENT_ON_FOR: Duration = Duration::from_secs(30);

/// How often a connection is gone round in one poll, before others have their turn.
const TURNS_MAX: usize = 8;

/// The connections to one endpoint.
pub(super) struct Pool {
    /// Where it is: scheme and authority count.
    base_url: Uri,
    host: HeaderValue,
    connector: Connector,
    http1: http1::Builder,
    sent_on_for: Duration,
    /// The one that was used last is at the end, and is used next.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

/// A connection that nobody else uses.
pub(super) struct Connection {
    requests: SendRequest<Upload>,
    driver: Driver,
    past: Past,
}

/// What makes a connection work.
struct Driver {
    /// `None` once it has ended, or somebody else drives it.
    connection: Option<http1::Connection<Wire, Upload>>,
    signal: Arc<Signal>,
    /// The signal's.
    waker: Waker,
}

/// Tells wake-ups from inside of a poll from those that come from outside.
#[derive(Debug)]
struct Signal {
    state: AtomicU8,
    /// Who polls.
    task: Mutex<Waker>,
}

/// Nobody polls: a wake-up is for the task.
const WAITING: u8 = 0;
/// Somebody polls.
const POLLING: u8 = 1;
/// Somebody polls, and has to go round once more.
const WOKEN: u8 = 2;

/// A connection in the middle of an answer.
pub(super) enum Lease {
    /// It goes back to its pool with the answer's end, and is closed if it is dropped before.
    Driven {
        connection: Box<Connection>,
        pool: Arc<Pool>,
    },
    /// It goes on by itself. Dropping this tells it that its answer is over.
    Apart { _over: DropGuard },
}

impl Pool {
    pub(super) fn new(base_url: &Uri, connector: Connector, http1: http1::Builder) -> Self {
        Self {
            base_url: base_url.clone(),
            host: host(base_url),
            connector,
            http1,
            sent_on_for: SENT_ON_FOR,
            idle: Mutex::default(),
        }
    }

    /// Whether it leads there.
    pub(super) fn leads_to(&self, base_url: &Uri) -> bool {
        self.base_url.scheme() == base_url.scheme()
            && self.base_url.authority() == base_url.authority()
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<Upload>,
        progress: &Progress,
    ) -> Result<Response<Inbound>, Failed> {
        *request.uri_mut() = origin_form(mem::take(request.uri_mut()));
        request.headers_mut().insert(HOST, self.host.clone());
        loop {
            let idle = self.take();
            let was_idle = idle.is_some();
            let mut connection = match idle {
                Some(connection) => connection,
                None => Box::pin(self.connect()).await?,
            };
            let mut error = match connection.send(request).await {
                Ok(response) => {
                    let is_sent = matches!(progress.state(), State::Sent(_));
                    connection.past.set_answered(is_sent);
                    let lease = self.lease(connection, is_sent);
                    return Ok(response.map(|body| Inbound::of_endpoint(body, lease)));
                }
                Err(error) => error,
            };
            match error.take_message() {
                // It had been closed before it took the request: nothing was sent.
                Some(unsent) if was_idle => request = unsent,
                Some(_) | None => {
                    let error = error.into_error();
                    return Err(Failed::of(&error, &connection.past, progress.state()));
                }
            }
        }
    }

    /// Closes connections that have been idle for too long, or that have ended.
    pub(super) fn sweep(&self, now: Instant) {
        let is_kept = |idle: &mut Idle| {
            now.saturating_duration_since(idle.since) < IDLE_TIMEOUT && idle.connection.is_open()
        };
        self.idle().retain_mut(is_kept);
    }

    async fn connect(&self) -> Result<Box<Connection>, Failed> {
        let mut connector = self.connector.clone();
        let connecting = async {
            poll_fn(|cx| connector.poll_ready(cx)).await?;
            connector.call(self.base_url.clone()).await
        };
        let wire = (connecting.await).map_err(|error| Failed::to_connect(&*error))?;
        let past = wire.past();
        match self.http1.handshake(wire).await {
            Ok((requests, connection)) => Ok(Box::new(Connection {
                requests,
                driver: Driver::new(connection),
                past,
            })),
            Err(error) => Err(Failed::of(&error, &past, State::Sending(Instant::now()))),
        }
    }

    /// Whoever uploads while it is answered waits for its client in both directions: such
    /// a connection has to go on by itself, and is not used again.
    fn lease(self: &Arc<Self>, mut connection: Box<Connection>, is_sent: bool) -> Lease {
        if is_sent {
            return Lease::Driven {
                connection,
                pool: Arc::clone(self),
            };
        }
        let over = CancellationToken::new();
        if let Some(driven) = connection.driver.connection.take() {
            let (over, sent_on_for) = (over.clone(), self.sent_on_for);
            tokio::spawn(async move {
                let late = async {
                    over.cancelled().await;
                    sleep(sent_on_for).await;
                };
                tokio::select! {
                    _ = driven => {} // How it ends is seen by whoever reads the answer.
                    () = late => {}
                }
            });
        }
        Lease::Apart {
            _over: over.drop_guard(),
        }
    }

    fn take(&self) -> Option<Box<Connection>> {
        self.idle().pop().map(|idle| idle.connection)
    }

    fn put(&self, connection: Box<Connection>) {
        connection.driver.signal.rest();
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            let since = Instant::now();
            idle.push(Idle { connection, since });
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn send(
        &mut self,
        request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>> {
        let answered = self.requests.try_send_request(request); // Has it from here on.
        let driver = &mut self.driver;
        async move {
            let mut answered = pin!(answered);
            poll_fn(|cx| driver.poll(cx, |cx| answered.as_mut().poll(cx))).await
        }
    }

    /// Whether it can take a request.
    fn is_ready(&self) -> bool {
        self.driver.connection.is_some() && self.requests.is_ready()
    }

    /// Looks whether its peer has closed it.
    fn is_open(&mut self) -> bool {
        self.driver.advance();
        self.is_ready()
    }
}

impl Lease {
    /// Polls the answer's body, and drives its connection for that.
    pub(super) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut body: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match self {
            Self::Driven { connection, .. } => connection.driver.poll(cx, body),
            Self::Apart { .. } => body(cx),
        }
    }

    /// Gives the connection back: the answer has ended.
    pub(super) fn end(self) {
        match self {
            Self::Driven { connection, pool } if connection.is_ready() => pool.put(connection),
            Self::Driven { .. } | Self::Apart { .. } => {}
        }
    }
}

impl Driver {
    fn new(connection: http1::Connection<Wire, Upload>) -> Self {
        let signal = Arc::new(Signal {
            state: AtomicU8::new(POLLING),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            connection: Some(connection),
            waker: Waker::from(Arc::clone(&signal)),
            signal,
        }
    }

    /// Lets the connection work until there is what `wanted` waits for, or nothing to do.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut wanted: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.signal.follow(cx.waker());
        for _ in 0..TURNS_MAX {
            self.signal.begin();
            let found = wanted(&mut Context::from_waker(&self.waker));
            if found.is_ready() {
                return found;
            }
            self.signal.begin(); // What it has asked for, the connection is about to see.
            self.advance();
            let found = wanted(&mut Context::from_waker(&self.waker));
            if found.is_ready() || self.signal.is_over() {
                return found;
            }
        }
        self.signal.state.store(WAITING, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets the connection do what it can.
    fn advance(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let mut cx = Context::from_waker(&self.waker);
        if Pin::new(connection).poll(&mut cx).is_ready() {
            // Whoever waits for an answer, or for more of it, is told so by this.
            self.connection = None;
        }
    }
}

impl Signal {
    /// Wakes this task from now on.
    fn follow(&self, task: &Waker) {
        let mut followed = self.task();
        if !followed.will_wake(task) {
            followed.clone_from(task);
        }
    }

    /// Wakes nobody any more.
    fn rest(&self) {
        self.begin();
        *self.task() = Waker::noop().clone();
    }

    /// Takes wake-ups from now on for such that are looked after.
    fn begin(&self) {
        self.state.swap(POLLING, Ordering::AcqRel);
    }

    /// Whether nothing has happened meanwhile. If so, the next wake-up is for the task.
    fn is_over(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.state
            .compare_exchange(POLLING, WAITING, success, failure)
            .is_ok()
    }

    fn task(&self) -> MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Written also where it says so already: whoever goes round once more then sees
        // what this wake-up is about, on any machine.
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let is_polled = |state| (state != WAITING).then_some(WOKEN);
        let told = (self.state).fetch_update(success, failure, is_polled);
        if told.is_err() {
            self.task().wake_by_ref();
        }
    }
}

/// What a request says of where it goes, where the connection says the rest.
fn origin_form(target: Uri) -> Uri {
    let mut parts = uri::Parts::default();
    parts.path_and_query = target.into_parts().path_and_query;
    Uri::from_parts(parts).unwrap_or_default() // A path alone is a URI.
}

/// RFC 9110, section 7.2: without a port that goes without saying.
fn host(base_url: &Uri) -> HeaderValue {
    let host = base_url.host().unwrap_or_default();
    let default = match base_url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        Some(_) | None => 80,
    };
    let value = match base_url.port_u16() {
        Some(port) if port != default => HeaderValue::try_from(format!("{host}:{port}")),
        Some(_) | None => HeaderValue::from_str(host),
    };
    // An authority has only characters that a value may have.
    value.unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use qcc_proto::v1::OutcomeClass;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_wake_up_from_inside_of_a_poll_stays_inside() {
        let signal = Arc::new(Signal {
            state: AtomicU8::new(POLLING),
            task: Mutex::new(Waker::noop().clone()),
        });
        let (inner, count) = (Waker::from(Arc::clone(&signal)), Arc::new(Count::default()));
        let woken = || count.0.load(Ordering::Relaxed);
        signal.follow(&Waker::from(Arc::clone(&count)));

        signal.begin();
        inner.wake_by_ref();
        assert!(!signal.is_over(), "it has to be gone round once more");
        signal.begin();
        assert!(signal.is_over());
        assert_eq!(woken(), 0);
        inner.wake_by_ref();
        assert_eq!(woken(), 1);
        signal.rest();
        inner.wake_by_ref();
        assert_eq!(woken(), 1, "an idle connection wakes nobody");
    }

    async fn endpoint() -> (TcpListener, Arc<Pool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tls = super::super::upstream::tls(&qcc_proto::tls::Trust::nobody());
        let connector = Connector::new(tls, Duration::from_secs(5));
        let pool = Pool::new(&url.parse().unwrap(), connector, http1::Builder::new());
        (listener, Arc::new(pool))
    }

    /// Sends a request and reads its answer.
    async fn exchange(pool: &Arc<Pool>) -> Result<(), Failed> {
        let (upload, progress) = Upload::whole("body".into(), None, Instant::now());
        let mut request = Request::post("/").body(upload).unwrap();
        request.headers_mut().insert("content-length", 4.into());
        let mut answer = pool.send(request, &progress).await?.into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
        assert!(answer.is_end());
        Ok(())
    }

    async fn answer(peer: &mut TcpStream) {
        let mut request = [0; 1024];
        let mut length = 0;
        while !request[..length].ends_with(b"\r\n\r\nbody") {
            length += peer.read(&mut request[length..]).await.unwrap();
        }
        peer.write_all(ANSWER).await.unwrap();
    }

    async fn serve_one(listener: &TcpListener) -> TcpStream {
        let mut peer = listener.accept().await.unwrap().0;
        answer(&mut peer).await;
        peer
    }

    #[tokio::test]
    async fn a_connection_is_used_again_after_the_end_of_its_answer() {
        let (listener, pool) = endpoint().await;
        let serve = async {
            let mut peer = listener.accept().await.unwrap().0;
            answer(&mut peer).await;
            answer(&mut peer).await;
            peer
        };
        let ask = async {
            exchange(&pool).await.unwrap();
            exchange(&pool).await.unwrap();
        };
        let (_peer, ()) = tokio::join!(serve, ask);
        assert_eq!(pool.idle().len(), 1);
    }

    #[tokio::test]
    async fn an_upload_that_nobody_reads_does_not_outlive_its_answer_for_long() {
        let (listener, mut pool) = endpoint().await;
        Arc::get_mut(&mut pool).unwrap().sent_on_for = Duration::ZERO;
        let (upload, progress) = Upload::whole(vec![0; 64 << 20].into(), None, Instant::now());
        let serve = async {
            let mut peer = listener.accept().await.unwrap().0;
            peer.write_all(ANSWER).await.unwrap();
            peer
        };
        let ask = pool.send(Request::post("/").body(upload).unwrap(), &progress);
        let (_peer, answer) = tokio::join!(serve, ask);
        let mut answer = answer.unwrap().into_body();
        assert_eq!(answer.data().await.unwrap().unwrap(), "ok");
        drop(answer);
        let dropped = async {
            while Arc::strong_count(&progress) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(10), dropped).await.unwrap();
        assert!(pool.idle().is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_it_was_idle_is_not_used() {
        let (listener, pool) = endpoint().await;
        let serve = async {
            drop(serve_one(&listener).await);
            serve_one(&listener).await
        };
        let ask = async {
            exchange(&pool).await.unwrap();
            exchange(&pool).await.unwrap();
        };
        let (_peer, ()) = tokio::join!(serve, ask);
        assert_eq!(pool.idle().len(), 1);
    }

    #[tokio::test]
    async fn a_reset_of_an_idle_connection_is_nobodys_failure() {
        let (listener, pool) = endpoint().await;
        let (peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
        asked.unwrap();
        peer.set_zero_linger().unwrap();
        drop(peer);
        // What came later has come, but the runtime has had no time to tell of either.
        let _later = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let failed = exchange(&pool).await.unwrap_err();
        assert_eq!(failed.class, OutcomeClass::Unspecified, "{failed:?}");
        assert!(failed.was_reused, "it may be sent there once more");
    }

    #[tokio::test]
    async fn idle_connections_are_swept_when_they_are_old_or_closed() {
        let (listener, pool) = endpoint().await;
        let (peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
        asked.unwrap();
        let now = Instant::now();
        pool.sweep(now);
        assert_eq!(pool.idle().len(), 1);
        drop(peer);
        while !pool.idle().is_empty() {
            tokio::task::yield_now().await; // Until the kernel has told us.
            pool.sweep(now);
        }

        let (_peer, asked) = tokio::join!(serve_one(&listener), exchange(&pool));
        asked.unwrap();
        pool.sweep(Instant::now() + IDLE_TIMEOUT);
        assert!(pool.idle().is_empty());
    }
}
