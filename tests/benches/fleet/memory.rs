//! Memory, as the difference between a process with many and one with few: anonymous
//! pages that the kernel has given to it.
//!
//! - An endpoint in the control plane, which has started from its store and has sent one
//!   snapshot; and in a proxy, which has applied one. The floor holds the same endpoints
//!   as the decoded messages.
//! - A connected data plane, both streams open, in the control plane. The floor has the
//!   same streams and nothing behind them.

use std::net::SocketAddr;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::{
    child::{Process, Role, announce},
    figure::{Figure, Goal, compare},
    machine::{self, Cores},
    scale,
    server::{Server, endpoints, store},
    stand_in::{Reports, StandIn},
};

/// Endpoints of the small and the large.
const FEW: usize = 10;
const MANY: usize = 10_000;

/// Data planes that connect.
const PROXIES: usize = 1000;

pub(crate) fn figures(cores: Cores) -> Vec<Figure> {
    let [in_control, in_proxy] = per_endpoint(cores);
    vec![in_control, in_proxy, per_proxy(cores)]
}

fn per_endpoint(cores: Cores) -> [Figure; 2] {
    let runtime = machine::runtime();
    let stores = [MANY, FEW].map(|count| store(cores.measured, endpoints(count)));
    let servers = [MANY, FEW].map(|count| Server::control(cores.load, endpoints(count)));
    let addresses = servers.each_ref().map(Server::address);
    let hold = |role: fn(SocketAddr) -> Role| {
        let used = addresses.map(|control| Process::spawn(cores.measured, role(control)).memory());
        per_one(used)
    };
    let control = || {
        let used = stores.each_ref().map(|data| {
            let control = Process::spawn(cores.measured, Role::Control(data.path().into()));
            runtime.block_on(async {
                scale::whole_snapshot(control.address()).await;
            });
            control.memory()
        });
        per_one(used)
    };
    let [in_control] = compare(|| [control()], || [hold(Role::Holder)]);
    let [in_proxy] = compare(|| [hold(Role::Proxy)], || [hold(Role::Holder)]);
    drop(runtime); // Closes all connections: a server that stops waits for that.
    let figure = |place: &str, samples, most| {
        let name = format!("memory of an endpoint in {place}, with {MANY}");
        Figure::cost(name, "KiB", "decoded messages", samples).goal(Goal::AtMost(most))
    };
    [
        figure("the control plane", in_control, 2.0),
        figure("a proxy", in_proxy, 1.0),
    ]
}

fn per_one([many, few]: [f64; 2]) -> f64 {
    (many - few) / (MANY - FEW) as f64
}

fn per_proxy(cores: Cores) -> Figure {
    let data = store(cores.measured, endpoints(FEW));
    let runtime = machine::runtime();
    let [samples] = compare(
        || {
            [connected(
                &runtime,
                cores,
                Role::Control(data.path().into()),
            )]
        },
        || [connected(&runtime, cores, Role::Bare)],
    );
    let name = format!("memory of a connected proxy in the control plane, with {PROXIES}");
    Figure::cost(name, "KiB", "tonic", samples).goal(Goal::AtMost(64.0))
}

/// Returns how much each of many connections takes in a server.
fn connected(runtime: &Runtime, cores: Cores, server: Role) -> f64 {
    let server = Process::spawn(cores.measured, server);
    let address = server.address();
    // What the first call takes is not the second's.
    let warm = runtime.block_on(connect(address, PROXIES));
    let before = server.memory();
    let proxies = runtime.block_on(async {
        let mut proxies = Vec::with_capacity(PROXIES);
        for number in 0..PROXIES {
            proxies.push(connect(address, number).await);
        }
        proxies
    });
    let used = server.memory() - before;
    runtime.block_on(async move {
        drop((warm, proxies));
        // Connections end in tasks of their own.
        tokio::task::yield_now().await;
    });
    used / PROXIES as f64
}

/// Opens both streams and waits until they are.
async fn connect(server: SocketAddr, number: usize) -> (StandIn, Streaming<usize>, Reports) {
    let proxy = StandIn::connect(server, number).await;
    let (mut watch, reports) = (proxy.watch_lengths().await, proxy.reports().await);
    let first = watch.message().await.expect("the server answers");
    assert!(first.is_some(), "the stream stays open");
    (proxy, watch, reports)
}

/// Holds a control plane's endpoints until it is stopped.
pub(crate) async fn hold(control: SocketAddr, stop: CancellationToken) {
    let endpoints = {
        let snapshot = StandIn::connect(control, 0).await.snapshot().await;
        snapshot.endpoints
    };
    announce(control);
    stop.cancelled().await;
    drop(endpoints);
}
