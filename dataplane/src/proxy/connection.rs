//! One client connection, from its first byte to its end.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Curfew, Limit, Live, Settings,
    bell::Bell,
    http1,
    inbound::Inbound,
    presence::{Due, Place, Presence},
    relay::Body,
    service::Service,
    stall::{Impatient, Protocol, Reset},
};

/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// How much more of a head hyper takes than we do, so that a request somewhat over a limit of
/// ours is still refused in words that its caller understands.
const LEEWAY: usize = 2;

/// Bytes of answers that wait on one HTTP/2 stream. hyper's default is six times as much.
const STREAM_SEND_BYTES: usize = 64 << 10;

/// Streams of an HTTP/2 connection that were reset, by the client before we took them and
/// by us for its mistakes, before the connection ends. The defaults, by name.
const RESETS_PENDING_MAX: usize = 20;
const RESETS_BY_US_MAX: usize = 1024;

/// Interval of HTTP/2 pings to clients, and longest wait for an answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/2, as it is spoken to clients.
pub(super) struct Http2(http2::Builder<TokioExecutor>);

/// Answers the requests of one connection.
#[derive(Clone)]
struct Answering {
    service: Arc<Service>,
    presence: Arc<Presence>,
}

impl Http2 {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let head_max_bytes = u32::try_from(settings.head_max_bytes * LEEWAY);
        builder
            .timer(TokioTimer::new()) // Without one hyper's timeouts do nothing.
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(head_max_bytes.unwrap_or(u32::MAX))
            .max_send_buf_size(STREAM_SEND_BYTES)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_BY_US_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self(builder)
    }

    /// Serves a connection. Once `stop` is cancelled, what has begun is.
    async fn serve<I>(
        &self,
        io: I,
        answering: Answering,
        stop: &CancellationToken,
    ) -> Result<(), hyper::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        // As large as all that an HTTP/1 connection needs.
        let mut serving = Box::pin(self.0.serve_connection(TokioIo::new(io), answering));
        tokio::select! {
            biased;
            served = &mut serving => return served,
            () = stop.cancelled() => {}
        }
        serving.as_mut().graceful_shutdown();
        serving.await
    }
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    /// Boxed, as it has no name.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let service = Arc::clone(&self.service);
        let turn = self.presence.begin();
        let (head, body) = request.into_parts();
        let body = Inbound::of_shared_client(body);
        Box::pin(async move {
            let answering = service.call(head.into(), body, turn);
            Ok(service.curfew.wakes(pin!(answering)).await.into())
        })
    }
}

/// Serves a connection until its end. Once `stop` is cancelled, only what has begun is.
pub(super) async fn serve<S>(
    stream: S,
    place: Place,
    http2: Arc<Http2>,
    service: Arc<Service>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Reset + Unpin + Send + 'static,
{
    let presence = Presence::new(place, Instant::now());
    let stall_timeout = service.settings.load().client_stall_timeout;
    let mut io = Impatient::new(stream, stall_timeout, Arc::clone(&presence));
    let mut overdue = pin!(overdue(&presence, &service.settings));
    let protocol = tokio::select! {
        protocol = io.protocol() => protocol,
        limit = &mut overdue => return close(&presence, limit),
        () = stop.cancelled() => return, // It has asked for nothing.
    };
    match protocol {
        Ok(Protocol::Http1) => {
            let serving = http1::serve(&mut io, &presence, &service);
            drive(pin!(serving), overdue, &stop, &service.curfew, &presence).await;
        }
        Ok(Protocol::Http2) => {
            let answering = Answering {
                service: Arc::clone(&service),
                presence: Arc::clone(&presence),
            };
            let serving = http2.serve(&mut io, answering, &stop);
            drive(pin!(serving), overdue, &stop, &service.curfew, &presence).await;
        }
        Err(error) => debug!(%error, "connection ended"),
    }
}

/// Lets a connection be served until it has waited for too long.
async fn drive<E: fmt::Display>(
    mut serving: Pin<&mut impl Future<Output = Result<(), E>>>,
    mut overdue: Pin<&mut impl Future<Output = Limit>>,
    stop: &CancellationToken,
    curfew: &Curfew,
    presence: &Presence,
) {
    let (mut stopping, mut over) = (pin!(stop.cancelled()), pin!(curfew.over()));
    let (mut is_stopping, mut is_over) = (false, false);
    let mut bell = Bell::new();
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(served) = serving.as_mut().poll(cx) {
                return Poll::Ready(Ok(served));
            }
            if !bell.has_rung(cx.waker()) {
                return Poll::Pending;
            }
            let mut aside = Context::from_waker(bell.waker());
            if let Poll::Ready(limit) = overdue.as_mut().poll(&mut aside) {
                return Poll::Ready(Err(limit));
            }
            // Whoever serves it looks at these two, and has to be asked to.
            let was = (is_stopping, is_over);
            if !is_stopping && stopping.as_mut().poll(&mut aside).is_ready() {
                is_stopping = true;
                presence.end();
            }
            is_over |= !was.1 && over.as_mut().poll(&mut aside).is_ready();
            if was == (is_stopping, is_over) {
                return Poll::Pending;
            }
        }
    });
    match ended.await {
        Ok(Ok(())) => {}
        // Clients come and go; this one has been told why.
        Ok(Err(error)) => debug!(%error, "connection ended"),
        Err(limit) => close(presence, limit),
    }
}

/// Waits until the connection has waited for too long.
async fn overdue(presence: &Presence, settings: &Live) -> Limit {
    loop {
        let due = presence.due(&settings.load(), Instant::now());
        match due {
            Due::At(next) => sleep_until(next.into()).await,
            Due::Now(limit) => return limit,
        }
    }
}

fn close(presence: &Presence, limit: Limit) {
    presence.hit(limit);
    debug!(?limit, "connection closed");
}
