//! A running `qcc-proxy`.

use std::{net::SocketAddr, path::PathBuf, process::ExitStatus, sync::Mutex};

use hyper::Method;
use qcc_proto::v1::{
    GetProxyStatusRequest, HealthState, ListProxyEndpointsRequest, ProxyEndpoint, ProxyStatus,
    View, proxy_admin_service_client::ProxyAdminServiceClient,
};
use rustix::process::{Pid, Signal};
use tonic::{Status, transport::Channel};

use crate::{
    client::{Call, Volley},
    control::{address, channel},
    network::Host,
    process::{Logs, Place, Process, lock},
    wait::eventually,
};

/// A running `qcc-proxy`.
pub struct Proxy {
    http: SocketAddr,
    admin_address: SocketAddr,
    admin: ProxyAdminServiceClient<Channel>,
    place: Place,
    process: Mutex<Option<Process>>,
}

/// What a proxy is started with.
pub(crate) struct Settings {
    pub(crate) id: String,
    pub(crate) controls: Vec<String>,
    pub(crate) cluster: String,
    pub(crate) ready_file: PathBuf,
    pub(crate) log: String,
    pub(crate) place: Place,
    pub(crate) flags: Vec<String>,
}

impl Proxy {
    /// Starts a proxy and waits until it is ready.
    pub(crate) async fn start(settings: &Settings, logs: &Logs) -> Self {
        let mut command = settings.place.command("qcc-proxy");
        let any = settings.place.any_port().to_string();
        command
            .args(["--listen", &any, "--admin-listen", &any])
            .args(settings.controls.iter().flat_map(|url| ["--control", url]))
            .args(["--cluster", &settings.cluster])
            .args(["--id", &settings.id, "--ready-file"])
            .arg(&settings.ready_file)
            .args(&settings.flags)
            .env("QCC_LOG", &settings.log);
        let mut process = Process::spawn(&settings.id, &mut command, logs);
        let ready = process.ready(&settings.ready_file).await;
        let admin_address = address(&ready, "admin");
        Self {
            http: address(&ready, "http"),
            admin_address,
            admin: ProxyAdminServiceClient::new(channel(admin_address)),
            place: settings.place.clone(),
            process: Mutex::new(Some(process)),
        }
    }

    /// The machine that it runs on.
    ///
    /// # Panics
    ///
    /// If the testbed is on loopback.
    pub fn host(&self) -> &Host {
        self.place.host()
    }

    /// Its process id.
    pub fn id(&self) -> Pid {
        let process = lock(&self.process);
        process.as_ref().expect("the proxy runs").id()
    }

    /// Where it takes client requests.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Where its admin service, metrics and probes are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// URL of its admin service.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin_address)
    }

    /// A client of its admin service.
    pub fn admin(&self) -> ProxyAdminServiceClient<Channel> {
        self.admin.clone()
    }

    /// A GET request.
    pub fn get(&self, target: &str) -> Call {
        Call::new(self.http, Method::GET, target)
    }

    /// A POST request without a body.
    pub fn post(&self, target: &str) -> Call {
        Call::new(self.http, Method::POST, target)
    }

    /// A conversation request, as most clients send it.
    pub fn message(&self) -> Call {
        self.post("/v1/messages").message(false)
    }

    /// Sends that many conversation requests at once.
    pub fn messages(&self, requests: usize) -> Volley {
        Volley::fire((0..requests).map(|_| self.message()))
    }

    /// Its own account of itself.
    pub async fn status(&self) -> Result<ProxyStatus, Status> {
        let response = self
            .admin()
            .get_proxy_status(GetProxyStatusRequest {})
            .await?;
        Ok(response.into_inner().status.unwrap_or_default())
    }

    /// Waits until its own account of itself is as wished.
    pub async fn eventually_is(
        &self,
        what: &str,
        wish: impl Fn(&ProxyStatus) -> bool,
    ) -> ProxyStatus {
        eventually(&format!("the proxy is {what}"), async || {
            let status = self.status().await.map_err(|status| status.to_string())?;
            if wish(&status) {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }

    /// An endpoint as this proxy sees it.
    pub async fn endpoint(&self, name: &str) -> Result<ProxyEndpoint, Status> {
        let request = ListProxyEndpointsRequest {
            page_size: 1000,
            ..Default::default()
        };
        let endpoints = self
            .admin()
            .list_proxy_endpoints(request)
            .await?
            .into_inner()
            .endpoints;
        let found = endpoints.into_iter().find(|endpoint| endpoint.name == name);
        found.ok_or_else(|| Status::not_found(format!("no `{name}` in the proxy's view")))
    }

    /// Waits until the proxy's own view of an endpoint is as wished.
    pub async fn eventually_sees(
        &self,
        name: &str,
        what: &str,
        wish: impl Fn(&ProxyEndpoint) -> bool,
    ) -> ProxyEndpoint {
        eventually(&format!("the proxy sees `{name}` {what}"), async || {
            let endpoint = self
                .endpoint(name)
                .await
                .map_err(|status| status.to_string())?;
            if wish(&endpoint) {
                Ok(endpoint)
            } else {
                Err(format!("{endpoint:?}"))
            }
        })
        .await
    }

    /// Waits until the control plane's view, as applied here, has the endpoint in
    /// this state.
    pub async fn eventually_knows(&self, name: &str, state: HealthState) {
        let what = format!("{state:?} in its view");
        self.eventually_sees(name, &what, |endpoint| endpoint.state() == state)
            .await;
    }

    /// Waits until no new request would go to the endpoint.
    pub async fn eventually_avoids(&self, name: &str) {
        self.eventually_sees(name, "not selectable", |endpoint| !endpoint.selectable)
            .await;
    }

    /// Waits until every outcome has been acknowledged and `view` is applied.
    pub async fn settled(&self, view: View) {
        eventually("the proxy has settled", async || {
            let status = self.status().await.map_err(|status| status.to_string())?;
            let applied = status.applied_view.unwrap_or_default();
            if status.active_requests == 0 && status.pending_outcomes == 0 && applied >= view {
                Ok(())
            } else {
                Err(format!("{status:?}, not yet {view}"))
            }
        })
        .await;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = lock(&self.process).as_ref() {
            process.signal(signal);
        }
    }

    /// Kills it on the spot.
    pub fn kill(&self) {
        drop(lock(&self.process).take());
    }

    /// Stops it gracefully and returns how it ended.
    pub async fn stop(&self) -> ExitStatus {
        let process = lock(&self.process).take();
        process.expect("the proxy runs").stop().await
    }

    /// Waits for it to end by itself and returns how it ended.
    pub async fn ended(&self) -> ExitStatus {
        let process = lock(&self.process).take();
        process.expect("the proxy runs").ended().await
    }
}
