//! One client connection, from its first byte to its end.
//!
//! hyper keeps about 20 KiB for each connection of HTTP/1, also while nothing comes. So
//! where many connections are idle, one that becomes it is taken back from hyper, and
//! rests until its client sends something. That is safe where hyper has answered all that
//! has come, and has written all of it: see [`Presence::may_rest`].

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, Request, Response, Version, header::CONNECTION};
use hyper::{
    body::Incoming,
    rt::{Read, Write},
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Limit, Live, Settings,
    bell::Bell,
    presence::{Due, Place, Presence},
    relay::Body,
    service::Service,
    stall::{Impatient, Protocol},
};

/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;

/// How much more hyper takes than we do, so that a request somewhat over a limit of ours
/// is still refused in words that its caller understands.
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

/// Both protocols, as they are spoken to clients.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

/// A connection that hyper serves.
trait Serving: Future<Output = hyper::Result<()>> {
    /// Ends it after what has begun.
    fn graceful_shutdown(self: Pin<&mut Self>);
}

/// Why hyper serves a connection no longer.
enum End {
    /// There is nothing to do.
    Rests,
    /// It has waited for too long.
    Overdue(Limit),
    Served(Result<(), hyper::Error>),
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct Answering {
    service: Arc<Service>,
    presence: Arc<Presence>,
}

impl Protocols {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut http1 = http1::Builder::new();
        // The time for a head is `Presence`'s to watch: hyper has one for heads and silence.
        http1
            .header_read_timeout(None)
            .writev(false) // Copying what is mostly small costs less than a list of buffers.
            .max_headers(settings.headers_max * LEEWAY)
            .max_buf_size(settings.head_max_bytes * LEEWAY);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        let head_max_bytes = u32::try_from(settings.head_max_bytes * LEEWAY);
        http2
            .timer(TokioTimer::new()) // Without one hyper's timeouts do nothing.
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(head_max_bytes.unwrap_or(u32::MAX))
            .max_send_buf_size(STREAM_SEND_BYTES)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_BY_US_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        Self { http1, http2 }
    }
}

impl<I: Read + Write + Unpin> Serving for http1::Connection<I, Answering> {
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http1::Connection::graceful_shutdown(self);
    }
}

impl<I: Read + Write + Unpin> Serving for http2::Connection<I, Answering, TokioExecutor> {
    fn graceful_shutdown(self: Pin<&mut Self>) {
        http2::Connection::graceful_shutdown(self);
    }
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response<Body>;
    type Error = Infallible;
    /// Boxed: hyper keeps room for one, which would be as much for an idle connection.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (service, presence) = (Arc::clone(&self.service), Arc::clone(&self.presence));
        if is_last(request.version(), request.headers()) {
            presence.set_ending();
        }
        let turn = presence.begin();
        Box::pin(async move {
            let response = service.call(request, turn).await;
            if is_last(Version::HTTP_11, response.headers()) {
                presence.set_ending();
            }
            Ok(response)
        })
    }
}

/// Serves a connection until its end. Once `stop` is cancelled, only what has begun is.
pub(super) async fn serve<S>(
    stream: S,
    place: Place,
    protocols: Arc<Protocols>,
    service: Arc<Service>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let presence = Presence::new(place, &service.settings.load(), Instant::now());
    let answering = Answering {
        service: Arc::clone(&service),
        presence: Arc::clone(&presence),
    };
    let stall_timeout = service.settings.load().client_stall_timeout;
    let mut io = Impatient::new(stream, stall_timeout, Arc::clone(&presence));
    let mut overdue = pin!(overdue(&presence, &service.settings));
    loop {
        let protocol = tokio::select! {
            protocol = io.protocol() => protocol,
            limit = &mut overdue => return close(&presence, limit),
            () = stop.cancelled() => return, // It has asked for nothing.
        };
        let io = TokioIo::new(&mut io);
        let (answering, overdue) = (answering.clone(), overdue.as_mut());
        let end = match protocol {
            Ok(Protocol::Http1) => {
                let serving = protocols.http1.serve_connection(io, answering);
                drive(Box::pin(serving), &presence, overdue, &stop).await
            }
            Ok(Protocol::Http2) => {
                let serving = protocols.http2.serve_connection(io, answering);
                drive(Box::pin(serving), &presence, overdue, &stop).await
            }
            Err(error) => return debug!(%error, "connection ended"),
        };
        match end {
            End::Rests => {}
            End::Overdue(limit) => return close(&presence, limit),
            End::Served(Ok(())) => return,
            // Clients come and go; hyper has told this one why.
            End::Served(Err(error)) => return debug!(%error, "connection ended"),
        }
    }
}

/// Lets hyper serve a connection for as long as there is something to do.
async fn drive<C>(
    mut serving: Pin<Box<C>>,
    presence: &Presence,
    mut overdue: Pin<&mut impl Future<Output = Limit>>,
    stop: &CancellationToken,
) -> End
where
    C: Serving,
{
    let mut stopping = pin!(stop.cancelled());
    let mut is_stopping = false;
    let mut bell = Bell::new();
    poll_fn(|cx| {
        loop {
            match serving.as_mut().poll(cx) {
                Poll::Ready(served) => return Poll::Ready(End::Served(served)),
                Poll::Pending if presence.may_rest() => return Poll::Ready(End::Rests),
                Poll::Pending if !bell.has_rung(cx.waker()) => return Poll::Pending,
                Poll::Pending => {}
            }
            let mut aside = Context::from_waker(bell.waker());
            if let Poll::Ready(limit) = overdue.as_mut().poll(&mut aside) {
                return Poll::Ready(End::Overdue(limit));
            }
            if is_stopping || stopping.as_mut().poll(&mut aside).is_pending() {
                return Poll::Pending;
            }
            is_stopping = true;
            serving.as_mut().graceful_shutdown();
        }
    })
    .await
}

/// Whether its connection ends with this message, as far as it says.
fn is_last(version: Version, headers: &HeaderMap) -> bool {
    let stays = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
    version < Version::HTTP_11 || !headers.get_all(CONNECTION).iter().all(stays)
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
