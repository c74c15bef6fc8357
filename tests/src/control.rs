//! A running `qcc-control`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Mutex,
};

use qcc_proto::v1::{
    self, ControlStatus, Endpoint, FailureQueueStats, GetControlStatusRequest, GetEndpointRequest,
    GetFailureQueueStatsRequest, HealthState, ListFailuresRequest,
    cluster_service_client::ClusterServiceClient, control_service_client::ControlServiceClient,
    endpoint_service_client::EndpointServiceClient, event_service_client::EventServiceClient,
    failure_queue_service_client::FailureQueueServiceClient,
    proxy_service_client::ProxyServiceClient, resource_service_client::ResourceServiceClient,
};
use rustix::process::{Pid, Signal};
use tonic::{
    Status,
    transport::{Channel, Endpoint as Address},
};

use crate::{
    network::Host,
    process::{Logs, Place, Process, lock},
    wait::{LIMIT, eventually},
};

/// A control plane: a data directory, an address, and the process that runs on
/// them at the moment, if any.
pub struct ControlPlane {
    address: SocketAddr,
    dir: PathBuf,
    place: Place,
    log: String,
    logs: Logs,
    channel: Channel,
    process: Mutex<Option<Process>>,
}

impl ControlPlane {
    /// Starts a control plane on an empty directory and a free port.
    pub(crate) async fn first_start(dir: PathBuf, place: Place, log: &str, logs: &Logs) -> Self {
        let any = place.any_port();
        let (process, address) = run(&place, any, &dir, log, logs).await;
        Self {
            address,
            dir,
            place,
            log: log.to_owned(),
            logs: logs.clone(),
            channel: channel(address),
            process: Mutex::new(Some(process)),
        }
    }

    /// Starts a control plane on an empty directory, with nothing around it.
    pub async fn alone(dir: &Path, logs: &Logs) -> Self {
        Self::first_start(dir.to_owned(), Place::default(), "info", logs).await
    }

    /// The command that starts one on this directory and any port, and the file that
    /// is there once it has.
    pub fn command_in(dir: &Path) -> (Command, PathBuf) {
        let place = Place::default();
        let ready_file = dir.join("twin.json");
        let command = arguments(&place, place.any_port(), dir, &ready_file, "info");
        (command, ready_file)
    }

    /// Where it listens, also while it is not running.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The machine that it runs on.
    ///
    /// # Panics
    ///
    /// If the testbed is on loopback.
    pub fn host(&self) -> &Host {
        self.place.host()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its state is.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The command that would start a second one on the same data.
    pub fn twin(&self) -> Command {
        let (place, ready_file) = (&self.place, self.dir.join("twin.json"));
        arguments(place, place.any_port(), &self.dir, &ready_file, &self.log)
    }

    /// Starts it again: same address, same data.
    pub async fn start(&self) {
        let (place, dir) = (&self.place, &self.dir);
        let (process, _) = run(place, self.address, dir, &self.log, &self.logs).await;
        *lock(&self.process) = Some(process);
        eventually("the control plane answers again", async || {
            self.try_status().await.map_err(|status| status.to_string())
        })
        .await;
    }

    /// Kills it on the spot, as a power switch would.
    pub fn kill(&self) {
        drop(lock(&self.process).take());
    }

    /// Its process id.
    pub fn id(&self) -> Pid {
        let process = lock(&self.process);
        process.as_ref().expect("the control plane runs").id()
    }

    /// Waits for it to end by itself and returns how it ended.
    pub async fn ended(&self) -> ExitStatus {
        let process = lock(&self.process).take();
        process.expect("the control plane runs").ended().await
    }

    /// Stops it gracefully.
    pub async fn stop(&self) {
        let process = lock(&self.process).take();
        let status = process.expect("the control plane runs").stop().await;
        assert!(status.success(), "the control plane stopped with {status}");
    }

    /// Stops it gracefully and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start().await;
    }

