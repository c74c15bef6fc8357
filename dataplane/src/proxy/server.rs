//! The accept loop, and graceful stop.

use std::{
    io,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpListener,
    task::{JoinError, JoinSet},
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::{
    Counters, Curfew, Live,
    connection::{self, Http2},
    service::Service,
};
use crate::{routing::Router, sync::Link};

/// Pause after a failed accept. The usual cause is that file descriptors have run out:
/// asking again at once would only burn the processor until one is closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time for answers that are cut off when the drain is over to say so. Whoever does not
/// read it by then is not waited for.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// Interval at which connections to endpoints are closed that have been idle for too long,
/// or that the endpoint has closed. Chosen by feel.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Serves clients until `stop` is cancelled, then lets running requests finish for
/// at most `settings.drain_timeout`, or until the curfew is called: answers that are still
/// on their way end visibly, and who waits for one is told that there will be none. Dropping the future ends every connection at once.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    settings: Live,
    counters: Arc<Counters>,
    link: Link,
    stop: CancellationToken,
    curfew: Curfew,
) {
    // Of what this is made, nothing changes while it is used.
    let http2 = Arc::new(Http2::new(&settings.load()));
    let (drain_timeout, door) = {
        let settings = settings.load();
        (settings.drain_timeout, settings.door.clone())
    };
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
                        if let Err(error) = stream.set_nodelay(true) {
                            debug!(%error, "failed to set TCP_NODELAY");
                        }
                        let (http2, service) = (Arc::clone(&http2), Arc::clone(&service));
                        let stop = stop.clone();
                        // TLS, if any, begins with the first read.
                        let stream = door.accept(stream);
                        connections.spawn(connection::serve(stream, place, http2, service, stop));
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
    tokio::select! {
        () = &mut finished => return,
        () = curfew.over() => {}
        () = sleep(drain_timeout) => {}
    }
    info!("ending what did not finish in time");
    curfew.call();
    let _ = timeout(FAREWELL_MAX, finished).await;
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
