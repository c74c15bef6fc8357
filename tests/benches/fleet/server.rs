//! gRPC servers on the measured core: the control plane, and the least that could
//! stand in for it.

use std::{net::SocketAddr, sync::mpsc, thread::JoinHandle};

use qcc_control::Config;
use qcc_proto::v1::{
    self, ApplyResourcesRequest, Check, Cluster, ClusterPolicy, Endpoint, NoCheck,
};
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{
    bare::Bare,
    machine::{SCRATCH, spawn_on},
};

/// A running server. Dropping it stops it.
pub(crate) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a control plane with these endpoints, its store in a directory of its own.
    pub(crate) fn control(core: usize, endpoints: Vec<Endpoint>) -> Self {
        Self::start(core, "control", move |runtime, stop, bound| {
            let data = tempfile::tempdir_in(SCRATCH).expect("the build's directory is writable");
            let config = Config {
                listen: SocketAddr::from(([127, 0, 0, 1], 0)),
                allowed_hosts: Vec::new(),
                data_dir: data.path().into(),
                seal_key_file: None,
                apply: Some(resources(endpoints)),
                ready_file: None,
            };
            let served = runtime.block_on(async {
                let control = qcc_control::start(config).await?;
                bound.send(control.address()).expect("somebody waits");
                control.run_until(stop).await
            });
            served.expect("the control plane serves until it is stopped");
        })
    }

    /// Starts the floor; each report makes it send `update` to all who watch.
    pub(crate) fn bare(core: usize, update: Option<v1::WatchSnapshotsResponse>) -> Self {
        Self::start(core, "bare", move |runtime, stop, bound| {
            runtime.block_on(async {
                let bare = Bare::bind(update.as_ref()).await;
                bound.send(bare.address()).expect("somebody waits");
                bare.run_until(stop).await;
            });
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn start(
        core: usize,
        name: &'static str,
        run: impl FnOnce(Runtime, CancellationToken, mpsc::Sender<SocketAddr>) + Send + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (bound, address) = mpsc::channel();
        let thread = spawn_on(core, name, move || {
            // All its threads inherit this thread's core, the writer too.
            let runtime = runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("the system has room for a runtime");
            run(runtime, stopped, bound);
        });
        Self {
            address: address.recv().expect("the server starts"),
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a server panicked"
            );
        }
    }
}

/// Declares endpoints that are never checked and hardly ever ejected: neither is
/// measured here.
fn resources(endpoints: Vec<Endpoint>) -> ApplyResourcesRequest {
    let no_check = Check {
        kind: Some(v1::check::Kind::None(NoCheck {})),
        timeout: None,
        precheck: None,
    };
    ApplyResourcesRequest {
        clusters: vec![Cluster {
            name: "default".into(),
            policy: Some(ClusterPolicy {
                max_failures: Some(1000),
                check: Some(no_check),
                ..ClusterPolicy::default()
            }),
            ..Cluster::default()
        }],
        endpoints,
        ..ApplyResourcesRequest::default()
    }
}

/// Declares an endpoint in the default cluster.
pub(crate) fn endpoint(name: &str, base_url: String) -> Endpoint {
    Endpoint {
        name: name.into(),
        cluster: "default".into(),
        base_url,
        credential: Some(v1::Credential {
            api_key: "key-of-the-bench".into(),
            ..v1::Credential::default()
        }),
        allow_plaintext: true,
        ..Endpoint::default()
    }
}
