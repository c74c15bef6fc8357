//! Ten thousand endpoints: a new proxy, a thousand at once, a restart.
//!
//! - *snapshot*: from the start of `qcc-proxy` (as a library, in this process) until it
//!   has applied the whole state and is ready. An operator has changed something just
//!   before, so nothing is encoded yet. The floor sends the same chunks, which it has
//!   encoded before, to a client that decodes and drops them.
//! - *reconnect*: a thousand data planes, each with a connection of its own and both
//!   streams, until the last has all chunks; and the longest that an operator, who reads
//!   and changes an endpoint in turns, waits for an answer meanwhile. They note only the
//!   length of what they get. The floor is the same crowd at the same chunks.
//! - *restart*: from the start of the process until the first call is answered, with a
//!   store that has the endpoints. The floor is a process that serves and has none.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use qcc_proto::v1::{WatchSnapshotsResponse, watch_snapshots_response::Update};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    child::{Process, Role},
    figure::{Figure, Goal, compare},
    forwarding::proxy,
    machine::{self, Cores, spawn_on},
    propagation::{ENDPOINT, Operator},
    server::{Server, endpoints, store},
    stand_in::StandIn,
};

/// Endpoints.
const ENDPOINTS: usize = 10_000;

/// Data planes that come at once.
const CROWD: usize = 1000;

/// A crowd that takes longer will not get through.
const LIMIT: Duration = Duration::from_secs(60);

/// Time between two calls of the operator.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn snapshot(cores: Cores) -> Vec<Figure> {
    let runtime = machine::runtime();
    let control = Server::control(cores.measured, endpoints(ENDPOINTS));
    let chunks = runtime.block_on(whole_snapshot(control.address()));
    let bare = Server::bare(cores.measured, chunks, None);
    let [samples] = compare(
        || {
            [runtime.block_on(async {
                Operator::connect(control.address())
                    .await
                    .restore(ENDPOINT)
                    .await;
                new_proxy(control.address()).await.as_secs_f64() * 1e3
            })]
        },
        || {
            [runtime.block_on(async {
                let start = Instant::now();
                whole_snapshot(bare.address()).await;
                start.elapsed().as_secs_f64() * 1e3
            })]
        },
    );
    drop(runtime); // Closes all connections: a server that stops waits for that.
    let name = format!("snapshot of {ENDPOINTS} endpoints applied by a new proxy");
    let figure = Figure::cost(name, "ms", "tonic, decoded", samples);
    vec![figure.goal(Goal::AtMost(100.0))]
}

/// Starts a proxy and returns how long it took until it was ready.
async fn new_proxy(control: SocketAddr) -> Duration {
    let start = Instant::now();
    let proxy = qcc_dataplane::start(proxy::config(control)).await;
    let proxy = proxy.expect("there are free ports");
    let (stop, ready) = (CancellationToken::new(), proxy.ready());
    let running = tokio::spawn(proxy.run_until(stop.clone()));
    let became_ready = timeout(LIMIT, ready).await;
    became_ready.expect("the proxy gets a view");
    let took = start.elapsed();
    stop.cancel();
    let ended = running.await.expect("the proxy does not panic");
    ended.expect("the proxy serves until it is stopped");
    took
}

/// Takes all chunks of a snapshot, on a new connection.
pub(crate) async fn whole_snapshot(server: SocketAddr) -> Vec<WatchSnapshotsResponse> {
    let mut watch = StandIn::connect(server, 0).await.watch().await;
    let mut chunks = Vec::new();
    loop {
        let message = watch.message().await.expect("the server answers");
        let message = message.expect("the stream stays open");
        let is_last = matches!(&message.update, Some(Update::Snapshot(chunk)) if chunk.last);
        chunks.push(message);
        if is_last {
            return chunks;
        }
    }
}