    /// Freezes it: connections stay, nothing moves.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Ends a freeze.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = lock(&self.process).as_ref() {
            process.signal(signal);
        }
    }

    /// A connection for any client.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A client.
    pub fn endpoints(&self) -> EndpointServiceClient<Channel> {
        EndpointServiceClient::new(self.channel())
    }

    /// A client.
    pub fn clusters(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel())
    }

    /// A client.
    pub fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel())
    }

    /// A client.
    pub fn queue(&self) -> FailureQueueServiceClient<Channel> {
        FailureQueueServiceClient::new(self.channel())
    }

    /// A client.
    pub fn proxies(&self) -> ProxyServiceClient<Channel> {
        ProxyServiceClient::new(self.channel())
    }

    /// A client.
    pub fn resources(&self) -> ResourceServiceClient<Channel> {
        ResourceServiceClient::new(self.channel())
    }

    async fn try_status(&self) -> Result<ControlStatus, Status> {
        let mut client = ControlServiceClient::new(self.channel());
        let response = client
            .get_control_status(GetControlStatusRequest {})
            .await?;
        Ok(response.into_inner().status.unwrap_or_default())
    }

    /// Its own account of itself.
    pub async fn status(&self) -> ControlStatus {
        self.try_status().await.expect("the control plane answers")
    }

    /// The newest published view.
    pub async fn view(&self) -> v1::View {
        self.status().await.view.unwrap_or_default()
    }

    async fn try_endpoint(&self, name: &str) -> Result<Endpoint, Status> {
        let request = GetEndpointRequest {
            name: name.to_owned(),
        };
        let response = self.endpoints().get_endpoint(request).await?;
        Ok(response.into_inner().endpoint.unwrap_or_default())
    }

    /// An endpoint as it is now.
    pub async fn endpoint(&self, name: &str) -> Endpoint {
        self.try_endpoint(name).await.expect("the endpoint exists")
    }

    /// An endpoint's state as it is now.
    pub async fn state(&self, name: &str) -> HealthState {
        self.endpoint(name).await.health.unwrap_or_default().state()
    }

    /// Waits until an endpoint is as wished.
    pub async fn eventually(
        &self,
        name: &str,
        what: &str,
        wish: impl Fn(&Endpoint) -> bool,
    ) -> Endpoint {
        eventually(&format!("`{name}` is {what}"), async || {
            let endpoint = self
                .try_endpoint(name)
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

    /// Waits until an endpoint is in this state.
    pub async fn eventually_is(&self, name: &str, state: HealthState) -> Endpoint {
        let what = format!("{state:?}");
        self.eventually(name, &what, |endpoint| health(endpoint).state() == state)
            .await
    }

    /// The failure queue's length and counters.
    pub async fn queue_stats(&self) -> FailureQueueStats {
        let response = self
            .queue()
            .get_failure_queue_stats(GetFailureQueueStatsRequest {})
            .await;
        response
            .expect("the control plane answers")
            .into_inner()
            .stats
            .unwrap_or_default()
    }

    /// The failure queue.
    pub async fn failures(&self) -> Vec<v1::FailureQueueEntry> {
        let response = self
            .queue()
            .list_failures(ListFailuresRequest::default())
            .await;
        response
            .expect("the control plane answers")
            .into_inner()
            .entries
    }
}

/// An endpoint's health.
pub(crate) fn health(endpoint: &Endpoint) -> v1::Health {
    endpoint.health.clone().unwrap_or_default()
}

/// A connection that is made when it is first used, and again when it broke.
pub(crate) fn channel(address: SocketAddr) -> Channel {
    let address = Address::from_shared(format!("http://{address}")).expect("an address is a URL");
    address.timeout(LIMIT).connect_lazy()
}

/// Reads one of the addresses in a ready file.
pub(crate) fn address(ready: &serde_json::Value, name: &str) -> SocketAddr {
    let text = ready.get(name).and_then(serde_json::Value::as_str);
    let text = text.unwrap_or_else(|| panic!("no `{name}` in the ready file {ready}"));
    text.parse()
        .unwrap_or_else(|_| panic!("`{name}` in the ready file {ready} is no address"))
}

async fn run(
    place: &Place,
    listen: SocketAddr,
    dir: &Path,
    log: &str,
    logs: &Logs,
) -> (Process, SocketAddr) {
    let ready_file = dir.join("control.json");
    if ready_file.exists() {
        std::fs::remove_file(&ready_file).expect("the ready file can be removed");
    }
    let mut process = Process::spawn(
        "control",
        &mut arguments(place, listen, dir, &ready_file, log),
        logs,
    );
    let ready = process.ready(&ready_file).await;
    let address = address(&ready, "grpc");
    (process, address)
}

fn arguments(
    place: &Place,
    listen: SocketAddr,
    dir: &Path,
    ready_file: &Path,
    log: &str,
) -> Command {
    let mut command = place.command("qcc-control");
    command
        .args(["--listen", &listen.to_string(), "--data-dir"])
        .arg(dir.join("data"))
        .arg("--ready-file")
        .arg(ready_file)
        .env("QCC_LOG", log);
    command
}
