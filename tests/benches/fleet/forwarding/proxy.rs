//! `qcc-proxy` as a child process: what its `main` does, without flags and logs.

use std::net::SocketAddr;

use qcc_dataplane::Config;
use tokio_util::sync::CancellationToken;

use crate::{child::announce, stand_in::CLUSTER};

/// The name that it goes by.
pub(crate) const ID: &str = "bench";

/// Returns the configuration of a proxy that follows a control plane.
pub(crate) fn config(control: SocketAddr) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let url = format!("http://{control}");
    Config {
        listen: any,
        admin_listen: any,
        control_urls: vec![url.parse().expect("an address is a URL")],
        cluster: CLUSTER.into(),
        id: Some(ID.into()),
        ..Config::default()
    }
}

/// Serves until it is stopped.
pub(crate) async fn run(control: SocketAddr, stop: CancellationToken) {
    let proxy = qcc_dataplane::start(config(control)).await;
    let proxy = proxy.expect("there are free ports");
    let (address, ready) = (proxy.http_address(), proxy.ready());
    tokio::spawn(async move {
        ready.await;
        announce(address);
    });
    let served = proxy.run_until(stop).await;
    served.expect("the proxy serves until it is stopped");
}