pub(crate) fn reconnect(cores: Cores) -> Vec<Figure> {
    let control = Server::control(cores.measured, endpoints(ENDPOINTS));
    let chunks = machine::runtime().block_on(whole_snapshot(control.address()));
    let count = chunks.len();
    let bare = Server::bare(cores.measured, chunks, None);
    let [current, call] = compare(
        || crowd(cores, control.address(), count, Call::Operator),
        || crowd(cores, bare.address(), count, Call::Nothing),
    );
    let name = format!("{CROWD} proxies at once, {ENDPOINTS} endpoints, until all are current");
    let current = Figure::cost(name, "ms", "tonic", current).goal(Goal::AtMost(10_000.0));
    let call = Figure::cost("longest call of an operator meanwhile", "ms", "tonic", call);
    vec![current, call.goal(Goal::AtMost(100.0))]
}

/// What is called meanwhile.
#[derive(Debug, Clone, Copy)]
enum Call {
    /// A read and a change of an endpoint in turns.
    Operator,
    /// Something that the floor answers at once.
    Nothing,
}

/// Returns how long it takes until all of a crowd are current, and how long a call takes
/// at most meanwhile, in milliseconds.
fn crowd(cores: Cores, server: SocketAddr, chunks: usize, call: Call) -> [f64; 2] {
    let done = Arc::new(AtomicBool::new(false));
    let is_done = Arc::clone(&done);
    // On a thread of its own: it must not wait for what the crowd has to do.
    let caller = spawn_on(cores.load, "caller", move || {
        machine::runtime().block_on(longest_call(server, call, &is_done))
    });
    let runtime = machine::runtime();
    let took = runtime.block_on(async {
        let start = Instant::now();
        let mut members = JoinSet::new();
        for number in 0..CROWD {
            members.spawn(async move {
                let proxy = StandIn::connect(server, number).await;
                let (mut watch, reports) = (proxy.watch_lengths().await, proxy.reports().await);
                for _ in 0..chunks {
                    let length = watch.message().await.expect("the server answers");
                    assert!(length.is_some(), "the stream stays open");
                }
                (watch, reports, Instant::now())
            });
        }
        let arrived = timeout(LIMIT, members.join_all()).await;
        let arrived = arrived.expect("everybody gets through");
        done.store(true, Ordering::Release);
        let last = arrived.iter().map(|(_, _, at)| *at).max();
        last.expect("a crowd is not empty") - start
    });
    let longest = caller.join().expect("the caller does not panic");
    [took, longest].map(|time| time.as_secs_f64() * 1e3)
}

async fn longest_call(server: SocketAddr, call: Call, is_done: &AtomicBool) -> Duration {
    let (mut operator, proxy) = (
        Operator::connect(server).await,
        StandIn::connect(server, CROWD).await,
    );
    let mut longest = Duration::ZERO;
    for turn in 0_u64.. {
        if is_done.load(Ordering::Acquire) {
            break;
        }
        let start = Instant::now();
        match call {
            Call::Operator if turn.is_multiple_of(2) => operator.get(ENDPOINT).await,
            Call::Operator => drop(operator.restore(ENDPOINT).await),
            Call::Nothing => drop(proxy.snapshot().await),
        }
        longest = longest.max(start.elapsed());
        sleep(PAUSE).await;
    }
    longest
}

pub(crate) fn restart(cores: Cores) -> Vec<Figure> {
    let data = store(cores.measured, endpoints(ENDPOINTS));
    let runtime = machine::runtime();
    let [samples] = compare(
        || {
            let start = Instant::now();
            let control = Process::spawn(cores.measured, Role::Control(data.path().into()));
            runtime.block_on(async {
                let mut operator = Operator::connect(control.address()).await;
                operator.get(ENDPOINT).await;
            });
            [start.elapsed().as_secs_f64() * 1e3]
        },
        || {
            let start = Instant::now();
            let bare = Process::spawn(cores.measured, Role::Bare);
            runtime.block_on(async {
                let proxy = StandIn::connect(bare.address(), 0).await;
                proxy.snapshot().await;
            });
            [start.elapsed().as_secs_f64() * 1e3]
        },
    );
    let name = format!("restart to serving with {ENDPOINTS} endpoints");
    let figure = Figure::cost(name, "ms", "tonic, nothing stored", samples);
    vec![figure.goal(Goal::AtMost(1000.0))]
}
