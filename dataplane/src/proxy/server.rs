//! The accept loop, limits of a connection, graceful stop.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{interval, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Counters, Curfew, Settings,
    presence::{Due, Place, Presence},
    service::Service,
    stall::Impatient,
};
use crate::{routing::Router, sync::Link};

/// Pause after a failed accept. The usual cause is that file descriptors have run out:
/// asking again at once would only burn the processor until one is closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for answers that are cut off when the drain is over to say so. Whoever does not
/// read it by then is not waited for.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// Interval at which unused connection pools are dropped. Chosen by feel.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

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

/// Serves clients until `stop` is cancelled, then lets running requests finish for
/// at most `settings.drain_timeout`, or until the curfew is called: answers that are still
/// on their way end visibly. Dropping the future ends every connection at once.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Settings,
    counters: Arc<Counters>,
    link: Link,
    stop: CancellationToken,
    curfew: Curfew,
) {
    let builder = Arc::new(builder(&settings));
    let drain_timeout = settings.drain_timeout;
    let service = Service::new(
        router,
        settings,
        counters,
        link,
        stop.clone(),
        curfew.clone(),
    );
    let service = Arc::new(service);
    let mut connections = JoinSet::new();
    let mut sweep = interval(SWEEP_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            _ = sweep.tick() => service.upstreams.sweep(Instant::now()),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => match service.crowd.place(peer.ip()) {
                    Ok(place) => {
                        let (builder, service) = (Arc::clone(&builder), Arc::clone(&service));
                        let serving = connection(stream, place, builder, service, stop.clone());
                        connections.spawn(serving);
                    }
                    Err(limit) => {
                        service.counters.hit(limit);
                        debug!(?limit, "connection refused: too many");
                    }
                },
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => {
                    warn!(%error, "failed to accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener); // New connections are refused from here on.
    let mut finished = pin!(async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    });
    let is_called = curfew.called(); // Made first: misses nothing.
    let called = async {
        if !curfew.is_called() {
            is_called.await;
        }
    };
    tokio::select! {
        () = &mut finished => return,
        () = called => {}
        () = sleep(drain_timeout) => {}
    }
    info!("ending what did not finish in time");
    curfew.call();
    let _ = timeout(FAREWELL_MAX, finished).await;
}

fn builder(settings: &Settings) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The time for a head is `Presence`'s to watch: hyper has one for heads and for silence.
    builder
        .http1()
        .header_read_timeout(None)
        .max_headers(settings.headers_max * LEEWAY)
        .max_buf_size(settings.head_max_bytes * LEEWAY);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(settings.head_max_bytes * LEEWAY).unwrap_or(u32::MAX))
        .max_send_buf_size(STREAM_SEND_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_BY_US_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Serves one client connection to its end.
async fn connection(
    stream: TcpStream,
    place: Place,
    builder: Arc<auto::Builder<TokioExecutor>>,
    service: Arc<Service>,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "failed to set TCP_NODELAY");
    }
    let shared = Arc::clone(&service);
    let settings = &shared.settings;
    let now = Instant::now();
    let presence = Presence::new(place, settings, now);
    let answer = {
        let presence = Arc::clone(&presence);
        service_fn(move |request| {
            let (service, turn) = (Arc::clone(&service), presence.begin());
            async move { Ok::<_, Infallible>(service.call(request, turn).await) }
        })
    };
    let stall_timeout = settings.client_stall_timeout;
    let io = TokioIo::new(Impatient::new(stream, stall_timeout, Arc::clone(&presence)));
    let mut serving = pin!(builder.serve_connection(io, answer));
    let mut look = pin!(sleep_until((now + settings.header_read_timeout).into()));
    let mut stopping = pin!(stop.cancelled());
    let mut is_stopping = false;
    let served = loop {
        tokio::select! {
            served = &mut serving => break served,
            () = &mut look => match presence.due(settings, Instant::now()) {
                Due::At(next) => look.as_mut().reset(next.into()),
                Due::Now(limit) => {
                    presence.hit(limit);
                    debug!(?limit, "connection closed");
                    return;
                }
            },
            () = &mut stopping, if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = served {
        debug!(%error, "connection ended"); // Clients come and go; hyper has told this one why.
    }
}

/// Whether a failed accept is about one client only.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended.map_err(JoinError::try_into_panic)
        && error.is_ok()
    {
        error!("a connection's task panicked"); // Its own requests are lost; all others go on.
    }
}
