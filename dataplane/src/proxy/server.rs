//! The accept loop, limits of a connection, graceful stop.

use std::{
    convert::Infallible,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{Counters, Curfew, Settings, service::Service, stall::Impatient};
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
    let connections_max = settings.connections_max;
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
                Ok((stream, _)) if connections.len() < connections_max => {
                    let (builder, service) = (Arc::clone(&builder), Arc::clone(&service));
                    connections.spawn(connection(stream, builder, service, stop.clone()));
                }
                Ok(_) => debug!(connections_max, "connection refused: too many"),
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
    // Without a timer hyper's timeouts do nothing.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_read_timeout)
        .max_headers(settings.headers_max)
        .max_buf_size(settings.head_max_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(settings.head_max_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// Serves one client connection to its end.
async fn connection(
    stream: TcpStream,
    builder: Arc<auto::Builder<TokioExecutor>>,
    service: Arc<Service>,
    stop: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "failed to set TCP_NODELAY");
    }
    let has_spoken = Arc::new(AtomicBool::new(false));
    let patience = service.settings.header_read_timeout;
    let stall_timeout = service.settings.client_stall_timeout;
    let answer = {
        let has_spoken = Arc::clone(&has_spoken);
        service_fn(move |request| {
            has_spoken.store(true, Ordering::Relaxed);
            let service = Arc::clone(&service);
            async move { Ok::<_, Infallible>(service.call(request).await) }
        })
    };
    let io = Impatient::new(TokioIo::new(stream), stall_timeout);
    let mut serving = pin!(builder.serve_connection(io, answer));
    let mut silence = pin!(sleep(patience));
    let mut stopping = pin!(stop.cancelled());
    let (mut is_watched, mut is_stopping) = (true, false);
    let served = loop {
        tokio::select! {
            served = &mut serving => break served,
            // hyper's own limit begins with the first bytes that tell the protocol.
            () = &mut silence, if is_watched => {
                is_watched = false;
                if !has_spoken.load(Ordering::Relaxed) {
                    debug!("connection closed: no request in time");
                    return;
                }
            }
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
