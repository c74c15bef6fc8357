//! What opens a connection and keeps it going.

use std::{
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{
    Ping, PingPong,
    client::{self, Connection, SendRequest},
};
use qcc_proto::v1::OutcomeClass;
use tokio::{
    select,
    time::{sleep, timeout},
};
use tower_service::Service;
use tracing::debug;

use super::{
    super::{
        ABANDONED_FOR, ABANDONED_MAX, CONNECTION_WINDOW, Dial, Pool, SEND_BUFFER,
        SMALL_FRAMES_BUDGET, STREAM_WINDOW,
    },
    Failure, Link, State, limit_of,
};
use crate::proxy::{connector::Wire, upstream::describe};

/// Idle time after which a connection is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Time for a last GOAWAY to leave.
const FAREWELL: Duration = Duration::from_secs(1);

/// Opens a connection and keeps it going until its end.
pub(in super::super) async fn run(link: Arc<Link>, dial: Dial, pool: Weak<Pool>) {
    match timeout(dial.connect_timeout, open(&dial)).await {
        Ok(Ok(Some(live))) => {
            let limit = limit_of(&live.sender);
            link.limit.store(limit, Ordering::Relaxed);
            if let Some(pool) = pool.upgrade() {
                pool.expect(limit);
            }
            link.set(State::Open(live.sender));
            drive(&link, &dial, &pool, live.connection, live.pings).await;
        }
        Ok(Ok(None)) => {
            if let Some(pool) = pool.upgrade() {
                pool.decline(Instant::now());
            }
            link.set(State::Declined);
        }
        Ok(Err(Unopened::Untaken)) => link.retire(),
        Ok(Err(Unopened::Failed(failure))) => link.set(State::Failed(Arc::new(failure))),
        Err(_) => {
            let failure = Failure::new(OutcomeClass::Connect, "connect timed out".to_owned());
            link.set(State::Failed(Arc::new(failure)));
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.renewed();
    }
}

/// A connection that has answered.
struct Live {
    sender: SendRequest<Bytes>,
    connection: Connection<Wire>,
    pings: PingPong,
}

/// Why there is none.
enum Unopened {
    /// The endpoint said good-bye at once.
    Untaken,
    Failed(Failure),
}

impl From<h2::Error> for Unopened {
    fn from(error: h2::Error) -> Self {
        match error.is_go_away() && error.is_remote() {
            true => Self::Untaken,
            false => Self::Failed(Failure::of(&error)),
        }
    }
}

/// Makes a connection; `None`: the endpoint has chosen HTTP/1.1.
async fn open(dial: &Dial) -> Result<Option<Live>, Unopened> {
    let failed = |class, detail: String| Unopened::Failed(Failure::new(class, detail));
    let connecting = dial.connector.clone().call(dial.target.clone());
    let wire = connecting
        .await
        .map_err(|error| failed(OutcomeClass::Connect, describe(&*error)))?;
    if dial.may_decline && !wire.chose_http2() {
        return Ok(None);
    }
    let head_max_bytes = u32::try_from(dial.limits.head_max_bytes).unwrap_or(u32::MAX);
    let (sender, mut connection) = client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(head_max_bytes)
        .max_concurrent_reset_streams(ABANDONED_MAX)
        .reset_stream_duration(ABANDONED_FOR)
        .handshake(wire)
        .await?;
    let mut pings = connection
        .ping_pong()
        .expect("it is taken once for each connection");
    let settled = select! {
        ended = &mut connection => Err(ended),
        answered = pings.ping(Ping::opaque()) => Ok(answered),
    };
    match settled {
        Ok(answered) => answered.map(|_| ())?,
        Err(ended) => {
            ended?;
            let detail = "the connection was closed before it was used".to_owned();
            return Err(failed(OutcomeClass::Connect, detail));
        }
    }
    Ok(Some(Live {
        sender,
        connection,
        pings,
    }))
}

/// Why we end a connection ourselves.
enum Verdict {
    Idle,
    Dead,
}

async fn drive(
    link: &Arc<Link>,
    dial: &Dial,
    pool: &Weak<Pool>,
    mut connection: Connection<Wire>,
    pings: PingPong,
) {
    let watching = watch(link, dial.limits.ping_interval, pool, pings);
    let verdict = select! {
        ended = &mut connection => {
            debug!(error = ended.err().map(tracing::field::display), "connection ended");
            None
        }
        verdict = watching => Some(verdict),
    };
    if matches!(verdict, Some(Verdict::Dead)) {
        let interval = dial.limits.ping_interval;
        let _ = link
            .verdict
            .set(format!("no answer to a PING for {interval:?}"));
    }
    link.retire();
    if matches!(verdict, Some(Verdict::Idle)) {
        let _ = timeout(FAREWELL, Pin::new(&mut connection)).await; // Says GOAWAY.
    }
}

/// Asks whether the peer is there, while anybody waits for it; ends when it is not, or when
/// nobody has needed it for long.
async fn watch(
    link: &Arc<Link>,
    interval: Duration,
    pool: &Weak<Pool>,
    mut pings: PingPong,
) -> Verdict {
    let mut used = (link.taken.load(Ordering::Relaxed), Instant::now());
    loop {
        select! {
            () = sleep(interval) => {}
            () = link.doubt.notified() => {}
        }
        let taken = link.taken.load(Ordering::Relaxed);
        if link.streams() > 0 || taken != used.0 {
            used = (taken, Instant::now());
        }
        let is_needed = pool.strong_count() > 0 && !link.is_over();
        if link.streams() == 0 && (!is_needed || used.1.elapsed() >= IDLE_TIMEOUT) {
            let is_idle = pool.upgrade().is_none_or(|pool| pool.forget(link));
            if is_idle {
                return Verdict::Idle;
            }
        }
        if link.streams() > 0 || link.doubted.load(Ordering::Relaxed) {
            match timeout(interval, pings.ping(Ping::opaque())).await {
                Ok(Ok(_)) => {
                    let was_doubted = link.doubted.swap(false, Ordering::Relaxed);
                    if let Some(pool) = pool.upgrade().filter(|_| was_doubted) {
                        pool.renewed();
                    }
                }
                Ok(Err(_)) => std::future::pending().await, // The connection will end.
                Err(_) => return Verdict::Dead,
            }
        }
    }
}
