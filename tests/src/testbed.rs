//! The whole system on loopback, for one test.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    process::Command,
    time::Duration,
};

use qcc_proto::v1::{
    ApplyResourcesRequest, Check, Cluster, ClusterPolicy, Credential, Endpoint, HealthState,
    NoCheck, VerificationSchedule, check,
};
use tempfile::TempDir;

use crate::{
    cli::{self, Output},
    control::ControlPlane,
    network::Network,
    process::{Logs, Place, Process, command},
    proxy::{self, Proxy},
    relay::Relay,
    upstream::Upstream,
};

/// How much of a child's output a failing test shows.
const TAIL_LINES: usize = 60;

/// One control plane, its endpoints' upstreams and its proxies. Everything ends
/// with it; a panic in any child fails the test.
pub struct Testbed {
    upstreams: BTreeMap<String, Upstream>,
    proxies: Vec<Proxy>,
    relay: Option<Relay>,
    control: ControlPlane,
    network: Option<Network>,
    environment: Vec<(String, String)>,
    log: String,
    logs: Logs,
    dir: TempDir,
}

impl Testbed {
    /// Describes a testbed; awaiting the description starts it.
    pub fn start() -> Builder {
        Builder {
            endpoints: Vec::new(),
            policy: ClusterPolicy::default(),
            proxies: 0,
            relayed: false,
            network: None,
            environment: Vec::new(),
            log: "info".to_owned(),
        }
    }

    /// The control plane.
    pub fn control(&self) -> &ControlPlane {
        &self.control
    }

    /// A proxy, by the order of their starts.
    pub fn proxy(&self, index: usize) -> &Proxy {
        &self.proxies[index]
    }

    /// All proxies.
    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// The upstream of an endpoint.
    pub fn upstream(&self, endpoint: &str) -> &Upstream {
        &self.upstreams[endpoint]
    }

    /// All upstreams, by name.
    pub fn upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.upstreams.values()
    }

    /// The relay between the proxies and the control plane.
    pub fn relay(&self) -> &Relay {
        self.relay
            .as_ref()
            .expect("the testbed was built with `relayed`")
    }

    /// A directory for the test's files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// All that was printed so far.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Starts one more proxy and returns its index.
    pub async fn add_proxy(&mut self) -> usize {
        let control = match &self.relay {
            Some(relay) => format!("http://{}", relay.address()),
            None => self.control.url(),
        };
        self.add_proxy_of(&[&control]).await
    }

    /// Starts one more proxy with these control planes, and returns its index.
    pub async fn add_proxy_of(&mut self, controls: &[&str]) -> usize {
        self.add_proxy_with(controls, &[]).await
    }

    /// Starts one more proxy with these control planes and flags, and returns its index.
    pub async fn add_proxy_with(&mut self, controls: &[&str], flags: &[&str]) -> usize {
        let index = self.proxies.len();
        let id = format!("proxy-{index}");
        let settings = proxy::Settings {
            ready_file: self.dir.path().join(format!("{id}.json")),
            id,
            controls: controls.iter().map(|&url| url.to_owned()).collect(),
            cluster: "default".to_owned(),
            log: self.log.clone(),
            place: place(self.network.as_ref(), &self.environment),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        };
        self.proxies.push(Proxy::start(&settings, &self.logs).await);
        index
    }

    /// Starts an upstream that no endpoint uses yet.
    pub async fn add_upstream(&mut self, name: &str) -> &Upstream {
        let upstream = match &self.network {
            None => Upstream::start().await,
            Some(_) => Upstream::start_at((Network::HERE, 0).into()).await,
        };
        self.upstreams.insert(name.to_owned(), upstream);
        &self.upstreams[name]
    }

    /// Runs any command whose output belongs to the test.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Process {
        Process::spawn(name, command, &self.logs)
    }

    /// A command for one of the product's binaries.
    pub fn command(&self, name: &str) -> Command {
        command(name)
    }

    /// Runs `qcc-ctl` against this control plane.
    pub async fn ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_with(arguments, &[], "").await
    }

    /// Runs `qcc-ctl` against this control plane, with an environment and an input.
    pub async fn ctl_with(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
        stdin: &str,
    ) -> Output {
        let url = self.control.url();
        let mut environment = environment.to_vec();
        environment.push(("QCC_CONTROL", &url));
        cli::run(arguments, &environment, stdin, &self.logs).await
    }

    /// Fails the test unless each attempt at these endpoints was reported and counted
    /// once. Only for proxies that have lived all the time, and once all is settled.
    pub async fn expect_every_outcome_once(&self, endpoints: &[&str]) {
        for &name in endpoints {
            let (mut attempts, mut successes) = (0, 0);
            for proxy in &self.proxies {
                let seen = proxy.endpoint(name).await.expect("the proxy answers");
                attempts += seen.attempts;
                successes += seen.successes;
                let status = proxy.status().await.expect("the proxy answers");
                assert_eq!(status.dropped_outcomes, 0, "{status:?}");
            }
            let stats = self.control.endpoint(name).await.stats.unwrap_or_default();
            let known = (stats.attempts + stats.stale, stats.successes);
            assert_eq!(known, (attempts, successes), "{name}");
            let arrived = self.upstreams[name].client_requests() as u64;
            assert_eq!(arrived, attempts, "{name}");
        }
    }

    /// Waits until every outcome is known to the control plane, and every proxy
    /// has applied what came of it.
    pub async fn settled(&self) {
        // Once for the reports, and once for the views that they led to.
        for _ in 0..2 {
            let view = self.control.view().await;
            for proxy in &self.proxies {
                proxy.settled(view).await;
            }
        }
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        for proxy in &self.proxies {
            proxy.kill();
        }
        self.control.kill();
        if std::thread::panicking() {
            for (name, text) in self.logs.texts() {
                let lines: Vec<_> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
                eprintln!("--- {name}\n{}", tail.join("\n"));
            }
            return;
        }
        let panics = self.logs.find("panicked at");
        assert!(panics.is_empty(), "a child panicked: {panics:#?}");
    }
}

