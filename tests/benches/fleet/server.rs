//! gRPC servers on the measured core: the control plane, and the least that could
//! stand in for it.

use std::{
    collections::BTreeSet, net::SocketAddr, path::Path, sync::mpsc, thread::JoinHandle,
    time::Duration,
};

use qcc_control::Config;
use qcc_proto::v1::{
    self, ApplyResourcesRequest, Check, Cluster, ClusterPolicy, Endpoint, NoCheck,
    WatchSnapshotsResponse,
};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{
    bare::Bare,
    machine::{self, SCRATCH, spawn_on},
};

/// A running server. Dropping it stops it.
pub(crate) struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    /// By the kernel's numbers, its main thread included.
    threads: BTreeSet<String>,
    /// Its store, if it has one. Goes when the server has stopped.
    _data: Option<TempDir>,
}

impl Server {
    /// Starts a control plane with these endpoints, its store in a directory of its own.
    pub(crate) fn control(core: usize, endpoints: Vec<Endpoint>) -> Self {
        let data = scratch();
        let mut server = Self::control_on(core, data.path(), endpoints);
        server._data = Some(data);
        server
    }

    /// The same, on a store that stays.
    fn control_on(core: usize, data: &Path, endpoints: Vec<Endpoint>) -> Self {
        let config = Config {
            apply: Some(resources(endpoints)),
            ..config(data)
        };
        Self::start(core, "control", move |runtime, stop, bound| {
            let served = runtime.block_on(async {
                let control = qcc_control::start(config).await?;
                bound.send(control.address()).expect("somebody waits");
                control.run_until(stop).await
            });
            served.expect("the control plane serves until it is stopped");
        })
    }

    /// Starts the floor. Every watch begins with `opening`; each report makes it send
    /// `update` to all who watch.
    pub(crate) fn bare(
        core: usize,
        opening: Vec<WatchSnapshotsResponse>,
        update: Option<WatchSnapshotsResponse>,
    ) -> Self {
        Self::bare_as(core, opening, update, |bare| bare)
    }

    /// Starts a floor that stores; see [`bare`](crate::bare).
    pub(crate) fn storing(core: usize, update: WatchSnapshotsResponse) -> Self {
        Self::bare_as(core, vec![update.clone()], Some(update), Bare::storing)
    }

    fn bare_as(
        core: usize,
        opening: Vec<WatchSnapshotsResponse>,
        update: Option<WatchSnapshotsResponse>,
        with: fn(Bare) -> Bare,
    ) -> Self {
        Self::start(core, "bare", move |runtime, stop, bound| {
            runtime.block_on(async {
                let bare = with(Bare::bind(&opening, update.as_ref()).await);
                bound.send(bare.address()).expect("somebody waits");
                bare.run_until(stop).await;
            });
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the processor time that its threads have taken.
    pub(crate) fn processor_time(&self) -> Duration {
        machine::processor_time("/proc/self/task", |thread| self.threads.contains(thread))
    }

    fn start(
        core: usize,
        name: &'static str,
        run: impl FnOnce(Runtime, CancellationToken, mpsc::Sender<SocketAddr>) + Send + 'static,
    ) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (bound, address) = mpsc::channel();
        let others = machine::threads();
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
            threads: machine::threads().difference(&others).cloned().collect(),
            _data: None,
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

/// Makes a store with these endpoints, for control planes that start from it.
pub(crate) fn store(core: usize, endpoints: Vec<Endpoint>) -> TempDir {
    let data = scratch();
    drop(Server::control_on(core, data.path(), endpoints));
    data
}

/// Returns the configuration of a control plane on a store.
pub(crate) fn config(data: &Path) -> Config {
    Config {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        allowed_hosts: Vec::new(),
        data_dir: data.into(),
        tls: None,
        upstream_roots: qcc_proto::tls::Roots::Nobody,
        seal_key_file: None,
        apply: None,
        ready_file: None,
    }
}

pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(SCRATCH).expect("the build's directory is writable")
}

/// As long as the keys of the large providers.
const KEY: &str = "key-of-the-bench-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789";

/// Declares so many endpoints. The first in the order of names is `endpoint-0`.
pub(crate) fn endpoints(count: usize) -> Vec<Endpoint> {
    let base_url = || "https://api.example/v1".to_owned();
    (0..count)
        .map(|number| endpoint(&format!("endpoint-{number}"), base_url()))
        .collect()
}

/// Declares an endpoint in the default cluster.
pub(crate) fn endpoint(name: &str, base_url: String) -> Endpoint {
    Endpoint {
        name: name.into(),
        cluster: "default".into(),
        base_url,
        credential: Some(v1::Credential {
            api_key: KEY.into(),
            ..v1::Credential::default()
        }),
        allow_plaintext: true,
        ..Endpoint::default()
    }
}