/// What a testbed will consist of.
pub struct Builder {
    endpoints: Vec<Endpoint>,
    policy: ClusterPolicy,
    proxies: usize,
    relayed: bool,
    network: Option<Network>,
    environment: Vec<(String, String)>,
    log: String,
}

impl Builder {
    /// Adds endpoints, each with an upstream of its own. The first one is
    /// preferred, then the second, and so on.
    pub fn endpoints<'a>(self, names: impl IntoIterator<Item = &'a str>) -> Self {
        names
            .into_iter()
            .fold(self, |builder, name| builder.endpoint(name, |_| {}))
    }

    /// Adds an endpoint that differs from the usual one.
    pub fn endpoint(mut self, name: &str, change: impl FnOnce(&mut Endpoint)) -> Self {
        let priority = u32::try_from(self.endpoints.len()).expect("tests have few endpoints") + 1;
        let mut endpoint = Endpoint {
            name: name.to_owned(),
            cluster: "default".to_owned(),
            credential: Some(Credential {
                api_key: format!("key-of-{name}"),
                ..Default::default()
            }),
            priority: Some(priority),
            ..Default::default()
        };
        change(&mut endpoint);
        self.endpoints.push(endpoint);
        self
    }

    /// Changes the cluster's policy.
    pub fn policy(mut self, change: impl FnOnce(&mut ClusterPolicy)) -> Self {
        change(&mut self.policy);
        self
    }

    /// Leaves the endpoints unknown: nobody checks them before the first request.
    pub fn unchecked(self) -> Self {
        self.policy(|policy| {
            policy.check = Some(no_check());
            // Longer than a test, so that no timer puts an endpoint back.
            policy.verification = Some(schedule(Duration::from_secs(3600)));
        })
    }

    /// Checks failed endpoints again at once, and again.
    pub fn eager_checks(self) -> Self {
        self.policy(|policy| policy.verification = Some(schedule(Duration::from_millis(100))))
    }

    /// Checks failed endpoints only when somebody asks for it.
    pub fn patient_checks(self) -> Self {
        self.policy(|policy| policy.verification = Some(schedule(Duration::from_secs(3600))))
    }

    /// Starts that many proxies.
    pub fn proxies(mut self, proxies: usize) -> Self {
        self.proxies = proxies;
        self
    }

    /// Puts a relay between the proxies and the control plane.
    pub fn relayed(mut self) -> Self {
        self.relayed = true;
        self
    }

    /// Gives the control plane and each proxy a machine of its own.
    pub fn on(mut self, network: &Network) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Adds to the environment of all processes.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets what the processes log.
    pub fn log(mut self, filter: &str) -> Self {
        filter.clone_into(&mut self.log);
        self
    }

    async fn build(self) -> Testbed {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let logs = Logs::default();
        let place = place(self.network.as_ref(), &self.environment);
        let control = PathBuf::from(dir.path());
        let control = ControlPlane::first_start(control, place, &self.log, &logs).await;
        let mut testbed = Testbed {
            upstreams: BTreeMap::new(),
            proxies: Vec::new(),
            relay: None,
            control,
            network: self.network.clone(),
            environment: self.environment.clone(),
            log: self.log.clone(),
            logs,
            dir,
        };
        if self.relayed {
            testbed.relay = Some(Relay::start(testbed.control.address()).await);
        }
        let proxies = self.proxies;
        self.apply(&mut testbed).await;
        for _ in 0..proxies {
            testbed.add_proxy().await;
        }
        testbed
    }

    async fn apply(self, testbed: &mut Testbed) {
        let mut endpoints = self.endpoints;
        for endpoint in &mut endpoints {
            let upstream = testbed.add_upstream(&endpoint.name).await.url();
            if endpoint.base_url.is_empty() {
                endpoint.base_url = upstream;
                endpoint.allow_plaintext = testbed.network.is_some();
            }
        }
        let checked = !matches!(
            &self.policy.check,
            Some(Check {
                kind: Some(check::Kind::None(_)),
                ..
            })
        );
        let cluster = Cluster {
            name: "default".to_owned(),
            policy: Some(self.policy),
            ..Default::default()
        };
        let request = ApplyResourcesRequest {
            clusters: vec![cluster],
            endpoints: endpoints.clone(),
            ..Default::default()
        };
        let applied = testbed.control.resources().apply_resources(request).await;
        applied.expect("the testbed's resources are valid");
        if checked {
            for endpoint in &endpoints {
                testbed
                    .control
                    .eventually_is(&endpoint.name, HealthState::Healthy)
                    .await;
            }
        }
    }
}

impl IntoFuture for Builder {
    type Output = Testbed;
    type IntoFuture = Pin<Box<dyn Future<Output = Testbed>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.build())
    }
}

fn place(network: Option<&Network>, environment: &[(String, String)]) -> Place {
    Place {
        host: network.map(Network::host),
        environment: environment.to_vec(),
    }
}

/// Leaves an endpoint to its clients: time alone gives it another chance.
pub fn no_check() -> Check {
    Check {
        kind: Some(check::Kind::None(NoCheck {})),
        ..Default::default()
    }
}

/// Looks at failed endpoints again after this long, each time.
pub fn schedule(wait: Duration) -> VerificationSchedule {
    let wait = prost_types::Duration::try_from(wait).expect("a short duration");
    VerificationSchedule {
        first: Some(wait),
        max: Some(wait),
        auth_max: Some(wait),
        per_hour_max: Some(100_000),
    }
}
